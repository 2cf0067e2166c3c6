mod random;

use super::*;
use atalho_engine::conntrack::{Connection, Direction, Epochs, NewConnection, Rewrite, Segment};
use atalho_engine::flow::FlowKey;
use atalho_engine::service::{Backends, Endpoint, Route, Services, VipKind};
use atalho_engine::tables::Port;

const POD_PORT: u32 = 11;
const UPLINK: u32 = 2;
/// In order.
const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn vip_key(protocol: Protocol) -> VipKey {
    VipKey { address: ip("10.96.0.10"), protocol, port: 80 }
}

fn vip(endpoints: &[&str]) -> Arc<Vip> {
    let endpoints = endpoints
        .iter()
        .map(|a| Endpoint { address: ip(a), port: 8080, weight: 1, node: None, local: false })
        .collect();
    let backends = Arc::new(Backends { endpoints, ..Backends::default() });
    let side = Route { backends, masquerade: false, drop_without_backend: false };
    Arc::new(Vip::new("default/web:http".into(), VipKind::ClusterIP, side.clone(), side))
}

fn tables(endpoints: Option<&[&str]>) -> Tables {
    let mut tables = Tables::default();
    let pod = Port::Pod { name: "default/a".into(), addresses: vec![ip("10.244.1.10")] };
    tables.ports = Arc::new([(UPLINK, Port::Uplink), (POD_PORT, pod)].into_iter().collect());
    if let Some(endpoints) = endpoints {
        let put = |protocol| (vip_key(protocol), Some(vip(endpoints)));
        tables.services = Services::default().with_changes(ALL.map(put));
    }
    tables
}

/// A pod's connection to the VIP, translated to 10.244.2.7:8080.
fn connection(protocol: Protocol, src_port: u16, ingress: u32) -> NewConnection {
    let original = FlowKey { src: ip("10.244.1.10"), dst: ip("10.96.0.10"), src_port, dst_port: 80, protocol };
    let reply = FlowKey { src: ip("10.244.2.7"), dst: original.src, src_port: 8080, dst_port: src_port, protocol };
    NewConnection {
        original: Direction {
            key: original,
            rewrite: Rewrite { src: original.src, dst: reply.src, src_port, dst_port: 8080 },
            next_hop: 1,
            ingress,
        },
        reply: Direction {
            key: reply,
            rewrite: Rewrite { src: original.dst, dst: reply.dst, src_port: 80, dst_port: src_port },
            next_hop: 2,
            ingress: UPLINK,
        },
        is_service: true,
        first: Segment::Other,
    }
}

/// Which of a TCP, a UDP and an SCTP flow end under these tables.
fn ended(tables: &Tables, reconciler: &mut Reconciler, known: bool, ingress: u32) -> Vec<Protocol> {
    ended_with(tables, reconciler, known, ingress, &Inherited::new())
}

fn ended_with(
    tables: &Tables,
    reconciler: &mut Reconciler,
    known: bool,
    ingress: u32,
    inherited: &Inherited,
) -> Vec<Protocol> {
    let table = ConnTable::in_memory(64, &[3; atalho_layout::SECRET_WORDS]);
    let epochs = Epochs::new();
    for protocol in ALL {
        table.insert(0, &epochs, &connection(protocol, 40_000, ingress), 1).unwrap();
    }
    let is_known = |service: &str, endpoint| {
        assert_eq!(service, "default/web:http");
        assert_eq!(endpoint, (ip("10.244.2.7"), 8080));
        known
    };
    let cluster = Cluster { is_known: &is_known, inherited: &[inherited] };
    reconciler.scan(&table, 0..table.buckets(), tables, &cluster);
    let queues = vec![WorkerQueues::new(1), WorkerQueues::new(1)];
    assert!(reconciler.hand_over(&queues, &|_| {}));
    let all: Vec<Connection> = table.connections().collect();
    let mut ended = Vec::new();
    while let Some(at) = queues[0].end_flows.pop().or_else(|| queues[1].end_flows.pop()) {
        ended.extend(all.iter().find(|c| c.at == at).map(|c| c.protocol));
    }
    ended.sort();
    ended
}

#[test]
fn an_endpoint_that_is_still_a_choice_keeps_its_flows() {
    let none: [Protocol; 0] = [];
    assert_eq!(ended(&tables(Some(&["10.244.2.7"])), &mut Reconciler::default(), true, POD_PORT), none);
}

