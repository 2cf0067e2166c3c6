//! Walking through the table in parts.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::service::VipKey;
use crate::tables::Port;

#[test]
fn a_walk_in_parts_meets_every_connection_of_both_families_once() {
    let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
    for is_ipv6 in [false, true] {
        for port in 0..300 {
            let new = to_service(is_ipv6, Protocol::Udp, (1, 4000 + port), 7);
            table.insert(0, &epochs, &new, 100).unwrap();
        }
    }
    let whole: HashSet<FlowRef> = table.connections().map(|connection| connection.at).collect();
    assert_eq!(whole.len(), 600);
    for step in [1, 7, table.buckets() / 2 + 1, u64::from(u32::MAX) * 2] {
        let starts = (0..table.buckets()).step_by(step as usize);
        let parts = starts.flat_map(|at| table.connections_in(at..at + step).map(|connection| connection.at));
        let met: Vec<FlowRef> = parts.collect();
        assert_eq!((met.len(), met.into_iter().collect::<HashSet<_>>()), (600, whole.clone()), "parts of {step}");
    }
    assert_eq!(table.connections_in(table.buckets()..u64::MAX).count(), 0);
}

#[test]
fn who_may_not_be_borne_out_is_met_in_parts_too() {
    let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
    let mut all = Vec::new();
    for is_ipv6 in [false, true] {
        for port in 0..300 {
            let new = to_service(is_ipv6, Protocol::Udp, (1, 4000 + port), 7);
            let new = NewConnection { is_service: port % 3 == 0, ..new };
            all.push((new, table.insert(0, &epochs, &new, 100).unwrap().flow.at));
        }
    }
    let suspects = |ports: &[u32]| {
        let ports = ports.iter().map(|port| (*port, Port::Uplink)).collect();
        let mut met = Vec::new();
        (0..table.buckets()).step_by(7).for_each(|at| table.suspects_in(at..at + 7, &ports, &mut |s| met.push(s)));
        met
    };
    let chosen: HashMap<FlowRef, Suspicion> = all
        .iter()
        .filter(|(new, _)| new.is_service)
        .map(|(new, at)| {
            let Direction { key, rewrite, .. } = new.original;
            let vip = VipKey { address: key.dst, protocol: key.protocol, port: key.dst_port };
            (*at, Suspicion::Chosen { vip, endpoint: (rewrite.dst, rewrite.dst_port) })
        })
        .collect();
    let met = suspects(&[11, 12]);
    assert_eq!((met.len(), met.iter().map(|s| (s.at, s.why)).collect::<HashMap<_, _>>()), (200, chosen));
    // The port of either direction: named by the original all the same.
    let everybody: HashSet<FlowRef> = all.iter().map(|(_, at)| *at).collect();
    for (ports, times) in [(&[11][..], 1), (&[12], 1), (&[], 2)] {
        let portless = suspects(ports).into_iter().filter(|s| s.why == Suspicion::Portless);
        let met: Vec<FlowRef> = portless.map(|s| s.at).collect();
        assert_eq!((met.len(), met.into_iter().collect::<HashSet<_>>()), (600 * times, everybody.clone()), "{ports:?}");
    }
    all.iter().for_each(|(_, at)| assert!(table.end(&epochs, *at)));
    assert!(suspects(&[]).is_empty());
}
