//! A run in tables: for a terminal, and the same for README.md.

use std::fmt::Write;

use super::{BenchReport, ON_VETH};
use crate::bench::alone::{self, AloneRecord};
use crate::bench::control::ours::Ours;
use crate::bench::control::{ControlRecord, percentile};
use crate::bench::engine::EngineFigures;
use crate::bench::latency::{LatencyGroupRecord, LatencyRecord, SHARES};
use crate::bench::machine::Machine;
use crate::bench::ratio::{Goal, Measurement};
use crate::bench::record::{EntryRecord, GroupRecord};
use crate::bench::statistics::Spread;
use crate::bench::steadiness::MOVED_MAX;

/// Cores that were so many times farther apart for a while were not the same cores.
const HANDOVER_MOVED_MAX: f64 = 1.5;
/// Of a line on a terminal.
const LINE_CHARS: usize = 120;

const RATIO_HEADER: [&str; 7] = ["#", "ratio, medians of the rounds", "value", "accept", "aim", "verdict", "command"];
const ENTRY_HEADER: [&str; 7] = ["who", "traffic", "Mpps", "ns a packet", "CPU ns a packet", "cores", "lost, paced"];
const LATENCY_HEADER: [&str; 7] =
    ["round trip, µs: p50 / p99 / p99.9", "flows", "idle", "at 10 %", "at 50 %", "at 90 %", "lost"];
const _: () = assert!(SHARES.len() == LATENCY_HEADER.len() - 4, "a column for each share");
const CONTROL_HEADER: [&str; 5] = [
    "control: Services x endpoints",
    "compile and publish, ms",
    "one changed endpoint in use after, µs: p50 / p99",
    "list taken in, s",
    "memory, MB: model / tables / peak",
];
const MEMORY_HEADER: [&str; 4] =
    ["pipeline in memory", "ns a packet", "quartiles", "Katran's XDP program, ns on another machine"];

impl BenchReport {
    /// For a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for group in &self.groups {
            let _ = writeln!(out, "{}\n{}", group.name, columns(&ENTRY_HEADER, &entry_rows(group)));
            out.push_str(&cores_moved(&group.handover_ns));
            out.push('\n');
        }
        if let Some(latency) = &self.latency {
            let _ = writeln!(out, "latency\n{}", columns(&LATENCY_HEADER, &latency_rows(latency)));
            out.push_str(&cores_moved(&latency.handover_ns));
        }
        if let Some(control) = &self.control {
            let _ = writeln!(out, "control\n{}", columns(&CONTROL_HEADER, &control_rows(control)));
        }
        if !self.alone.engine.is_empty() {
            let _ = writeln!(out, "in memory, no socket\n{}", columns(&MEMORY_HEADER, &memory_rows(&self.alone)));
        }
        if !self.ratios.is_empty() {
            let _ = writeln!(out, "{}", columns(&RATIO_HEADER, &self.ratio_rows()));
        }
        let _ = write!(out, "{}", self.remarks());
        out
    }

    /// What has to be said beside the figures.
    fn remarks(&self) -> String {
        let is_on_veth = !self.groups.is_empty() || self.latency.is_some();
        let on_veth = if is_on_veth { format!("{}\n", wrapped(ON_VETH)) } else { String::new() };
        format!("{on_veth}{}\n", wrapped(&self.method()))
    }

    /// The tables of README.md.
    pub fn markdown(&self) -> String {
        let quote_command = |mut row: [String; 7]| {
            if let Some(command) = row.last_mut().filter(|command| *command != "-") {
                *command = format!("`{command}`");
            }
            row
        };
        let ratios: Vec<[String; 7]> = self.ratio_rows().into_iter().map(quote_command).collect();
        let mut out = table(&RATIO_HEADER, &ratios);
        let entries: Vec<[String; 7]> = self.groups.iter().flat_map(entry_rows).collect();
        let _ = write!(out, "\n{}\n{}", self.remarks(), table(&ENTRY_HEADER, &entries));
        if let Some(latency) = &self.latency {
            let _ = write!(out, "\n{}", table(&LATENCY_HEADER, &latency_rows(latency)));
        }
        if let Some(control) = &self.control {
            let _ = write!(out, "\n{}", table(&CONTROL_HEADER, &control_rows(control)));
        }
        if !self.alone.engine.is_empty() {
            let _ = write!(out, "\n{}", table(&MEMORY_HEADER, &memory_rows(&self.alone)));
        }
        out
    }

    fn method(&self) -> String {
        let Machine { kernel, cpu, cpus, load } = &self.machine;
        format!(
            "Every packet was counted and checked where it arrived; none was wrong. CPU is taken at 60 % of each one's own rate, all \
             threads and soft interrupts, the generator's own taken off. A round whose control strays is repeated, so that those that \
             count lie within {:.0} %; all rounds are in the JSON. {:.1} minutes on Linux {kernel}, {cpus} x {cpu}, load {load:.1} at the \
             start.",
            100.0 * MOVED_MAX,
            self.seconds / 60.0
        )
    }

    fn ratio_rows(&self) -> Vec<[String; 7]> {
        self.ratios.iter().map(ratio_row).collect()
    }
}

fn ratio_row(ratio: &Measurement) -> [String; 7] {
    let goal = ratio.judged.as_ref().map(|judged| judged.goal);
    let asked = |figure: fn(Goal) -> f64| goal.map_or_else(|| "-".into(), |goal| figure(goal).to_string());
    let verdict = match (&ratio.judged, &ratio.reason) {
        (None, _) => "-".into(),
        (Some(_), Some(reason)) => format!("not judged: {reason}"),
        (Some(judged), None) => judged.verdict.to_string(),
    };
    let Spread { median, low, high, .. } = ratio.value;
    [
        goal.map_or_else(|| "-".into(), |goal| goal.number.to_string()),
        ratio.what.clone(),
        format!("{median:.2} ({low:.2}-{high:.2})"),
        asked(|goal| goal.accept),
        asked(|goal| goal.aim),
        verdict,
        goal.map_or_else(|| "-".into(), |goal| goal.command.to_owned()),
    ]
}

