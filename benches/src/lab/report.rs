//! What a run came to: a table for people, the same as JSON, and the list of everything that was wrong.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::daemon::Status;
use crate::traffic::client::Outcome;

/// One row: a path in one family, asked in one way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub path: String,
    pub family: &'static str,
    pub protocol: &'static str,
    pub requests: u64,
    pub failed: u64,
    pub wrong: u64,
    pub bytes: u64,
    pub megabits_per_second: f64,
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
    pub backends: BTreeMap<String, u64>,
}

/// What the replacement of the endpoint looked like.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Replacement {
    /// From the changed object to the first answer of the new endpoint on a UDP flow that the old one had served.
    pub udp_moved_after_ms: BTreeMap<&'static str, u64>,
    /// Answers that established TCP connections had from the old endpoint after the change.
    pub tcp_answers_after: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunReport {
    pub rows: Vec<Row>,
    pub replacement: Replacement,
    pub refused_at_once: u64,
    pub status: Status,
    pub problems: Vec<String>,
}

impl Row {
    pub fn new(path: &str, family: &'static str, protocol: &'static str, outcome: &Outcome) -> Self {
        Self {
            path: path.into(),
            family,
            protocol,
            requests: outcome.requests,
            failed: outcome.failed,
            wrong: outcome.wrong,
            bytes: outcome.bytes,
            megabits_per_second: outcome.bytes as f64 * 8.0 / 1e6 / outcome.seconds.max(0.001),
            p50_us: quantile(&outcome.latencies_us, 0.50),
            p99_us: quantile(&outcome.latencies_us, 0.99),
            backends: outcome.backends.clone(),
        }
    }
}

/// The value below which this share of recorded values lies.
fn quantile(recorded: &[(u64, u64)], share: f64) -> Option<u64> {
    let total: u64 = recorded.iter().map(|(_, count)| count).sum();
    let wanted = (total as f64 * share).ceil() as u64;
    let mut seen = 0;
    recorded
        .iter()
        .find(|(_, count)| {
            seen += count;
            seen >= wanted.max(1)
        })
        .map(|(value, _)| *value)
}

impl RunReport {
    /// The table, the books, and the verdict.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let width = self.rows.iter().map(|row| row.path.len()).max().unwrap_or(4);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:width$}  {:6} {:8} {:>8} {:>6} {:>10} {:>9} {:>8} {:>8}  backends",
            "path", "family", "protocol", "requests", "failed", "bytes", "Mbit/s", "p50", "p99"
        );
        for row in &self.rows {
            let spread: Vec<String> = row.backends.iter().map(|(name, count)| format!("{name} {count}")).collect();
            let _ = writeln!(
                out,
                "{:width$}  {:6} {:8} {:>8} {:>6} {:>10} {:>9.1} {:>8} {:>8}  {}",
                row.path,
                row.family,
                row.protocol,
                row.requests,
                row.failed + row.wrong,
                amount(row.bytes),
                row.megabits_per_second,
                time(row.p50_us),
                time(row.p99_us),
                spread.join(", ")
            );
        }
        let status = &self.status;
        let _ = writeln!(
            out,
            "\nbooks: received {} = forwarded {} + punted {} + dropped {}: {}",
            status.received,
            status.forwarded,
            status.punted,
            status.dropped,
            if status.is_even() { "even" } else { "UNEVEN" }
        );
        for (reason, count) in status.drops.iter().filter(|(_, count)| **count > 0) {
            let _ = writeln!(out, "  dropped {reason}: {count}");
        }
        let _ = writeln!(
            out,
            "snapshots published: {}; from object change to workers using it: last {}, p50 {}, p99 {}",
            status.published,
            milliseconds(status.change_to_use_ms.last),
            milliseconds(status.change_to_use_ms.p50),
            milliseconds(status.change_to_use_ms.p99)
        );
        for (family, after) in &self.replacement.udp_moved_after_ms {
            let _ = writeln!(out, "endpoint replaced, {family}: the UDP flow moved after {after} ms");
        }
        for (family, answers) in &self.replacement.tcp_answers_after {
            let _ = writeln!(
                out,
                "endpoint replaced, {family}: the TCP connection ran on with {answers} answers of the old endpoint"
            );
        }
        let _ = writeln!(out, "Service without endpoints: {} connections refused at once", self.refused_at_once);
        if self.problems.is_empty() {
            out += "\nFine: nothing failed, nothing came back wrong, the books are even.\n";
        } else {
            let _ = writeln!(out, "\n{} problems:", self.problems.len());
            for problem in &self.problems {
                let _ = writeln!(out, "  - {problem}");
            }
        }
        out
    }
}

fn amount(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn time(us: Option<u64>) -> String {
    match us {
        None => "-".into(),
        Some(us @ 0..10_000) => format!("{us} us"),
        Some(us) => format!("{:.1} ms", us as f64 / 1e3),
    }
}

fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.1} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_recorded_counts() {
        let recorded = [(10, 98), (500, 1), (9000, 1)];
        assert_eq!(quantile(&recorded, 0.5), Some(10));
        assert_eq!(quantile(&recorded, 0.99), Some(500));
        assert_eq!(quantile(&recorded, 1.0), Some(9000));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
