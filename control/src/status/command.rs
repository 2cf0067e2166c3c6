//! `atalho status`: asks the daemon and prints its answer, as a table for people or as it is.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use super::Status;
use crate::server::{self, AskError};

/// What `atalho status` is asked for.
pub struct StatusOptions {
    pub run_dir: PathBuf,
    pub node: String,
    pub json: bool,
}

/// Prints the daemon's status. 0: ready; 1: starting or degraded; 2: no daemon, the reason on stderr.
pub fn run(options: &StatusOptions, out: &mut dyn Write) -> u8 {
    let answer = match server::ask(&options.run_dir, &options.node, &json!({"ask": "status"})) {
        Ok(answer) => answer,
        Err(error @ (AskError::NoDaemon(_) | AskError::Refused(_))) => {
            eprintln!("{error}");
            return 2;
        }
    };
    let text = if options.json {
        answer.to_string()
    } else {
        match serde_json::from_value::<Status>(answer.clone()) {
            Ok(status) => text_of(&status),
            Err(error) => {
                eprintln!("the daemon is of another version than this command: {error}; use its own `atalho status`");
                return 2;
            }
        }
    };
    // A closed pipe is the reader's choice.
    let _ = writeln!(out, "{}", text.trim_end());
    u8::from(answer["state"] != "ready")
}

/// The status for people.
pub(super) fn text_of(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let s = &mut text;
    let _ = writeln!(s, "{}: {}", status.node, status.state);
    if let Some(api) = &status.api {
        let _ = writeln!(s, "  API server: {api}");
    }
    if let Some(since) = &status.failing_since {
        let _ = writeln!(s, "  since: {since}");
    }
    if !status.waiting_for.is_empty() {
        let _ = writeln!(s, "  waiting for the first list of: {}", status.waiting_for.join(", "));
    }
    for fault in &status.faults {
        let _ = writeln!(s, "  fault: {fault}");
    }
    for (what, times) in &status.restarts {
        let _ = writeln!(s, "  begun anew after a panic: {what}, {times} times");
    }
    let _ = writeln!(
        s,
        "\ntables    generation {}, {} snapshots, {} Services, {} endpoints",
        status.generation, status.published, status.services, status.endpoints
    );
    let change = &status.change_to_use_ms;
    if let (Some(last), Some(p50), Some(p99)) = (change.last, change.p50, change.p99) {
        let _ = writeln!(s, "          change to use: last {last} ms, p50 {p50} ms, p99 {p99} ms");
    }
    let _ = writeln!(
        s,
        "flows     {} of {}, {} ended by changes, {} evicted",
        status.flows, status.flows_max, status.flows_ended, status.flows_evicted
    );
    let _ = writeln!(
        s,
        "packets   received {} = forwarded {} + punted {} + dropped {}; answers of our own {}, not sent {}",
        status.received, status.forwarded, status.punted, status.dropped, status.originated, status.unsent
    );
    let slow_path = &status.slow_path;
    let lists = [
        ("drops", &status.drops),
        ("punts", &status.punts),
        ("answered", &slow_path.answered),
        ("given up", &slow_path.dropped),
        ("kernel", &status.kernel),
    ];
    for (title, counts) in lists {
        let mut title = title;
        for (name, count) in counts.iter().filter(|(_, count)| **count > 0) {
            let _ = writeln!(s, "{title:<9} {count:>12}  {name}");
            title = "";
        }
    }
    for (pod, drops) in &status.pod_drops {
        let drops: Vec<String> = drops.iter().map(|(name, packets)| format!("{name} {packets}")).collect();
        let _ = writeln!(s, "pod       {:>12}  {}", pod, drops.join(", "));
    }
    if slow_path.waiting > 0 {
        let _ = writeln!(s, "waiting   {:>12}  for a neighbour", slow_path.waiting);
    }
    let _ = writeln!(s, "\nworker  core  queues       packets/s   busy %      received     forwarded       dropped");
    for (i, worker) in status.workers.iter().enumerate() {
        let queues: Vec<String> = worker.queues.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            s,
            "{i:>6}  {:>4}  {:<8} {:>13} {:>8.1} {:>13} {:>13} {:>13}{}",
            worker.core,
            queues.join(","),
            worker.pps,
            worker.busy_percent,
            worker.received,
            worker.forwarded,
            worker.dropped,
            if worker.asleep { "  asleep" } else { "" }
        );
    }
    for (title, lines) in [("neighbours that have not answered", &status.unresolved)] {
        if !lines.is_empty() {
            let _ = writeln!(s, "\n{title}:");
        }
        for line in lines {
            let _ = writeln!(s, "  {line}");
        }
    }
    if !status.refused.is_empty() {
        let _ = writeln!(s, "\nrefused:");
    }
    for refusal in &status.refused {
        let _ = writeln!(s, "  {refusal}");
    }
    text
}