#[test]
fn an_endpoint_that_is_no_choice_loses_udp_and_keeps_tcp_while_a_slice_has_it() {
    let tables = tables(Some(&["10.244.2.8"]));
    assert_eq!(ended(&tables, &mut Reconciler::default(), true, POD_PORT), [Protocol::Udp]);
    assert_eq!(ended(&tables, &mut Reconciler::default(), false, POD_PORT), ALL);
}

#[test]
fn an_address_that_went_keeps_connections_while_its_service_has_the_endpoint() {
    let tables = tables(None);
    let mut reconciler = Reconciler::default();
    ALL.iter().for_each(|protocol| reconciler.depart(vip_key(*protocol), &vip(&[])));
    assert_eq!(ended(&tables, &mut reconciler, true, POD_PORT), [Protocol::Udp]);
    assert_eq!(ended(&tables, &mut Reconciler::default(), true, POD_PORT), ALL);
}

#[test]
fn a_pod_that_is_gone_takes_its_flows_with_it() {
    let tables = tables(Some(&["10.244.2.7"]));
    assert_eq!(ended(&tables, &mut Reconciler::default(), true, POD_PORT + 1), ALL);
}

#[test]
fn an_address_that_is_another_pods_by_now_gets_nothing_of_its_predecessors() {
    let of = |service: &str, address| Inherited::from([(service.into(), [ip(address)].into())]);
    let ended = |tables: &Tables, inherited: &Inherited| {
        ended_with(tables, &mut Reconciler::default(), true, POD_PORT, inherited)
    };
    let tables = tables(Some(&["10.244.2.7"]));
    assert_eq!(ended(&tables, &of("default/web", "10.244.2.7")), ALL);
    // Another's endpoint, another Service's.
    let none: [Protocol; 0] = [];
    assert_eq!(ended(&tables, &of("default/web", "10.244.2.8")), none);
    assert_eq!(ended(&tables, &of("default/other", "10.244.2.7")), none);
}

#[test]
fn what_was_found_and_waits_is_not_forgotten_when_its_reason_is() {
    let table = ConnTable::in_memory(64, &[3; atalho_layout::SECRET_WORDS]);
    table.insert(0, &Epochs::new(), &connection(Protocol::Tcp, 40_000, POD_PORT), 1).unwrap();
    let tables = tables(Some(&["10.244.2.7"]));
    let mut reconciler = Reconciler::default();
    let heirs = Inherited::from([("default/web".into(), [ip("10.244.2.7")].into())]);
    for inherited in [heirs, Inherited::new()] {
        let cluster = Cluster { is_known: &|_, _| true, inherited: &[&inherited] };
        reconciler.scan(&table, 0..table.buckets(), &tables, &cluster);
        assert_eq!(reconciler.waiting(), 1);
    }
}

#[test]
fn a_full_queue_keeps_the_rest_for_later() {
    let waiting = (0..5000).map(|slot| FlowRef { is_ipv6: false, slot, sequence: 1 }).collect();
    let mut reconciler = Reconciler { waiting, ..Default::default() };
    let queues = vec![WorkerQueues::new(1)];
    assert!(!reconciler.hand_over(&queues, &|_| {}));
    assert_eq!(reconciler.waiting.len(), 5000 - 4096);
    while queues[0].end_flows.pop().is_some() {}
    assert!(reconciler.hand_over(&queues, &|_| {}));
    assert_eq!(queues[0].end_flows.len(), 5000 - 4096);
}

#[test]
fn the_walk_waits_for_workers_where_everything_ends() {
    const FLOWS: u16 = 30_000;
    let secret = std::array::from_fn(|i| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2 * i as u64 + 3));
    let (table, epochs) = (ConnTable::in_memory(65_536, &secret), Epochs::new());
    for port in 0..FLOWS {
        table.insert(0, &epochs, &connection(Protocol::Udp, port, POD_PORT), 1).unwrap();
    }
    let (tables, queues) = (tables(None), vec![WorkerQueues::new(1)]);
    let (mut reconciler, mut walk, since) = (Reconciler::default(), Walk::new(table.buckets()), Instant::now());
    walk.publish(1, since);
    walk.begin(|_| true, Inherited::new);
    let (mut ended, mut over) = (0, Vec::new());
    while !walk.rests() || reconciler.waiting() > 0 {
        over.extend(reconciler.walk(&mut walk, &table, &tables, &|_, _| true, || false));
        assert!(reconciler.waiting() < WAITING_MAX + STEP as usize * 32, "{} wait", reconciler.waiting());
        reconciler.hand_over(&queues, &|_| {});
        while let Some(at) = queues[0].end_flows.pop() {
            ended += u16::from(table.end(&epochs, at));
        }
    }
    assert_eq!((ended, table.count(), over), (FLOWS, 0, vec![since]));
}
