//! `atalho-bench`: how fast it is, beside the kernel's own forwarding, in one run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use atalho_benches::bench::agent;
use atalho_benches::bench::engine::{EngineBench, EngineCase};
use atalho_benches::bench::live::{self, LiveOptions};
use atalho_benches::bench::output::{Output, keep};
use atalho_benches::bench::report::{BenchReport, Machine};
use atalho_benches::bench::{snapshot, table};
use atalho_benches::lab::signal::Interrupt;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "atalho-bench", about = "Packets per second and what they cost, beside the kernel's forwarding")]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Subcommand)]
enum Command {
    /// The pipeline alone, in memory; needs no root.
    Engine(EngineArguments),
    /// What it costs to publish tables and to look at them; needs no root, but two cores.
    Snapshot(SnapshotArguments),
    /// Look-ups of the connection table beside what its memory gives; needs no root.
    Table(table::TableArguments),
    /// Sends and judges inside a namespace (orders on standard input).
    #[command(hide = true)]
    Agent,
}

#[derive(clap::Args)]
struct RunArguments {
    /// 7 pairs of 1 second instead of 15 of 2.
    #[arg(long)]
    quick: bool,
    #[arg(long)]
    pairs: Option<usize>,
    /// Of each stretch of sending.
    #[arg(long)]
    seconds: Option<f64>,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Starts the names of all namespaces.
    #[arg(long, default_value = "ab")]
    prefix: String,
    /// Where the figures are kept; benches/results if not given.
    #[arg(long, value_name = "FOLDER")]
    results: Option<PathBuf>,
}

#[derive(clap::Args)]
struct EngineArguments {
    /// Established flows.
    #[arg(long, default_value_t = 1024)]
    flows: u32,
    /// Of a hundred packets, how many begin a new flow.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    new: u32,
    /// How long to measure.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(clap::Args)]
struct SnapshotArguments {
    /// How long to measure.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Engine(arguments)) => engine(&arguments),
        Some(Command::Snapshot(arguments)) => snapshot(&arguments),
        Some(Command::Table(arguments)) => table::run(&arguments),
        Some(Command::Agent) => agent::serve().map(|()| true),
        None => run(arguments.run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("atalho-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn engine(arguments: &EngineArguments) -> Result<bool> {
    let EngineArguments { flows, new, seconds, output } = arguments;
    ensure!((0.0..=600.0).contains(seconds), "--seconds {seconds}: 0 to 600");
    let mut bench = EngineBench::new(EngineCase { flows: *flows, new_percent: *new })?;
    let figures = bench.run(Duration::from_secs_f64(*seconds))?;
    match output {
        Output::Json => println!("{}", serde_json::to_string(&figures)?),
        Output::Text => println!(
            "{:.1} ns per packet ({:.1}-{:.1}), {} flows, {} % new, {} packets",
            figures.ns_per_packet,
            figures.ns_per_packet_low,
            figures.ns_per_packet_high,
            figures.flows,
            figures.new_percent,
            figures.packets
        ),
    }
    Ok(true)
}

fn snapshot(arguments: &SnapshotArguments) -> Result<bool> {
    let SnapshotArguments { seconds, output } = arguments;
    ensure!((0.1..=600.0).contains(seconds), "--seconds {seconds}: 0.1 to 600");
    let figures = snapshot::run(Duration::from_secs_f64(*seconds))?;
    match output {
        Output::Json => println!("{}", serde_json::to_string(&figures)?),
        Output::Text => {
            println!("{:<30} {:>12} {:>22} {:>13}", "CPU ns (median)", "look", "look while published", "publish");
            for of in figures {
                println!(
                    "{:<30} {:>12.1} {:>22.1} {:>13.0}",
                    of.way, of.look_ns.median, of.look_while_published_ns.median, of.publish_ns.median
                );
            }
        }
    }
    Ok(true)
}

/// Ends with `false` where the machine was too restless for its ratios to mean anything.
fn run(arguments: RunArguments) -> Result<bool> {
    let (pairs, seconds) = if arguments.quick { (7, 1.0) } else { (15, 2.0) };
    let bench = std::env::current_exe()?;
    let options = LiveOptions {
        atalho: beside(&bench, "atalho")?,
        bench,
        prefix: arguments.prefix,
        pairs: arguments.pairs.unwrap_or(pairs),
        seconds: arguments.seconds.unwrap_or(seconds),
    };
    let machine = Machine::read()?;
    let report = BenchReport::new(machine, live::run(&options, &Interrupt::watch()?)?)?;
    let json = serde_json::to_string(&report)?;
    keep(arguments.results.as_deref(), "bench", &json)?;
    match arguments.output {
        Output::Json => println!("{json}"),
        Output::Text => print!("{}", report.text()),
    }
    Ok(report.steady)
}

/// Another program of ours, as cargo builds them.
fn beside(program: &Path, name: &str) -> Result<PathBuf> {
    let path = program.with_file_name(name);
    ensure!(path.exists(), "{} is not built: run ./scripts/bench, or build it first", path.display());
    Ok(path)
}
