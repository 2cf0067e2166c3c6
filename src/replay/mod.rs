//! `atalho replay`: captured packets through the engine, the slow path and the timers of a node, without one.
//!
//! The capture's timestamps are the clock, its interfaces are the ports, a seed is the chance: the same files give the
//! same bytes on every machine. Nothing here decides about packets. What decides is what a node runs: claims and tables
//! compiled from objects, the pipeline, the slow path, the scan for idle flows. Everything streams, so that memory does
//! not depend on the length of the capture.
//!
//! The story of a packet: `feed.rs` reads it and lets happen what is due before it, `claims.rs` tells whether the kernel
//! side would give it to a worker at all, `worker.rs` runs it, `out.rs` writes what leaves, `report.rs` says so.

mod claims;
mod clock;
mod feed;
mod fragments;
mod node;
mod objects;
mod out;
mod ports;
mod progress;
mod report;
mod seen;
mod worker;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, ensure};
use atalho_control::config::Config;
use clap::Args;

use crate::{ConfigArgument, Format, OutputArgument};
use feed::{Ended, Feed};
use node::Node;
use objects::Objects;
use out::Out;
use ports::Ports;
use report::Report;

/// Everything was run, on all the objects.
const FINE: u8 = 0;
/// Some objects were refused, or the capture ends in damage.
const DEGRADED: u8 = 1;

/// Bytes read and written at once.
const FILE_BUFFER_BYTES: usize = 1 << 18;

#[derive(Args)]
pub struct ReplayArguments {
    /// The cluster's objects: every YAML and JSON file below this folder.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    #[command(flatten)]
    config: ConfigArgument,
    /// The node to be; default: the configuration's.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The capture (pcapng). Its interfaces are named as ports: uplink, node, pod:NAMESPACE/NAME.
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Where to write what would have been sent (pcapng).
    #[arg(long = "out", value_name = "FILE")]
    output_file: PathBuf,
    /// Replace the objects by those below DIR, so many seconds after the first packet; may be given several times.
    #[arg(long = "then", value_name = "SECONDS=DIR")]
    changes: Vec<LaterObjects>,
    /// Go on until so many seconds after the first packet.
    #[arg(long, value_name = "SECONDS")]
    until: Option<Seconds>,
    /// Where all chance comes from.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    output: OutputArgument,
}

/// A time after the first packet, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seconds {
    ns: u64,
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(Self { ns: (seconds * 1e9).round() as u64 }),
            _ => Err(format!("{text:?} is no number of seconds, as 5 or 0.25")),
        }
    }
}

/// Objects that come into force later.
#[derive(Debug, Clone)]
struct LaterObjects {
    at: Seconds,
    folder: PathBuf,
}

impl FromStr for LaterObjects {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (seconds, folder) = text.split_once('=').ok_or("wanted SECONDS=DIR, as 5.0=later")?;
        Ok(Self { at: seconds.parse()?, folder: folder.into() })
    }
}

/// Runs the command; the exit code. An error means that nothing was done.
pub fn run(arguments: ReplayArguments) -> anyhow::Result<u8> {
    let mut config = Config::load(arguments.config.config.as_deref())?;
    if let Some(name) = arguments.node {
        config.node.name = name;
    }
    let mut changes = arguments.changes;
    changes.sort_by_key(|change| change.at);
    let folders = std::iter::once(&arguments.manifests).chain(changes.iter().map(|change| &change.folder));
    let objects = Objects::load(config, folders)?;
    let mut node = Node::new(objects.config(), arguments.seed);
    node.publish(&objects);

    let name = arguments.input.display();
    let input = File::open(&arguments.input).with_context(|| format!("{name}: the capture cannot be opened"))?;
    ensure!(
        !is_same_file(&input, &arguments.output_file),
        "{name}: --out names the capture that is read; name another file"
    );
    let input = BufReader::with_capacity(FILE_BUFFER_BYTES, input);
    let writing = || format!("{}: cannot be written", arguments.output_file.display());
    let output =
        BufWriter::with_capacity(FILE_BUFFER_BYTES, File::create(&arguments.output_file).with_context(writing)?);
    let mut ports = Ports::new(objects.port_names());
    ports.set(objects.compiled());
    let report = Report::new(arguments.output.output == Format::Json)?;
    let mut out = Out::new(output, ports, report).with_context(writing)?;

    let mut feed = Feed::new(node, objects, changes.iter().map(|change| change.at.ns).collect());
    let ended = feed.run(input, arguments.until.map(|until| until.ns), &mut out).context("write the results")?;
    out.flush().with_context(writing)?;
    let mut code = FINE;
    for refusal in feed.refusals() {
        say(&format!("refused: {refusal}"));
        code = DEGRADED;
    }
    if let Some(at_ns) = feed.left_over_ns() {
        let at_s = at_ns as f64 / 1e9;
        say(&format!("--then {at_s}: the run ended before it; --until {at_s} goes on so far"));
    }
    match ended {
        Ended::AtTheEnd => {}
        Ended::Damaged { packets: 0, why } => anyhow::bail!("{name}: {why}"),
        Ended::Damaged { packets, why } => {
            say(&format!("{name}: {why}. The {packets} packets before were run, and nothing after"));
            code = DEGRADED;
        }
    }
    ensure!(feed.is_even(), "the books do not add up: a bug, please report it with this capture");
    out.report.finish().context("write the report")?;
    Ok(code)
}

fn is_same_file(open: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (open.metadata(), path.metadata()) {
        (Ok(open), Ok(other)) => open.is_file() && identity(open) == identity(other),
        _ => false,
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "atalho replay: {line}");
}
