//! How long the parts of a run take, about, on two shared cores: for the time left, and so that no run is longer than it says.

use super::alone::Part;
use super::control::ControlGroup;
use super::control::ours::Asked;
use super::groups::{Chosen, Entry, Group, LatencyGroup};
use super::latency::{RATE_SEARCH, RATE_SECONDS};
use super::live::{CONTROL_SECONDS, FIRST_SEARCH, FRESH_SECONDS_MAX, SEARCH, SEARCH_SECONDS, admission_s};
use super::peer::Peer;
use super::programs::Flows;
use super::sites::LiveOptions;

/// Of every stretch: figures before and after, and what is under way meanwhile.
const BESIDE_STRETCH_S: f64 = 0.09;
/// Conntrack's entries are thrown away before every stretch of new flows.
const FORGETTING_S: f64 = 0.1;
const HANDOVER_S: f64 = 0.1;
/// Of one turn of probes, on an idle node and beside traffic.
const PROBING_S: f64 = 0.15;

/// What no run is to take longer than: rounds are repeated only while there is time for it.
pub fn limit_s(quick: bool) -> f64 {
    if quick { 290.0 } else { 25.0 * 60.0 }
}

/// Seconds that it takes to build a node.
pub fn of_building_s(peer: Peer) -> f64 {
    match peer {
        Peer::Kernel | Peer::L2fwd => 2.0,
        Peer::Testpmd => 4.0,
        Peer::Worker { services, .. } => 4.0 + f64::from(services) / 5e3,
        // An API server, so many objects put to it, and the kernel that takes ever longer for the rules.
        Peer::KubeProxy(services) => 14.0 + 0.012 * f64::from(services) + of_rules_s(services),
    }
}

/// One round of a group.
pub fn of_round_s(group: &Group, options: &LiveOptions) -> f64 {
    let entry = |entry: &Entry| {
        if entry.spread {
            SEARCH.tries as f64 * of_stretch_s(entry, SEARCH_SECONDS)
        } else {
            of_stretch_s(entry, options.seconds)
        }
    };
    HANDOVER_S + of_controls_s(group.entries.len()) + group.entries.iter().map(entry).sum::<f64>()
}

/// Lasting flows begun, the first searches, and all entries at their bearable rates.
pub fn of_rest_s(group: &Group, options: &LiveOptions) -> f64 {
    let paced = |entry: &Entry| options.paced as f64 * of_stretch_s(entry, options.seconds);
    let first_search = |entry: &Entry| {
        if entry.spread { FIRST_SEARCH.tries as f64 * of_stretch_s(entry, SEARCH_SECONDS) } else { 0.0 }
    };
    group.entries.iter().map(|entry| admission_s(entry) + first_search(entry) + paced(entry)).sum()
}

/// The search for everybody's highest rate without loss.
pub fn of_rates_s(group: &LatencyGroup) -> f64 {
    let busy = group.entries.iter().filter(|entry| !entry.fresh).count();
    (busy * (RATE_SEARCH.tries + 1)) as f64 * (RATE_SECONDS + BESIDE_STRETCH_S)
}

/// One round of probes.
pub fn of_probes_s(group: &LatencyGroup) -> f64 {
    let probes = group.entries.iter().map(|entry| if entry.fresh { PROBING_S } else { 4.0 * PROBING_S });
    HANDOVER_S + of_controls_s(group.entries.len()) + probes.sum::<f64>()
}

/// One round of control beside nftables.
pub fn of_control_round_s(group: &ControlGroup, round: usize) -> f64 {
    // Chains take longer the more there are.
    let chains_s = 95.0 * (f64::from(group.services) / 1e4).powi(2);
    let load_s = if round < group.loads { of_rules_s(group.services) + chains_s } else { 0.0 };
    let asked = Asked { services: group.services, endpoints: 10, changes: group.changes };
    // A transaction takes its time with the rules that stand.
    load_s + of_cluster_s(asked) + 2.0 * f64::from(group.services) / 1e4
}

/// One run of a cluster that nftables is spared: objects taken in, tables, changes one by one.
pub fn of_cluster_s(asked: Asked) -> f64 {
    let Asked { services, endpoints, changes } = asked;
    0.5 + f64::from(services) / 2e4 + f64::from(services) * f64::from(endpoints) / 1.5e5 + 0.085 * f64::from(changes)
}

fn of_control_s(group: &ControlGroup) -> f64 {
    let rounds: f64 = (0..group.rounds).map(|round| of_control_round_s(group, round)).sum();
    let alone = group.alone.iter().map(|asked| group.runs_of(*asked) as f64 * of_cluster_s(*asked));
    // Listing the rules comes first.
    rounds + alone.sum::<f64>() + 10.0 * f64::from(group.services) / 1e4
}

/// The kernel takes ever longer.
fn of_rules_s(services: u32) -> f64 {
    100.0 * (f64::from(services) / 1e4).powi(2)
}

pub fn of_part_s(part: Part, quick: bool) -> f64 {
    let full_s = match part {
        Part::Engine => 20.0,
        Part::Table => 25.0,
        Part::Density => 15.0,
        Part::Scale => 10.0,
        Part::Setup => 25.0,
    };
    if quick { full_s / 2.5 } else { full_s }
}

/// All of it, without a round repeated.
pub fn of_run_s(chosen: &Chosen, options: &LiveOptions, quick: bool) -> f64 {
    let mut peers: Vec<Peer> = chosen.peers().collect();
    peers.sort_by_key(|peer| peer.label());
    peers.dedup();
    let rounds = options.pairs as f64;
    let of_group = |group: &Group| rounds * of_round_s(group, options) + of_rest_s(group, options);
    peers.into_iter().map(of_building_s).sum::<f64>()
        + chosen.groups.iter().map(of_group).sum::<f64>()
        + chosen.latency.iter().map(|group| of_rates_s(group) + rounds * of_probes_s(group)).sum::<f64>()
        + chosen.control.iter().map(of_control_s).sum::<f64>()
        + chosen.alone.iter().map(|part| of_part_s(*part, quick)).sum::<f64>()
}

/// Of a round: one before each entry, and one more.
fn of_controls_s(entries: usize) -> f64 {
    (entries + 1) as f64 * (CONTROL_SECONDS + BESIDE_STRETCH_S)
}

fn of_stretch_s(entry: &Entry, seconds: f64) -> f64 {
    match entry.flows {
        Flows::Lasting(_) => seconds + BESIDE_STRETCH_S,
        Flows::Fresh => seconds.min(FRESH_SECONDS_MAX) + BESIDE_STRETCH_S + FORGETTING_S,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::bench::contender::Tools;
    use crate::bench::groups;

    /// With so many rounds repeated.
    fn run_s(quick: bool, repeats: usize) -> f64 {
        let tools = Tools { atalho: PathBuf::new(), lab: PathBuf::new(), bench: PathBuf::new() };
        let options = LiveOptions::new(tools, "test", quick);
        let rounds = options.pairs + repeats;
        of_run_s(&groups::chosen(&[], quick), &LiveOptions { pairs: rounds, ..options }, quick)
    }

    #[test]
    fn a_run_is_no_longer_than_it_says() {
        assert!(run_s(true, 0) < limit_s(true), "{}", run_s(true, 0));
        // With all the repeats that it may have.
        assert!(run_s(false, 7) < limit_s(false), "{}", run_s(false, 7));
    }
}
