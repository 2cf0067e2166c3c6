//! What a run came to: every ratio, judged, and all that they were made of as JSON. `tables` puts it into words.

mod tables;

use serde::Serialize;

use super::alone::AloneRecord;
use super::control::{ControlGroup, ControlRecord};
use super::groups::{Comparison, Group, LatencyGroup};
use super::latency::LatencyGroupRecord;
use super::machine::Machine;
use super::ratio::Measurement;
use super::record::GroupRecord;
use super::steadiness::Steadiness;

/// What has to be said wherever a figure of a node is shown.
pub const ON_VETH: &str = "60-byte UDP on veth, where most of what AF_XDP costs is the transmit: in the sendto the kernel copies the \
frame into a new skb and runs the receiver's stack. A NIC with zero-copy does neither (published for one core of AF_XDP l2fwd: \
9.4 Mpps on mlx5, 15 to 22 on i40e), so these are not a NIC's figures.";

/// A ratio of fewer rounds is not judged.
const ROUNDS_MIN: usize = 7;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    pub machine: Machine,
    pub note: &'static str,
    /// Of the whole run.
    pub seconds: f64,
    /// By their numbers; those of which nothing is asked come last.
    pub ratios: Vec<Measurement>,
    pub groups: Vec<GroupRecord>,
    pub latency: Option<LatencyGroupRecord>,
    pub control: Option<ControlRecord>,
    pub alone: AloneRecord,
}

impl BenchReport {
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            note: ON_VETH,
            seconds: 0.0,
            ratios: Vec::new(),
            groups: Vec::new(),
            latency: None,
            control: None,
            alone: AloneRecord::default(),
        }
    }

    /// `group`: what was asked.
    pub fn add_group(&mut self, group: &Group, record: GroupRecord) {
        self.judge(&group.comparisons, &record.steadiness, |of| record.ratio(of));
        self.groups.push(record);
    }

    pub fn add_latency(&mut self, group: &LatencyGroup, record: LatencyGroupRecord) {
        self.judge(&group.comparisons, &record.steadiness, |of| record.ratio(of));
        self.latency = Some(record);
    }

    pub fn add_control(&mut self, group: &ControlGroup, record: ControlRecord) {
        self.add_ratios(record.ratios(group));
        self.control = Some(record);
    }

    pub fn add_alone(&mut self, record: AloneRecord) {
        self.add_ratios(record.ratios());
        self.alone = record;
    }

    fn judge(
        &mut self,
        comparisons: &[Comparison],
        steadiness: &Steadiness,
        value: impl Fn(&Comparison) -> Option<super::statistics::Spread>,
    ) {
        let restless = why_not_judged(steadiness);
        let measured = |of: &Comparison| {
            let reason = of.not_judged.clone().or(restless.clone());
            Some(Measurement::new(of.goal, &of.case, value(of)?, reason))
        };
        let ratios: Vec<Measurement> = comparisons.iter().filter_map(measured).collect();
        self.add_ratios(ratios);
    }

    fn add_ratios(&mut self, ratios: Vec<Measurement>) {
        self.ratios.extend(ratios);
        self.ratios.sort_by_key(|ratio| ratio.judged.as_ref().map_or(u32::MAX, |judged| judged.goal.number));
    }

    /// Whether the machine stood still for every group.
    pub fn is_steady(&self) -> bool {
        let latency = self.latency.iter().map(|record| &record.steadiness);
        self.groups.iter().map(|record| &record.steadiness).chain(latency).all(Steadiness::is_steady)
    }
}

