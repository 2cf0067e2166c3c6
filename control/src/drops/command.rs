//! `atalho drops`: asks the daemon and prints its answer.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use super::Drops;
use crate::server::Client;

/// What `atalho drops` is asked for.
pub struct DropsOptions {
    pub run_dir: PathBuf,
    pub node: String,
    pub json: bool,
}

/// Prints what was dropped. 0; 1: some counters could not be read; 2: no daemon, the reason on stderr.
pub fn run(options: &DropsOptions, out: &mut dyn Write) -> u8 {
    let answer = Client::connect(&options.run_dir, &options.node)
        .and_then(|mut client| client.ask_for::<Drops>(&json!({"ask": "drops"})));
    let drops = match answer {
        Ok(drops) => drops,
        Err(error) => {
            eprintln!("atalho drops: {error}");
            return 2;
        }
    };
    let json = || serde_json::to_string(&drops).unwrap_or_default();
    let text = if options.json { json() } else { text_of(&drops) };
    // A closed pipe is the reader's choice.
    let _ = writeln!(out, "{}", text.trim_end());
    u8::from(!drops.faults.is_empty())
}

/// The drops for people.
pub(super) fn text_of(drops: &Drops) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let s = &mut text;
    if drops.drops.is_empty() {
        let _ = writeln!(s, "nothing was dropped");
    }
    for drop in &drops.drops {
        let _ = writeln!(s, "{:>12}  {}, by {}: {}", drop.packets, drop.reason, drop.by.name(), drop.text);
        let _ = writeln!(s, "{:>12}  {}", "", drop.next_step);
    }
    if !drops.pods.is_empty() {
        let _ = writeln!(s, "\nof these, by pod:");
    }
    for drop in &drops.pods {
        let _ = writeln!(s, "{:>12}  {}: {}", drop.packets, drop.pod, drop.reason);
    }
    if !drops.sockets.is_empty() {
        let _ = writeln!(s, "\nbeside these, by the kernel at the workers' sockets:");
    }
    for drop in &drops.sockets {
        let (worker, port) = (drop.worker, &drop.port);
        let _ = writeln!(s, "{:>12}  {}, {port} of worker {worker}: {}", drop.packets, drop.reason, drop.text);
        let _ = writeln!(s, "{:>12}  {}", "", drop.next_step);
    }
    for fault in &drops.faults {
        let _ = writeln!(s, "\nfault: {fault}");
    }
    text
}
