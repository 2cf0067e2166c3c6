//! Whose round trips are timed, and what is asked of them.

use super::{Comparison, LatencyEntry, LatencyGroup, SERVICES_FEW, many};
use crate::bench::peer::Peer;
use crate::bench::programs::Flows;
use crate::bench::ratio::Goal;

/// Who is probed.
pub fn latency(quick: bool) -> LatencyGroup {
    let (most, not_judged) = many(quick);
    let entry = |peer, fresh| LatencyEntry { peer, fresh };
    let command = "./scripts/bench --full latency";
    let few = Peer::worker(SERVICES_FEW, Flows::Lasting(1024));
    let entries = vec![
        entry(few, false),
        entry(Peer::L2fwd, false),
        entry(Peer::Kernel, false),
        entry(Peer::KubeProxy(most), false),
        entry(Peer::worker(most, Flows::Fresh), true),
        entry(Peer::KubeProxy(most), true),
    ];
    let goal = |what, accept, aim| Goal { number: 9, what, command, accept, aim };
    let established = Comparison {
        goal: Some(goal("round trip, pipeline / raw AF_XDP l2fwd", 1.15, 1.05)),
        case: "p50, one flow".into(),
        above: 0,
        below: vec![1],
        not_judged: None,
    };
    let fresh = Comparison {
        goal: Some(goal("round trip, pipeline / kube-proxy nftables", 1.0, 0.8)),
        case: format!("p50, every probe a new flow, {most} Services"),
        above: 4,
        below: vec![5],
        not_judged,
    };
    LatencyGroup { entries, comparisons: vec![established, fresh] }
}
