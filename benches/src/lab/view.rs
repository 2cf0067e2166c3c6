//! What is going on, while it goes on: redrawn in place on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use super::daemon::Status;

/// How often a plain line is written.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

pub struct View {
    redraw: bool,
    lines_drawn: usize,
    last_plain: Option<Instant>,
    last_drops: Vec<(String, u64)>,
}

/// What is shown.
pub struct Moment<'a> {
    pub elapsed: Duration,
    pub total: Duration,
    /// Requests, failures, bytes.
    pub progress: (u64, u64, u64),
    pub status: Option<&'a Status>,
    pub note: &'a str,
}

impl Default for View {
    fn default() -> Self {
        Self { redraw: stderr().is_terminal(), lines_drawn: 0, last_plain: None, last_drops: Vec::new() }
    }
}

impl View {
    pub fn show(&mut self, moment: &Moment<'_>) {
        if !self.redraw && self.last_plain.is_some_and(|last| last.elapsed() < PLAIN_EVERY) {
            return;
        }
        self.last_plain = Some(Instant::now());
        let lines = self.lines(moment);
        let mut out = stderr().lock();
        // The view is no result: a closed terminal must not end the run.
        let _ = if self.redraw {
            let up = if self.lines_drawn > 0 { format!("\x1b[{}A\x1b[J", self.lines_drawn) } else { String::new() };
            self.lines_drawn = lines.len();
            writeln!(out, "{up}{}", lines.join("\n"))
        } else {
            writeln!(out, "{}", lines.join(" | "))
        };
    }

    fn lines(&mut self, moment: &Moment<'_>) -> Vec<String> {
        let (requests, failed, bytes) = moment.progress;
        let (now, total) = (moment.elapsed.as_secs_f64(), moment.total.as_secs_f64().max(1.0));
        let mut head = format!("{now:5.1} s");
        if self.redraw {
            let done = ((now / total).min(1.0) * 30.0) as usize;
            head += &format!(" [{}{}]", "#".repeat(done), ".".repeat(30 - done));
        }
        let mut lines =
            vec![format!("{head} {} {requests} requests, {failed} failed, {:.0} MB", moment.note, bytes as f64 / 1e6)];
        if let Some(status) = moment.status {
            for (number, worker) in status.workers.iter().enumerate() {
                lines.push(format!(
                    "worker {number} (core {}) {:7.1} kpps {:3.0} % busy",
                    worker.core,
                    worker.pps / 1e3,
                    worker.busy_percent
                ));
            }
            lines.push(format!("{} flows, {} dropped{}", status.flows, status.dropped, self.news(status)));
        }
        lines
    }

    /// The reasons whose counts grew since the last look.
    fn news(&mut self, status: &Status) -> String {
        let drops: Vec<(String, u64)> = status.drops.iter().map(|(reason, count)| (reason.clone(), *count)).collect();
        let before = std::mem::replace(&mut self.last_drops, drops);
        let grown: Vec<String> = status
            .drops
            .iter()
            .filter_map(|(reason, count)| {
                let old = before.iter().find(|(name, _)| name == reason).map_or(0, |(_, old)| *old);
                (*count > old).then(|| format!("{reason} +{}", count - old))
            })
            .collect();
        if grown.is_empty() { String::new() } else { format!(" (last: {})", grown.join(", ")) }
    }
}
