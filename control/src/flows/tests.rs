use std::collections::HashSet;
use std::sync::Arc;

use atalho_engine::conntrack::{Direction, Epochs, NewConnection, Rewrite, Segment};
use atalho_engine::flow::{FlowKey, Protocol};
use atalho_engine::service::{Route, VipKind};

use super::command::text;
use super::*;
use crate::status::Collector;
use crate::status::tests::collector;

/// The VIP of default/web:http is 10.96.0.10:80; the pod of the collector's snapshot sends to it.
fn with_flows(count: u16) -> Collector {
    let mut collector = collector();
    // Keys that differ in a port only must not meet in one bucket.
    let secret = std::array::from_fn(|n| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2 * n as u64 + 3));
    collector.table = atalho_engine::conntrack::ConnTable::in_memory(16_384, &secret);
    let mut tables = Tables::clone(&collector.snapshot.load());
    let route = Route { backends: Arc::default(), masquerade: false, drop_without_backend: false };
    let vip = atalho_engine::service::Vip::new("default/web:http".into(), VipKind::ClusterIP, route.clone(), route);
    let key = VipKey { address: [10, 96, 0, 10].into(), protocol: Protocol::Udp, port: 80 };
    tables.services = tables.services.with_changes([(key, Some(Arc::new(vip)))]);
    let pod = Port::Pod { name: "default/loud".into(), addresses: vec![[10, 244, 0, 2].into()] };
    tables.ports = Arc::new([(7, pod), (2, Port::Uplink)].into_iter().collect());
    collector.snapshot.store(Arc::new(tables));
    let epochs = Epochs::new();
    for n in 0..count {
        insert(&collector, &epochs, 7, ([10, 244, 0, 2], 1000 + n), ([10, 96, 0, 10], 80), ([10, 244, 0, 3], 8080));
        insert(&collector, &epochs, 2, ([192, 0, 2, 1], 1000 + n), ([10, 244, 0, 3], 53), ([10, 244, 0, 3], 53));
    }
    collector
}

fn insert(
    collector: &Collector,
    epochs: &Epochs,
    ingress: u32,
    source: ([u8; 4], u16),
    to: ([u8; 4], u16),
    new: ([u8; 4], u16),
) {
    let key = |(src, src_port): ([u8; 4], u16), (dst, dst_port): ([u8; 4], u16)| FlowKey {
        src: src.into(),
        dst: dst.into(),
        src_port,
        dst_port,
        protocol: Protocol::Udp,
    };
    let rewrite = |key: FlowKey| Rewrite { src: key.src, dst: key.dst, src_port: key.src_port, dst_port: key.dst_port };
    let connection = NewConnection {
        original: Direction { key: key(source, to), rewrite: rewrite(key(source, new)), next_hop: 1, ingress },
        reply: Direction { key: key(new, source), rewrite: rewrite(key(to, source)), next_hop: 1, ingress: 9 },
        is_service: to != new,
        first: Segment::Other,
    };
    collector.table.insert(0, epochs, &connection, 990).unwrap();
}

/// Every row that the filter lets through, and the number of parts it took.
fn all(collector: &Collector, filter: Filter) -> (Vec<FlowRow>, usize) {
    let (mut asked, mut rows, mut parts) = (Asked { from: 0, filter }, Vec::new(), 0);
    loop {
        let part = part(collector, &asked).unwrap();
        rows.extend(part.flows);
        parts += 1;
        match part.next {
            Some(next) => asked.from = next,
            None => return (rows, parts),
        }
    }
}

#[test]
fn all_flows_are_told_in_bounded_parts_each_once() {
    let collector = with_flows(1000);
    let (rows, parts) = all(&collector, Filter::default());
    let distinct: HashSet<_> = rows.iter().map(|row| (&row.source, &row.destination)).collect();
    assert_eq!((rows.len(), distinct.len()), (2000, 2000));
    assert_eq!(parts as u64, collector.table.buckets().div_ceil(BUCKETS));
    assert!(parts > 1, "the table is larger than one part");
}

#[test]
fn a_flow_is_told_with_its_service_its_port_and_its_translation() {
    let (rows, _) = all(&with_flows(1), Filter { service: Some("default/web".into()), ..Filter::default() });
    let row = &rows[0];
    assert_eq!((rows.len(), row.service.as_deref()), (1, Some("default/web:http")));
    assert_eq!((row.came_in.as_deref(), row.idle_s, row.state.as_str()), (Some("pod:default/loud"), 10, "UNREPLIED"));
    let line = text(row);
    for part in ["UDP", "10 s", "10.244.0.2:1000", "10.96.0.10:80", "to 10.244.0.3:8080", "default/web:http"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
}

#[test]
fn filters_hold_together() {
    let collector = with_flows(3);
    let count = |filter: Filter| all(&collector, filter).0.len();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(count(Filter { service: text("default/web:http"), ..Filter::default() }), 3);
    assert_eq!(count(Filter { service: text("default/we"), ..Filter::default() }), 0, "a part of a name is none");
    assert_eq!(count(Filter { pod: text("default/loud"), ..Filter::default() }), 3);
    assert_eq!(count(Filter { address: text("192.0.2.0/24"), ..Filter::default() }), 3);
    assert_eq!(count(Filter { address: text("10.244.0.3"), ..Filter::default() }), 6);
    assert_eq!(count(Filter { port: Some(8080), ..Filter::default() }), 3);
    assert_eq!(count(Filter { port: Some(1001), ..Filter::default() }), 2);
    assert_eq!(count(Filter { port: Some(1001), pod: text("default/loud"), ..Filter::default() }), 1);
    assert_eq!(count(Filter { protocol: text("tcp"), ..Filter::default() }), 0);
    assert_eq!(count(Filter { protocol: text("udp"), state: text("unreplied"), ..Filter::default() }), 6);
    assert_eq!(count(Filter { state: text("ASSURED"), ..Filter::default() }), 0);
}

#[test]
fn a_filter_that_makes_no_sense_is_refused() {
    let collector = collector();
    for (filter, word) in [
        (Filter { pod: Some("default/quiet".into()), ..Filter::default() }, "default/quiet"),
        (Filter { address: Some("10.244".into()), ..Filter::default() }, "10.244"),
        (Filter { protocol: Some("GRE".into()), ..Filter::default() }, "SCTP"),
        (Filter { state: Some("OPEN".into()), ..Filter::default() }, "ESTABLISHED"),
    ] {
        let error = part(&collector, &Asked { from: 0, filter }).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}
