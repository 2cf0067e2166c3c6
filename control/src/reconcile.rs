//! Which flows end because the tables changed. A scan of the whole connection table judges every connection against
//! the tables as they are now, so that it does not matter which event made them so, nor whether we were there to see it.
//! Control only finds them: workers end them.
//!
//! - A flow whose port is gone, on either side, ends: the pod that had it is gone, and its address may be given anew.
//! - UDP through a Service ends once its endpoint is no longer a choice; the next datagram is given another one.
//! - TCP and SCTP through a Service run on while any slice still has the endpoint, ready or not: they have more to lose than a
//!   datagram. What their clients send after the end is answered with a reset or an abort, and they begin anew.
//! - Whatever leads to an endpoint's address ends where that address is another pod's by now: nobody gets his predecessor's.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atalho_engine::conntrack::{ConnTable, Connection, FlowRef};
use atalho_engine::flow::Protocol;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::service::{Vip, VipKey};
use atalho_engine::tables::Tables;

use crate::model::Inherited;

/// Shortest time between two scans: changes gather meanwhile.
pub const PAUSE: Duration = Duration::from_millis(100);

/// Service and endpoint of a flow that is not among the choices: is the endpoint still in a slice of that Service?
pub type IsKnown<'a> = dyn Fn(&str, (IpAddr, u16)) -> bool + 'a;

/// What is known of the cluster, as far as tables do not say it.
pub struct Cluster<'a> {
    pub is_known: &'a IsKnown<'a>,
    pub inherited: &'a Inherited,
}

/// What scans need to remember.
#[derive(Debug, Default)]
pub struct Reconciler {
    /// Names of VIPs that went away, for the TCP flows that they left.
    departed: HashMap<VipKey, Arc<str>>,
    /// Found, but not yet handed to a worker whose queue was full.
    waiting: Vec<FlowRef>,
}

impl Reconciler {
    /// Notes that `vip` went away.
    pub fn depart(&mut self, key: VipKey, vip: &Vip) {
        self.departed.insert(key, vip.service.clone());
    }

    /// Scans the table for what must end.
    pub fn scan(&mut self, table: &ConnTable, tables: &Tables, cluster: &Cluster<'_>) {
        self.departed.retain(|key, _| tables.services.look_up(key).is_none());
        let mut judge = Judge { tables, departed: &self.departed, cluster, choices: HashMap::new() };
        // Those that wait already were found by reasons that may be forgotten meanwhile.
        let wait: HashSet<FlowRef> = self.waiting.iter().copied().collect();
        let found = table.connections().filter(|connection| judge.ends(connection)).map(|c| c.at);
        self.waiting.extend(found.filter(|at| !wait.contains(at)));
    }

    /// How many of those that were found wait for room in a worker's queue.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Hands what was found to the workers and wakes those that sleep. `true`: all of it found room.
    pub fn hand_over(&mut self, queues: &[Arc<WorkerQueues>], wake: &(dyn Fn(usize) + Send + Sync)) -> bool {
        let mut rung = vec![false; queues.len()];
        self.waiting.retain(|at| {
            // Any worker may end any flow; by slot they share the work evenly.
            let Some(worker) = (at.slot as usize).checked_rem(queues.len()) else { return false };
            let taken = queues[worker].end_flows.push(*at).is_ok();
            rung[worker] |= taken;
            !taken
        });
        for (worker, _) in rung.iter().enumerate().filter(|(_, pushed)| **pushed) {
            if queues[worker].is_asleep() {
                wake(worker);
            }
        }
        self.waiting.is_empty()
    }
}

struct Judge<'a> {
    tables: &'a Tables,
    departed: &'a HashMap<VipKey, Arc<str>>,
    cluster: &'a Cluster<'a>,
    /// Endpoints that a VIP may choose now; one entry per VIP that has flows.
    choices: HashMap<VipKey, HashSet<(IpAddr, u16)>>,
}

impl Judge<'_> {
    fn ends(&mut self, connection: &Connection) -> bool {
        let has_port = |ifindex: u32| self.tables.ports.contains_key(&ifindex);
        if !has_port(connection.original.ingress) || !has_port(connection.reply.ingress) {
            return true;
        }
        if !connection.is_service {
            return false;
        }
        let key = &connection.original.key;
        let vip_key = VipKey { address: key.dst, protocol: key.protocol, port: key.dst_port };
        let endpoint = (connection.original.rewrite.dst, connection.original.rewrite.dst_port);
        let vip = self.tables.services.look_up(&vip_key);
        let service = vip.map(|vip| &vip.service).or_else(|| self.departed.get(&vip_key));
        if service.is_some_and(|service| self.has_heir(service, endpoint.0)) {
            return true;
        }
        if let Some(vip) = vip {
            let choices = self.choices.entry(vip_key).or_insert_with(|| choices_of(vip));
            if choices.contains(&endpoint) {
                return false;
            }
        }
        if matches!(key.protocol, Protocol::Udp) {
            return true;
        }
        // A Service that nobody can name went while we were away: nobody can vouch for its endpoint either.
        !service.is_some_and(|service| (self.cluster.is_known)(service, endpoint))
    }

    /// `service`: as in the tables, with its port.
    fn has_heir(&self, service: &str, address: IpAddr) -> bool {
        let name = service.rsplit_once(':').map_or(service, |(name, _)| name);
        self.cluster.inherited.get(name).is_some_and(|addresses| addresses.contains(&address))
    }
}

fn choices_of(vip: &Vip) -> HashSet<(IpAddr, u16)> {
    let sides = [&vip.inside, &vip.outside];
    sides.iter().flat_map(|side| side.backends.endpoints.iter()).map(|e| (e.address, e.port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use atalho_engine::conntrack::{Direction, Epochs, NewConnection, Rewrite, Segment};
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
        reconciler.scan(&table, tables, &Cluster { is_known: &is_known, inherited });
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
            reconciler.scan(&table, &tables, &Cluster { is_known: &|_, _| true, inherited: &inherited });
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
}
