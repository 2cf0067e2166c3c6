//! The pipeline beside kube-proxy's rules, and with many Services beside few: lasting flows and new ones.

use super::{Comparison, Entry, Group, SERVICES_FEW, SERVICES_QUICK, lasting_of, many};
use crate::bench::peer::Peer;
use crate::bench::programs::Flows;
use crate::bench::ratio::Goal;

const BESIDE_RULES: &str = "pipeline / kube-proxy nftables, its better layout";

pub fn lasting(quick: bool) -> Group {
    let (most, not_judged) = many(quick);
    let of = |peer: Peer, flows| lasting_of(peer, flows);
    let [few, many] = [SERVICES_FEW, most].map(|services| Peer::worker(services, Flows::Lasting(1024)));
    let rules = Peer::KubeProxy(most);
    let mut entries = vec![
        of(few, 1024),
        of(many, 1024),
        of(rules, 1024),
        spread(of(rules, 1024)),
        of(many, 65_536),
        of(rules, 65_536),
        spread(of(rules, 65_536)),
        of(Peer::KubeProxy(SERVICES_FEW), 1024),
        of(Peer::KubeProxy(SERVICES_FEW), 65_536),
    ];
    if !quick {
        entries.extend([of(Peer::KubeProxy(SERVICES_QUICK), 1024), of(Peer::KubeProxy(SERVICES_QUICK), 65_536)]);
    }
    let beside = |flows: &str, above, below, accept, aim| Comparison {
        goal: Some(Goal { number: 3, what: BESIDE_RULES, command: "./scripts/bench --full services", accept, aim }),
        case: format!("{flows} lasting flows, {most} Services"),
        above,
        below,
        not_judged: not_judged.clone(),
    };
    let comparisons = vec![
        beside("1,024", 1, vec![2, 3], 1.4, 1.6),
        beside("65,536", 4, vec![5, 6], 1.9, 2.5),
        more_services("lasting", "./scripts/bench --full services", 0.98, most, not_judged.clone()),
    ];
    Group { name: "services", entries, comparisons }
}

pub fn fresh(quick: bool) -> Group {
    let (most, not_judged) = many(quick);
    let rules = Peer::KubeProxy(most);
    let mut entries = vec![
        fresh_of(Peer::worker(SERVICES_FEW, Flows::Fresh)),
        fresh_of(Peer::worker(most, Flows::Fresh)),
        fresh_of(rules),
        spread(fresh_of(rules)),
        fresh_of(Peer::KubeProxy(SERVICES_FEW)),
    ];
    if !quick {
        entries.push(fresh_of(Peer::KubeProxy(SERVICES_QUICK)));
    }
    let command = "./scripts/bench --full new-flows";
    let beside = Comparison {
        goal: Some(Goal { number: 3, what: BESIDE_RULES, command, accept: 5.0, aim: 8.0 }),
        case: format!("every packet a new flow, {most} Services"),
        above: 1,
        below: vec![2, 3],
        not_judged: not_judged.clone(),
    };
    let comparisons = vec![beside, more_services("new", command, 0.95, most, not_judged)];
    Group { name: "new-flows", entries, comparisons }
}

fn fresh_of(peer: Peer) -> Entry {
    Entry { peer, flows: Flows::Fresh, spread: false }
}

fn spread(entry: Entry) -> Entry {
    Entry { spread: true, ..entry }
}

/// The first entry of a group has few Services, the second one the most.
fn more_services(kind: &str, command: &'static str, accept: f64, most: u32, not_judged: Option<String>) -> Comparison {
    Comparison {
        goal: Some(Goal { number: 4, what: "pipeline with many Services / with few", command, accept, aim: 1.0 }),
        case: format!("{most} / {SERVICES_FEW}, {kind} flows"),
        above: 1,
        below: vec![0],
        not_judged,
    }
}
