//! `atalho flows`: asks the daemon part by part and prints each as it comes.

use std::io::{ErrorKind, Result, Write};
use std::path::PathBuf;

use serde_json::json;

use super::{Filter, FlowRow, Part};
use crate::server::{AskError, Client};

/// What `atalho flows` is asked for.
pub struct FlowsOptions {
    pub run_dir: PathBuf,
    pub node: String,
    pub filter: Filter,
    /// At most so many.
    pub limit: Option<u64>,
    pub json: bool,
}

/// Prints the connections that the filter lets through. 0: all of them, or as many as the limit says; 1: the daemon
/// went away in the middle; 2: nothing could be asked, the reason on stderr.
pub fn run(options: &FlowsOptions, out: &mut dyn Write) -> u8 {
    let mut client = match Client::connect(&options.run_dir, &options.node) {
        Ok(client) => client,
        Err(error) => return failed(&error, 0),
    };
    let limit = options.limit.unwrap_or(u64::MAX);
    let (mut from, mut shown) = (Some(0), 0);
    while let Some(bucket) = from.filter(|_| shown < limit) {
        let request = json!({"ask": "flows", "from": bucket, "filter": options.filter});
        let part: Part = match client.ask_for(&request) {
            Ok(part) => part,
            Err(error) => return failed(&error, bucket),
        };
        let rows = part.flows.iter().take(usize::try_from(limit - shown).unwrap_or(usize::MAX));
        let head = (bucket == 0 && !options.json).then_some(HEAD);
        if let Err(error) = write(out, head, rows.clone(), options.json) {
            return written_to_nobody(&error);
        }
        shown += rows.len() as u64;
        from = part.next;
        if !options.json && (from.is_none() || shown >= limit) {
            // A closed pipe is the reader's choice.
            let _ = writeln!(out, "{shown} shown, {} in the table", part.total);
        }
    }
    0
}

fn failed(error: &AskError, bucket: u64) -> u8 {
    eprintln!("atalho flows: {error}");
    if bucket == 0 { 2 } else { 1 }
}

fn written_to_nobody(error: &std::io::Error) -> u8 {
    if error.kind() == ErrorKind::BrokenPipe {
        return 0;
    }
    eprintln!("atalho flows: writing the answer: {error}");
    1
}

const HEAD: &str = "PROTO  STATE        IDLE     SOURCE                 DESTINATION            GOES ON AS";

fn write<'r>(
    out: &mut dyn Write,
    head: Option<&str>,
    rows: impl Iterator<Item = &'r FlowRow>,
    json: bool,
) -> Result<()> {
    if let Some(head) = head {
        writeln!(out, "{head}")?;
    }
    for row in rows {
        match json {
            true => {
                serde_json::to_writer(&mut *out, row)?;
                writeln!(out)?;
            }
            false => writeln!(out, "{}", text(row))?,
        }
    }
    out.flush()
}

/// One line for people; of the translation what differs.
pub(super) fn text(row: &FlowRow) -> String {
    let idle = format!("{} s", row.idle_s);
    let new = match (row.new_source != row.source, row.new_destination != row.destination) {
        (false, false) => "unchanged".to_owned(),
        (true, false) => format!("from {}", row.new_source),
        (false, true) => format!("to {}", row.new_destination),
        (true, true) => format!("from {} to {}", row.new_source, row.new_destination),
    };
    let service = row.service.as_deref().map(|service| format!("  {service}")).unwrap_or_default();
    let came_in = row.came_in.as_deref().unwrap_or("a port that is gone");
    format!(
        "{:<6} {:<12} {idle:<8} {:<22} {:<22} {new}{service}, in by {came_in}",
        row.protocol, row.state, row.source, row.destination
    )
}
