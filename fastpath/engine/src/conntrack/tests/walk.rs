//! Walking through the table in parts.

use std::collections::HashSet;

use super::*;

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