/// Of rounds that were too few or too far apart.
fn why_not_judged(steadiness: &Steadiness) -> Option<String> {
    let Steadiness { kept, control_moved, .. } = steadiness;
    if kept.len() < ROUNDS_MIN {
        return Some(format!("{} rounds; {ROUNDS_MIN} are asked for", kept.len()));
    }
    let moved = || format!("the control moved by {:.0} %, {}", 100.0 * control_moved, steadiness.words());
    (!steadiness.is_steady()).then(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ratio::{Goal, Judgement};
    use crate::bench::record::EntryRecord;
    use crate::bench::site::Measured;

    fn measured(delivered: u64) -> Measured {
        Measured {
            seconds: 1.0,
            sent: 4_000_000,
            delivered,
            sender_cpu_ns: 400_000_000,
            ksoftirqd_cpu_ns: 0,
            forwarder_cpu_ns: 400_000_000,
            softirq_ns: 0,
        }
    }

    fn entry(delivered: u64) -> EntryRecord {
        EntryRecord {
            what: format!("one of {delivered}"),
            traffic: "1024 flows".into(),
            cores: 2,
            cpu_is_known: true,
            fastest: vec![measured(delivered); ROUNDS_MIN],
            paced_pps: 1e6,
            paced: vec![measured(delivered); 2],
        }
    }

    /// A run of seven rounds whose controls come again: 2 Mpps beside 1 Mpps, of which `accept` times as much is asked.
    pub fn report(accept: f64, not_judged: Option<&str>, controls: [u64; 3]) -> BenchReport {
        let goal = Goal { number: 3, what: "above / below", command: "./scripts/bench this", accept, aim: 2.5 };
        let comparison = Comparison {
            goal: Some(goal),
            case: "all".into(),
            above: 0,
            below: vec![1],
            not_judged: not_judged.map(str::to_owned),
        };
        let controls: Vec<u64> = controls.into_iter().cycle().take(ROUNDS_MIN).collect();
        let mpps: Vec<f64> = controls.iter().map(|delivered| *delivered as f64).collect();
        let record = GroupRecord {
            name: "services",
            entries: vec![entry(2_000_000), entry(1_000_000)],
            controls: controls.iter().map(|delivered| vec![measured(*delivered)]).collect(),
            steadiness: Steadiness::of(&mpps, ROUNDS_MIN),
            handover_ns: vec![50.0],
        };
        let group = Group { name: "services", entries: Vec::new(), comparisons: vec![comparison] };
        let mut report = BenchReport::new(Machine { kernel: "6.18".into(), cpu: "test".into(), cpus: 2, load: 0.0 });
        report.add_group(&group, record);
        report
    }

    fn judgement(report: &BenchReport) -> Judgement {
        report.ratios[0].judged.as_ref().unwrap().verdict
    }

    #[test]
    fn a_ratio_is_met_or_not() {
        let verdict = |accept| judgement(&report(accept, None, [4_000_000; 3]));
        assert_eq!((verdict(1.9), verdict(2.1)), (Judgement::Met, Judgement::NotMet));
    }

    #[test]
    fn a_control_that_moves_voids_the_ratios() {
        let report = report(1.0, None, [4_000_000, 3_000_000, 2_000_000]);
        assert!(!report.is_steady());
        assert_eq!(judgement(&report), Judgement::NotJudged);
        assert!(report.text().contains("not judged: the control moved by 67 %"), "{}", report.text());
    }

    #[test]
    fn what_was_measured_otherwise_than_asked_is_not_judged_and_says_why() {
        let report = report(1.0, Some("a smaller cluster"), [4_000_000; 3]);
        assert_eq!(judgement(&report), Judgement::NotJudged);
        assert!(report.markdown().contains("not judged: a smaller cluster"), "{}", report.markdown());
        assert!(report.is_steady());
    }

    #[test]
    fn a_few_rounds_are_not_judged() {
        let few = Steadiness::of(&[4.0, 4.0], 7);
        assert_eq!(why_not_judged(&few).unwrap(), "2 rounds; 7 are asked for");
        assert_eq!(why_not_judged(&Steadiness::of(&[4.0; 7], 7)), None);
    }

    #[test]
    fn ratios_stand_in_the_order_of_their_numbers_and_the_unasked_ones_last() {
        let mut report = report(1.0, None, [4_000_000; 3]);
        let value = report.ratios[0].value;
        let goal = |number| Some(Goal { number, what: "a / b", command: "none", accept: 1.0, aim: 2.0 });
        report.add_ratios([None, goal(2), goal(10)].map(|goal| Measurement::new(goal, "", value, None)).to_vec());
        let numbers: Vec<Option<u32>> =
            report.ratios.iter().map(|ratio| Some(ratio.judged.as_ref()?.goal.number)).collect();
        assert_eq!(numbers, [Some(2), Some(3), Some(10), None]);
    }

    #[test]
    fn a_row_has_what_arrived_and_what_it_cost_beyond_the_generator() {
        let text = report(1.0, None, [4_000_000; 3]).markdown();
        // 800 ms for 2M packets; of 4M sent, the control's 200 ns each are the generator's: nothing is left of it.
        assert!(text.contains("| one of 2000000 | 1024 flows | 2.00 (2.00-2.00) | 500 | 0 | 2 | 50.00 % |"), "{text}");
        assert!(text.contains("| control: XDP_DROP | services, 7 rounds within 0 % | 4.00"), "{text}");
        assert!(text.contains("| `./scripts/bench this` |"), "{text}");
    }

    #[test]
    fn wherever_figures_are_shown_it_is_said_what_veth_costs() {
        let report = report(1.0, None, [4_000_000; 3]);
        for text in [report.text(), report.markdown(), serde_json::to_string(&report).unwrap()] {
            assert!(text.contains("not a NIC's figures"), "{text}");
        }
    }

    #[test]
    fn cores_that_moved_are_told() {
        let mut report = report(1.0, None, [4_000_000; 3]);
        assert!(!report.text().contains("THE CORES MOVED"));
        report.groups[0].handover_ns.push(170.0);
        assert!(report.text().contains("THE CORES MOVED: a cache line took 50 to 170 ns"), "{}", report.text());
    }
}
