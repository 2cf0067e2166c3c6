//! What a run came to: tables for people, the same for README.md, and all that they were made of as JSON.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use super::engine::EngineFigures;
use super::groups::{Comparison, Group, LatencyGroup};
use super::latency::{self, LatencyRecord, SHARES};
use super::live::{EntryRecord, GroupRecord};
use super::ratio::{Goal, JudgedRatio};
use super::statistics::Spread;

/// A control that moved by more than this within a group voids its ratios.
const CONTROL_MOVED_MAX: f64 = 0.15;

/// Cores that were so many times farther apart for a while were not the same cores.
const HANDOVER_MOVED_MAX: f64 = 1.5;

/// The machine, as far as figures depend on it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    /// Load average of the last minute when the run began: others at work move the figures.
    pub load: f64,
}

/// A ratio as it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    pub what: String,
    pub value: Spread,
    /// Judged, where something has to be reached.
    pub judged: Option<JudgedRatio>,
    /// Why it is not judged.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    pub machine: Machine,
    pub ratios: Vec<Measurement>,
    pub groups: Vec<GroupRecord>,
    pub latency: Vec<LatencyRecord>,
    /// The pipeline in memory, by case.
    pub memory: Vec<EngineFigures>,
}

impl Machine {
    pub fn read() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpu = read("/proc/cpuinfo")?;
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let load = read("/proc/loadavg")?;
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            load: load.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default(),
        })
    }
}

impl Measurement {
    fn new(comparison: &Comparison, group: &GroupRecord) -> Option<Self> {
        let value = group.ratio(comparison)?;
        let moved = group.control_moved();
        let unsteady =
            (moved > CONTROL_MOVED_MAX).then(|| format!("the control moved by {:.0} % meanwhile", 100.0 * moved));
        Some(Self::of(comparison, value, comparison.not_judged.clone().or(unsteady)))
    }

    /// `reason`: why it is not judged.
    fn of(comparison: &Comparison, value: Spread, reason: Option<String>) -> Self {
        let judged = comparison.goal.map(|goal| goal.judge(&comparison.case, value, reason.is_none()));
        let what = match comparison.goal {
            Some(goal) => format!("{}, {}", goal.what, comparison.case),
            None => comparison.case.clone(),
        };
        Self { what, value, judged, reason }
    }

    fn row(&self) -> [String; 6] {
        let goal = self.judged.as_ref().map(|judged| judged.goal);
        let asked = |figure: fn(Goal) -> f64| goal.map_or_else(|| "-".into(), |goal| figure(goal).to_string());
        let verdict = match (&self.judged, &self.reason) {
            (None, _) => "-".into(),
            (Some(_), Some(reason)) => format!("not judged: {reason}"),
            (Some(judged), None) => judged.verdict.to_string(),
        };
        let Spread { median, low, high, .. } = self.value;
        [
            goal.map_or_else(|| "-".into(), |goal| goal.number.to_string()),
            self.what.clone(),
            format!("{median:.2} ({low:.2}-{high:.2})"),
            asked(|goal| goal.accept),
            asked(|goal| goal.aim),
            verdict,
        ]
    }
}

const RATIO_HEADER: [&str; 6] = ["#", "ratio, medians of the rounds", "value", "accept", "aim", "verdict"];
const ENTRY_HEADER: [&str; 7] = ["who", "traffic", "Mpps", "ns a packet", "CPU ns a packet", "cores", "lost, paced"];

impl BenchReport {
    /// `measured`: the groups, each with what it was asked for.
    pub fn new(machine: Machine, measured: Vec<(Group, GroupRecord)>, memory: Vec<EngineFigures>) -> Self {
        let ratios = measured
            .iter()
            .flat_map(|(group, record)| group.comparisons.iter().filter_map(|of| Measurement::new(of, record)))
            .collect();
        let groups = measured.into_iter().map(|(_, record)| record).collect();
        Self { machine, ratios, groups, latency: Vec::new(), memory }
    }

    /// Adds what probes found.
    pub fn with_latency(mut self, group: &LatencyGroup, records: Vec<LatencyRecord>) -> Self {
        let ratio = |of: &Comparison| {
            let value = latency::ratio(records.get(of.above)?, records.get(*of.below.first()?)?)?;
            Some(Measurement::of(of, value, of.not_judged.clone()))
        };
        self.ratios.extend(group.comparisons.iter().filter_map(ratio));
        self.latency = records;
        self
    }

