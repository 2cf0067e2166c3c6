//! What is compared with what, and how much is asked for: the one list. A group is measured in turns, entry by entry, so
//! that its ratios are taken between neighbours in time.

use super::cluster::Cluster;
use super::contender::Contender;
use super::contender::kernel::Kernel;
use super::contender::kube_proxy::KubeProxy;
use super::contender::l2fwd::L2fwd;
use super::contender::testpmd::Testpmd;
use super::contender::worker::Worker;
use super::programs::{FLOWS_MAX, Flows};
use super::ratio::Goal;

/// Services of the large cluster of a full run, for which the ratios with kube-proxy are asked; a quick run has fewer.
const SERVICES_FULL: u32 = 10_000;
const SERVICES_QUICK: u32 = 1_000;
const SERVICES_FEW: u32 = 10;

const BESIDE_RULES: &str = "pipeline / kube-proxy nftables";

/// Everybody there is, by the number of Services where that makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Datagrams' flows that are not answered live for so many seconds.
    Worker {
        services: u32,
        udp_s: u32,
    },
    KubeProxy(u32),
    Kernel,
    L2fwd,
    Testpmd,
}

impl Peer {
    pub fn contender(self) -> Box<dyn Contender> {
        match self {
            Self::Worker { services, udp_s } => Box::new(Worker { cluster: Cluster { services }, udp_s }),
            Self::KubeProxy(services) => Box::new(KubeProxy { cluster: Cluster { services } }),
            Self::Kernel => Box::new(Kernel),
            Self::L2fwd => Box::new(L2fwd),
            Self::Testpmd => Box::new(Testpmd),
        }
    }

    /// Part of the names of its namespaces.
    pub fn label(self) -> String {
        match self {
            Self::Worker { services, udp_s } => format!("worker{services}-{udp_s}"),
            Self::KubeProxy(services) => format!("proxy{services}"),
            Self::Kernel => "kernel".into(),
            Self::L2fwd => "l2fwd".into(),
            Self::Testpmd => "testpmd".into(),
        }
    }
}

/// One contender under one kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub peer: Peer,
    pub flows: Flows,
    /// On two cores, where a kernel's path would be on one.
    pub spread: bool,
}

/// Packets a second of one entry by those of another.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What has to be reached, if anything.
    pub goal: Option<Goal>,
    /// Of the goal; without one, all that is to be said.
    pub case: String,
    /// Indices of the group's entries; of several below, the best one in each round.
    pub above: usize,
    pub below: Vec<usize>,
    /// Why it is not judged although it was measured.
    pub not_judged: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: &'static str,
    pub entries: Vec<Entry>,
    pub comparisons: Vec<Comparison>,
}

/// One contender and its probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyEntry {
    pub peer: Peer,
    /// Every probe begins a flow.
    pub fresh: bool,
}

/// What is compared in latency: entries by their indices, less is better.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyGroup {
    pub entries: Vec<LatencyEntry>,
    pub comparisons: Vec<Comparison>,
}

/// Names by which parts of a run can be asked for, beside the groups': what `live` does not do.
pub const MEMORY: &str = "memory";
pub const LATENCY: &str = "latency";

/// All groups. A `quick` run has a smaller cluster.
pub fn all(quick: bool) -> Vec<Group> {
    vec![forwarding(), l2fwd(), testpmd(), lasting(quick), fresh(quick)]
}

/// Who is probed.
pub fn latency(quick: bool) -> LatencyGroup {
    let (most, not_judged) = many(quick);
    let entry = |peer, fresh| LatencyEntry { peer, fresh };
    let command = "./scripts/bench --full latency";
    let few = worker(SERVICES_FEW, Flows::Lasting(1024));
    let entries = vec![
        entry(few, false),
        entry(Peer::L2fwd, false),
        entry(Peer::Kernel, false),
        entry(Peer::KubeProxy(most), false),
        entry(worker(most, Flows::Fresh), true),
        entry(Peer::KubeProxy(most), true),
    ];
    let established = Comparison {
        goal: Some(Goal {
            number: 9,
            what: "round trip, pipeline / raw AF_XDP l2fwd",
            command,
            accept: 1.15,
            aim: 1.05,
        }),
        case: "p50, one flow".into(),
        above: 0,
        below: vec![1],
        not_judged: None,
    };
    let fresh = Comparison {
        goal: Some(Goal {
            number: 9,
            what: "round trip, pipeline / kube-proxy nftables",
            command,
            accept: 1.0,
            aim: 0.8,
        }),
        case: format!("p50, every probe a new flow, {most} Services"),
        above: 4,
        below: vec![5],
        not_judged,
    };
    LatencyGroup { entries, comparisons: vec![established, fresh] }
}

/// What can be asked for by name.
pub fn names() -> Vec<&'static str> {
    all(true).iter().map(|group| group.name).chain([LATENCY, MEMORY]).collect()
}

