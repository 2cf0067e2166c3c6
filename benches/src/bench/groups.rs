//! What is compared with what, and how much is asked for: the one list. A group is measured in turns, entry by entry, so
//! that its ratios are taken between neighbours in time.

mod forwarders;
mod probes;
mod services;

pub use probes::latency;

use super::alone;
use super::control::ControlGroup;
use super::peer::Peer;
use super::programs::Flows;
use super::ratio::Goal;

/// Services of the large cluster of a full run, for which the ratios with kube-proxy are asked; a quick run has fewer.
const SERVICES_FULL: u32 = 10_000;
const SERVICES_QUICK: u32 = 1_000;
const SERVICES_FEW: u32 = 10;

/// One contender under one kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub peer: Peer,
    pub flows: Flows,
    /// On two cores, where a kernel's path would be on one. The sender's core would then overrun the other, so the highest
    /// rate at which nothing is lost is searched for.
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

/// What a run measures.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    pub groups: Vec<Group>,
    pub latency: Option<LatencyGroup>,
    pub control: Option<ControlGroup>,
    /// Parts that need no node.
    pub alone: Vec<alone::Part>,
}

/// Names by which parts of a run can be asked for, beside the groups': what is not measured in packets a second.
pub const MEMORY: &str = "memory";
pub const LATENCY: &str = "latency";
pub const CONTROL: &str = "control";

/// All groups. A `quick` run has a smaller cluster.
pub fn all(quick: bool) -> Vec<Group> {
    vec![
        forwarders::forwarding(),
        forwarders::l2fwd(),
        forwarders::testpmd(),
        services::lasting(quick),
        services::fresh(quick),
    ]
}

/// What can be asked for by name.
pub fn names() -> Vec<&'static str> {
    all(true).iter().map(|group| group.name).chain([LATENCY, CONTROL, MEMORY]).collect()
}

/// What was asked for by name or by the number of a ratio; without a name, all.
pub fn chosen(names: &[String], quick: bool) -> Chosen {
    let is_asked_for = |name: &str, numbers: &[u32]| {
        names.is_empty()
            || names.iter().any(|asked| asked == name || numbers.iter().any(|number| number.to_string() == *asked))
    };
    let numbers = |comparisons: &[Comparison]| -> Vec<u32> {
        comparisons.iter().filter_map(|of| Some(of.goal?.number)).collect()
    };
    let latency = latency(quick);
    let (most, not_judged) = many(quick);
    Chosen {
        groups: all(quick).into_iter().filter(|group| is_asked_for(group.name, &numbers(&group.comparisons))).collect(),
        latency: is_asked_for(LATENCY, &numbers(&latency.comparisons)).then_some(latency),
        control: is_asked_for(CONTROL, &[7, 8]).then(|| ControlGroup::new(most, not_judged, quick)),
        alone: alone::Part::ALL.into_iter().filter(|part| is_asked_for(MEMORY, &[part.number()])).collect(),
    }
}

impl Chosen {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.latency.is_none() && self.control.is_none() && self.alone.is_empty()
    }

    /// Everybody who is measured, group by group.
    pub fn peers(&self) -> impl Iterator<Item = Peer> {
        let groups = self.groups.iter().flat_map(|group| &group.entries).map(|entry| entry.peer);
        let latency = self.latency.iter().flat_map(|group| &group.entries).map(|entry| entry.peer);
        groups.chain(latency).chain(self.control.iter().map(ControlGroup::peer))
    }
}

/// Services of the large cluster, and why ratios that ask for more are then not judged.
fn many(quick: bool) -> (u32, Option<String>) {
    let reason = || format!("{SERVICES_QUICK} Services here; it is asked for at {SERVICES_FULL}: --full");
    if quick { (SERVICES_QUICK, Some(reason())) } else { (SERVICES_FULL, None) }
}

fn lasting_of(peer: Peer, flows: u32) -> Entry {
    Entry { peer, flows: Flows::Lasting(flows), spread: false }
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
        let of = |name: &str| chosen(&[name.to_owned()], true);
        let groups = |chosen: &Chosen| chosen.groups.iter().map(|group| group.name).collect::<Vec<_>>();
        assert_eq!(groups(&of("testpmd")), ["testpmd"]);
        assert_eq!(groups(&of("3")), ["services", "new-flows"]);
        assert!(of("9").latency.is_some() && of("9").groups.is_empty());
        assert_eq!(of("memory").alone, alone::Part::ALL);
        assert_eq!(of("10").alone, [alone::Part::Density]);
        assert!(of("7").control.is_some() && of("8") == of("control"));
        assert!(of("13").is_empty() && of("nobody").is_empty());
    }

    #[test]
    fn without_a_name_every_ratio_that_is_asked_for_is_measured() {
        let all = chosen(&[], false);
        let goals =
            all.groups.iter().flat_map(|group| &group.comparisons).chain(&all.latency.as_ref().unwrap().comparisons);
        let mut numbers: Vec<u32> = goals.filter_map(|of| Some(of.goal?.number)).collect();
        numbers.extend(all.alone.iter().map(|part| part.number()));
        numbers.extend(all.control.iter().flat_map(|_| [7, 8]));
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (1..=12).collect::<Vec<_>>());
    }
}