    /// Whether every ratio that could be judged was, on a machine that stood still.
    pub fn is_steady(&self) -> bool {
        self.groups.iter().all(|group| group.control_moved() <= CONTROL_MOVED_MAX)
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for group in &self.groups {
            let _ = writeln!(out, "{}\n{}", group.name, columns(&ENTRY_HEADER, &entry_rows(group)));
            out.push_str(&remarks(group));
            out.push('\n');
        }
        if !self.latency.is_empty() {
            let _ = writeln!(out, "latency\n{}", columns(&LATENCY_HEADER, &latency_rows(&self.latency)));
        }
        if !self.memory.is_empty() {
            let _ = writeln!(out, "in memory, no socket\n{}", columns(&MEMORY_HEADER, &memory_rows(&self.memory)));
        }
        if !self.ratios.is_empty() {
            let _ = writeln!(out, "{}", columns(&RATIO_HEADER, &self.ratio_rows()));
        }
        let Machine { kernel, cpu, cpus, load } = &self.machine;
        let _ = writeln!(
            out,
            "60-byte UDP. Every packet was counted and checked where it arrived; none was wrong. CPU is taken at 60 % of each\n\
             one's own rate, all threads and soft interrupts, the generator's own taken off. On veth most of what AF_XDP costs is\n\
             the transmit: in the sendto the kernel copies the frame into a new skb and runs the receiver's stack. A NIC with\n\
             zero-copy does neither, so these are not a NIC's figures.\n\
             Linux {kernel}, {cpus} x {cpu}, load {load:.1} at the start"
        );
        out
    }

    /// The tables of README.md.
    pub fn markdown(&self) -> String {
        let mut out = table(&RATIO_HEADER, &self.ratio_rows());
        out.push('\n');
        let entries: Vec<[String; 7]> = self.groups.iter().flat_map(entry_rows).collect();
        out.push_str(&table(&ENTRY_HEADER, &entries));
        if !self.latency.is_empty() {
            out.push('\n');
            out.push_str(&table(&LATENCY_HEADER, &latency_rows(&self.latency)));
        }
        if !self.memory.is_empty() {
            out.push('\n');
            out.push_str(&table(&MEMORY_HEADER, &memory_rows(&self.memory)));
        }
        let Machine { kernel, cpu, cpus, .. } = &self.machine;
        let _ = writeln!(out, "\nLinux {kernel}, {cpus} x {cpu}.");
        out
    }

    fn ratio_rows(&self) -> Vec<[String; 6]> {
        self.ratios.iter().map(Measurement::row).collect()
    }
}

fn entry_rows(group: &GroupRecord) -> Vec<[String; 7]> {
    let generating_ns = group.generating_ns();
    let row = |entry: &EntryRecord| {
        let mpps = entry.mpps()?;
        let optional = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        Some([
            entry.what.clone(),
            entry.traffic.clone(),
            format!("{:.2} ({:.2}-{:.2})", mpps.median, mpps.low, mpps.high),
            format!("{:.0}", 1e3 / mpps.median),
            optional(entry.cpu_ns_per_packet(generating_ns).map(|cpu| format!("{:.0}", cpu.median))),
            entry.cores.to_string(),
            optional(entry.loss().map(|loss| format!("{:.2} %", 100.0 * loss.median))),
        ])
    };
    let control = Spread::of(group.controls.iter().map(|control| control.mpps())).map(|mpps| {
        [
            "control: XDP_DROP".to_owned(),
            group.name.to_owned(),
            format!("{:.2} ({:.2}-{:.2})", mpps.median, mpps.low, mpps.high),
            format!("{:.0}", 1e3 / mpps.median),
            "-".into(),
            "1".into(),
            "-".into(),
        ]
    });
    group.entries.iter().filter_map(row).chain(control).collect()
}

/// What a reader of a group's figures has to know about the machine meanwhile.
fn remarks(group: &GroupRecord) -> String {
    let mut out = String::new();
    let (nearest, farthest) = group
        .handover_ns
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(nearest, farthest), ns| (nearest.min(*ns), farthest.max(*ns)));
    if farthest > HANDOVER_MOVED_MAX * nearest {
        let _ = writeln!(
            out,
            "THE CORES MOVED: a cache line took {nearest:.0} to {farthest:.0} ns between them, as a virtual machine's host has it. Who\n\
             takes every packet from the sender's core is slower while they are far; a path on one core is not."
        );
    }
    if group.control_moved() > CONTROL_MOVED_MAX {
        let _ = writeln!(
            out,
            "NOT STEADY: the control moved by {:.0} %; no ratio is judged.",
            100.0 * group.control_moved()
        );
    }
    out
}

const LATENCY_HEADER: [&str; 7] =
    ["round trip, µs: p50 / p99 / p99.9", "flows", "idle", "at 10 %", "at 50 %", "at 90 %", "lost"];