/// Those that were asked for by their name or by the number of one of their ratios; without a name, all.
pub fn chosen(names: &[String], quick: bool) -> Vec<Group> {
    let is_asked_for = |group: &Group| {
        names.is_empty()
            || names
                .iter()
                .any(|name| group.name == name || group.comparisons.iter().any(|of| is_number(of.goal, name)))
    };
    all(quick).into_iter().filter(is_asked_for).collect()
}

/// Flows that last must not end because the generator has not come round to them; flows that are to be new have to make room.
fn worker(services: u32, flows: Flows) -> Peer {
    let udp_s = match flows {
        Flows::Lasting(_) => 3600,
        Flows::Fresh => 30,
    };
    Peer::Worker { services, udp_s }
}

fn is_number(goal: Option<Goal>, name: &str) -> bool {
    goal.is_some_and(|goal| goal.number.to_string() == name)
}

fn lasting_of(peer: Peer, flows: u32) -> Entry {
    Entry { peer, flows: Flows::Lasting(flows), spread: false }
}

fn fresh_of(peer: Peer) -> Entry {
    Entry { peer, flows: Flows::Fresh, spread: false }
}

fn forwarding() -> Group {
    Group {
        name: "forwarding",
        entries: vec![lasting_of(worker(SERVICES_FEW, Flows::Lasting(1024)), 1024), lasting_of(Peer::Kernel, 1024)],
        comparisons: vec![Comparison {
            goal: None,
            case: "pipeline / kernel forwarding without NAT".into(),
            above: 0,
            below: vec![1],
            not_judged: None,
        }],
    }
}

fn l2fwd() -> Group {
    let [pipeline, raw] = [worker(SERVICES_FEW, Flows::Lasting(FLOWS_MAX)), Peer::L2fwd];
    let comparison = |flows: &str, above, accept, aim| Comparison {
        goal: Some(Goal {
            number: 1,
            what: "pipeline / raw AF_XDP l2fwd",
            command: "./scripts/bench l2fwd",
            accept,
            aim,
        }),
        case: format!("{flows} flows"),
        above,
        below: vec![above + 1],
        not_judged: None,
    };
    Group {
        name: "l2fwd",
        entries: vec![
            lasting_of(pipeline, 1024),
            lasting_of(raw, 1024),
            lasting_of(pipeline, FLOWS_MAX),
            lasting_of(raw, FLOWS_MAX),
        ],
        comparisons: vec![comparison("1,024", 0, 0.85, 0.95), comparison("1M", 2, 0.70, 0.85)],
    }
}

fn testpmd() -> Group {
    let goal = Goal {
        number: 2,
        what: "raw AF_XDP l2fwd / DPDK testpmd",
        command: "./scripts/bench testpmd",
        accept: 1.15,
        aim: 1.3,
    };
    Group {
        name: "testpmd",
        entries: vec![lasting_of(Peer::L2fwd, 1024), lasting_of(Peer::Testpmd, 1024)],
        comparisons: vec![Comparison {
            goal: Some(goal),
            case: "1,024 flows".into(),
            above: 0,
            below: vec![1],
            not_judged: None,
        }],
    }
}

/// Services of the large cluster, and why ratios that ask for more are then not judged.
fn many(quick: bool) -> (u32, Option<String>) {
    let reason = || format!("{SERVICES_QUICK} Services here; it is asked for at {SERVICES_FULL}: --full");
    if quick { (SERVICES_QUICK, Some(reason())) } else { (SERVICES_FULL, None) }
}

fn lasting(quick: bool) -> Group {
    let (most, not_judged) = many(quick);
    let of = |peer: Peer, flows| lasting_of(peer, flows);
    let spread = |entry: Entry| Entry { spread: true, ..entry };
    let [few, many] = [SERVICES_FEW, most].map(|services| worker(services, Flows::Lasting(1024)));
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

fn fresh(quick: bool) -> Group {
    let (most, not_judged) = many(quick);
    let rules = Peer::KubeProxy(most);
    let mut entries = vec![
        fresh_of(worker(SERVICES_FEW, Flows::Fresh)),
        fresh_of(worker(most, Flows::Fresh)),
        fresh_of(rules),
        Entry { spread: true, ..fresh_of(rules) },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_name_entries_that_are_there_under_the_same_traffic() {
        for group in [all(true), all(false)].concat() {
            for Comparison { above, below, case, .. } in &group.comparisons {
                let above = group.entries[*above];
                assert!(!below.is_empty());
                for below in below {
                    let below = group.entries[*below];
                    assert!(below.peer != above.peer && below.flows == above.flows, "{}: {case}", group.name);
                }
            }
        }
    }

    #[test]
    fn parts_are_chosen_by_name_or_by_the_number_of_a_ratio() {
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            chosen(&names, true).iter().map(|group| group.name).collect::<Vec<_>>()
        };
        assert_eq!(of(&["testpmd"]), ["testpmd"]);
        assert_eq!(of(&["3"]), ["services", "new-flows"]);
        assert_eq!(of(&[]).len(), all(true).len());
        assert_eq!(of(&["memory"]), [""; 0]);
    }
}