fn entry_rows(group: &GroupRecord) -> Vec<[String; 7]> {
    let generating_ns = group.generating_ns();
    let mpps_text = |Spread { median, low, high, .. }| format!("{median:.2} ({low:.2}-{high:.2})");
    let row = |entry: &EntryRecord| {
        let mpps = group.mpps(entry)?;
        Some([
            entry.what.clone(),
            entry.traffic.clone(),
            mpps_text(mpps),
            format!("{:.0}", 1e3 / mpps.median),
            optional(entry.cpu_ns_per_packet(generating_ns).map(|cpu| format!("{:.0}", cpu.median))),
            entry.cores.to_string(),
            optional(entry.loss().map(|loss| format!("{:.2} %", 100.0 * loss.median))),
        ])
    };
    let control = group.control().map(|mpps| {
        [
            "control: XDP_DROP".to_owned(),
            format!("{}, {}", group.name, group.steadiness.words()),
            mpps_text(mpps),
            format!("{:.0}", 1e3 / mpps.median),
            "-".into(),
            "1".into(),
            "-".into(),
        ]
    });
    group.entries.iter().filter_map(row).chain(control).collect()
}

fn latency_rows(record: &LatencyGroupRecord) -> Vec<[String; 7]> {
    let micros = |ns: [f64; 3]| ns.map(|ns| format!("{:.1}", ns / 1e3)).join(" / ");
    let row = |entry: &LatencyRecord| {
        let busy = |share| optional(record.busy_ns(entry, share).map(micros));
        [
            entry.what.clone(),
            entry.flows.into(),
            optional(record.idle_ns(entry).map(micros)),
            busy(0),
            busy(1),
            busy(2),
            entry.lost().to_string(),
        ]
    };
    let control = || -> [String; 7] {
        let none = String::from("-");
        let words = record.steadiness.words();
        ["control: XDP_DROP".into(), words, none.clone(), none.clone(), none.clone(), none.clone(), none]
    };
    record.entries.iter().map(row).chain([control()]).collect()
}

fn control_rows(record: &ControlRecord) -> Vec<[String; 5]> {
    let row = |runs: Vec<&Ours>| {
        let spread = |of: fn(&Ours) -> f64| Spread::of(runs.iter().map(|ours| of(ours)));
        let changes_s: Vec<f64> = runs.iter().flat_map(|ours| ours.changes_s.iter().copied()).collect();
        let [p50, p99] = [0.5, 0.99].map(|share| format!("{:.0}", 1e6 * percentile(&changes_s, share)));
        let publish_ms = spread(|ours| 1e3 * ours.publish_s)?;
        let megabytes = |of: fn(&Ours) -> f64| Some(format!("{:.0}", spread(of)?.median / 1e6));
        let asked = runs.first()?.asked;
        Some([
            format!("{} x {}, {} runs", asked.services, asked.endpoints, runs.len()),
            format!("{:.0} ({:.0}-{:.0})", publish_ms.median, publish_ms.low, publish_ms.high),
            format!("{p50} / {p99} of {}", changes_s.len()),
            format!("{:.1}", spread(|ours| ours.intake_s)?.median),
            [
                megabytes(|ours| ours.model_bytes as f64)?,
                megabytes(|ours| ours.tables_bytes as f64)?,
                megabytes(|ours| ours.peak_bytes as f64)?,
            ]
            .join(" / "),
        ])
    };
    record.clusters().into_iter().filter_map(row).collect()
}

fn memory_rows(alone: &AloneRecord) -> Vec<[String; 4]> {
    let row = |figures: &EngineFigures| {
        let EngineFigures { ns_per_packet, ns_per_packet_low, ns_per_packet_high, .. } = figures;
        [
            figures.traffic(),
            format!("{ns_per_packet:.0}"),
            format!("{ns_per_packet_low:.0}-{ns_per_packet_high:.0}"),
            optional(alone::katran_ns(figures).map(|ns| ns.to_string())),
        ]
    };
    alone.engine.iter().map(row).collect()
}

/// What a reader has to know about the machine's cores meanwhile.
fn cores_moved(handover_ns: &[f64]) -> String {
    let nearest = handover_ns.iter().copied().fold(f64::INFINITY, f64::min);
    let farthest = handover_ns.iter().copied().fold(0.0, f64::max);
    if farthest <= HANDOVER_MOVED_MAX * nearest {
        return String::new();
    }
    format!(
        "THE CORES MOVED: a cache line took {nearest:.0} to {farthest:.0} ns between them, as a virtual machine's host has it. Who\n\
         takes every packet from the sender's core is slower while they are far; a path on one core is not.\n"
    )
}

fn optional(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

/// In lines that fit a terminal.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LINE_CHARS => {
                let _ = write!(line, " {word}");
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
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

    #[test]
    fn long_texts_are_broken_between_words_and_lose_none() {
        let text = wrapped(ON_VETH);
        assert!(text.lines().count() > 1 && text.lines().all(|line| line.chars().count() <= LINE_CHARS), "{text}");
        assert_eq!(text.replace('\n', " "), ON_VETH);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = columns(&["a", "b"], &[["long one".into(), "µ".into()]]);
        assert_eq!(text, "a         b\nlong one  µ\n");
        assert_eq!(table(&["a", "b"], &[["1".into(), "2".into()]]), "| a | b |\n|---|---|\n| 1 | 2 |\n");
    }
}