const _: () = assert!(SHARES.len() == LATENCY_HEADER.len() - 4, "a column for each share");

fn latency_rows(records: &[LatencyRecord]) -> Vec<[String; 7]> {
    let micros = |ns: [f64; 3]| ns.map(|ns| format!("{:.1}", ns / 1e3)).join(" / ");
    let row = |record: &LatencyRecord| {
        let busy = |share: usize| {
            let at = record.busy.get(share)?;
            Some(micros([at.p50_ns, at.p99_ns, at.p999_ns].map(|ns| ns as f64)))
        };
        let optional = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        [
            record.what.clone(),
            record.flows.into(),
            optional(record.idle_ns().map(micros)),
            optional(busy(0)),
            optional(busy(1)),
            optional(busy(2)),
            record.lost().to_string(),
        ]
    };
    records.iter().map(row).collect()
}

const MEMORY_HEADER: [&str; 3] = ["pipeline in memory", "ns a packet", "quartiles"];

fn memory_rows(memory: &[EngineFigures]) -> Vec<[String; 3]> {
    let row = |figures: &EngineFigures| {
        let what = match figures.new_percent {
            0 => format!("{} flows", figures.flows),
            100 => "every packet a new flow".into(),
            percent => format!("{} flows, {percent} % new", figures.flows),
        };
        let EngineFigures { ns_per_packet, ns_per_packet_low, ns_per_packet_high, .. } = figures;
        [what, format!("{ns_per_packet:.0}"), format!("{ns_per_packet_low:.0}-{ns_per_packet_high:.0}")]
    };
    memory.iter().map(row).collect()
}

/// Aligned columns; writing to a string cannot fail.
fn columns<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(header[column].chars().count())
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let cells: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut out = line(*header);
    for row in rows {
        out.push_str(&line(std::array::from_fn(|column| row[column].as_str())));
    }
    out
}

/// A table in Markdown.
fn table<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    let mut out = format!("| {} |\n|{}\n", header.join(" | "), "---|".repeat(N));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ratio::Judgement;
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
            fastest: vec![measured(delivered); 3],
            paced_pps: 1e6,
            paced: vec![measured(delivered); 2],
        }
    }

    /// A run of three rounds: 2 Mpps beside 1 Mpps, of which `accept` times as much is asked.
    fn report(accept: f64, not_judged: Option<&str>, controls: [u64; 3]) -> BenchReport {
        let goal = Goal { number: 3, what: "above / below", command: "none", accept, aim: 2.5 };
        let comparison = Comparison {
            goal: Some(goal),
            case: "all".into(),
            above: 0,
            below: vec![1],
            not_judged: not_judged.map(str::to_owned),
        };
        let record = GroupRecord {
            name: "services",
            entries: vec![entry(2_000_000), entry(1_000_000)],
            controls: controls.map(measured).to_vec(),
            handover_ns: vec![50.0],
        };
        let group = Group { name: "services", entries: Vec::new(), comparisons: vec![comparison] };
        let machine = Machine { kernel: "6.18".into(), cpu: "test".into(), cpus: 2, load: 0.0 };
        BenchReport::new(machine, vec![(group, record)], Vec::new())
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
        assert!(report.text().contains("NOT STEADY"), "{}", report.text());
    }

    #[test]
    fn what_was_measured_otherwise_than_asked_is_not_judged_and_says_why() {
        let report = report(1.0, Some("a smaller cluster"), [4_000_000; 3]);
        assert_eq!(judgement(&report), Judgement::NotJudged);
        assert!(report.markdown().contains("not judged: a smaller cluster"), "{}", report.markdown());
        assert!(report.is_steady());
    }

    #[test]
    fn a_row_has_what_arrived_and_what_it_cost_beyond_the_generator() {
        let rows = entry_rows(&report(1.0, None, [4_000_000; 3]).groups[0]);
        // 800 ms for 2M packets; of 4M sent, the control's 200 ns each are the generator's: nothing is left of it.
        assert_eq!(rows[0][2..6], ["2.00 (2.00-2.00)", "500", "0", "2"].map(String::from));
        assert_eq!(rows[2][0], "control: XDP_DROP");
    }

    #[test]
    fn cores_that_moved_are_told() {
        let mut report = report(1.0, None, [4_000_000; 3]);
        assert!(!report.text().contains("THE CORES MOVED"));
        report.groups[0].handover_ns.push(170.0);
        assert!(report.text().contains("THE CORES MOVED: a cache line took 50 to 170 ns"), "{}", report.text());
    }
}
