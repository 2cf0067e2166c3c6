//! The daemon's books against counts that it does not make: the kernel's link statistics and its own programs' counters.

use atalho_benches::lab::network::link_packets;
use atalho_benches::lab::plan::Plan;
use atalho_benches::lab::session::Session;

use crate::support::{assert_all_paths_work, ready, skipped, turn};

/// Counts of one quiet moment.
struct Counts {
    received: u64,
    sent: u64,
    uplink_claim: u64,
    funnel_claim: u64,
    delivered: u64,
    own_on_uplink: u64,
    uplink: (u64, u64),
    funnel: (u64, u64),
    funnel_end: (u64, u64),
}

fn counts(session: &Session) -> Counts {
    let node = session.plan().node();
    let status = session.daemon().unwrap().settled_status().unwrap();
    assert!(status.is_even(), "{status:?}");
    let kernel = |name: &str| *status.kernel.get(name).unwrap_or_else(|| panic!("no counter {name}: {status:?}"));
    Counts {
        received: status.received,
        sent: status.forwarded + status.originated,
        uplink_claim: kernel("uplink_claim"),
        funnel_claim: kernel("funnel_claim"),
        delivered: kernel("deliver_pod") + kernel("deliver_node"),
        own_on_uplink: kernel("egress_pass"),
        uplink: link_packets(&node, "uplink").unwrap(),
        funnel: link_packets(&node, "atl-f0").unwrap(),
        funnel_end: link_packets(&node, "atl-f1").unwrap(),
    }
}

#[test]
fn every_packet_is_counted_as_the_kernel_counts_it() {
    if skipped("every_packet_is_counted_as_the_kernel_counts_it") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-books"));
    // The first packets of a start, neighbours and listeners of groups, are over.
    session.listen(std::time::Duration::from_secs(2)).unwrap();
    let before = counts(&session);
    assert_all_paths_work(&mut session, 4.0);
    let after = counts(&session);
    let grown = |count: fn(&Counts) -> u64| count(&after) - count(&before);
    assert!(grown(|c| c.received) > 1000, "hardly any traffic: {}", grown(|c| c.received));
    // In: what the kernel programs handed over is what the workers received, none lost between.
    assert_eq!(grown(|c| c.received), grown(|c| c.uplink_claim + c.funnel_claim));
    // The funnel carries nothing else, in either direction.
    assert_eq!(grown(|c| c.funnel_claim), grown(|c| c.funnel.0));
    assert_eq!(grown(|c| c.delivered), grown(|c| c.funnel_end.0));
    assert_eq!(grown(|c| c.funnel.1), grown(|c| c.funnel_end.0));
    // Out: what the workers sent is what the links sent, less the node's own packets. The node's own neighbour
    // discovery may slip between two readings.
    let by_links = grown(|c| c.uplink.1 + c.funnel.1) as i64 - grown(|c| c.own_on_uplink) as i64;
    let by_workers = grown(|c| c.sent) as i64;
    assert!((by_links - by_workers).abs() <= 4, "links sent {by_links}, workers {by_workers}");
}
