//! `atalho-bench`: how fast it is, beside its peers, in one run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atalho_benches::bench::agent;
use atalho_benches::bench::alone::AloneRecord;
use atalho_benches::bench::cluster::{Cluster, SERVICES_MAX};
use atalho_benches::bench::contender::{Tools, l2fwd};
use atalho_benches::bench::engine::{EngineBench, EngineCase};
use atalho_benches::bench::groups::Chosen;
use atalho_benches::bench::machine::Machine;
use atalho_benches::bench::output::{Output, keep};
use atalho_benches::bench::priority::Ahead;
use atalho_benches::bench::progress::Progress;
use atalho_benches::bench::report::BenchReport;
use atalho_benches::bench::sites::{LiveOptions, Sites};
use atalho_benches::bench::{
    chart, churn, control, density, document, groups, instructions, latency, live, scale, scan, schedule, setup,
    snapshot, stages, table,
};
use atalho_benches::lab::lock::Lock;
use atalho_benches::lab::signal::Interrupt;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "atalho-bench", about = "Packets per second and what they cost, beside the peers, in one run")]
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
    /// Where the nanoseconds of the pipeline go, stage by stage; needs no root.
    Stages(stages::StagesArguments),
    /// What it costs to publish tables and to look at them; needs no root, but two cores.
    Snapshot(SnapshotArguments),
    /// Look-ups of the connection table beside what its memory gives; needs no root.
    Table(table::TableArguments),
    /// What memory a connection takes; needs no root.
    Density(density::DensityArguments),
    /// What a second worker brings; needs no root, but two cores.
    Scale(scale::ScaleArguments),
    /// What it takes to look for flows that must end; needs no root.
    Scan(scan::ScanArguments),
    /// How fast connections are set up on the way to a million; needs no root.
    Setup(setup::SetupArguments),
    /// EndpointSlices that change hundreds of times a second, under traffic with a million flows.
    Churn(churn::ChurnArguments),
    /// Changes EndpointSlices at an API server.
    #[command(hide = true)]
    Changes(churn::ChangesArguments),
    /// Instructions of a packet beside the kept counts; needs valgrind and no root.
    Instructions(instructions::InstructionsArguments),
    /// Sends and judges inside a namespace (orders on standard input).
    #[command(hide = true)]
    Agent,
    /// Sends back what comes in, by raw AF_XDP, until its standard input ends.
    #[command(hide = true)]
    Reflect {
        #[arg(long)]
        interface: String,
        #[arg(long)]
        core: usize,
    },
    /// What control takes for a cluster, in this process alone; prints the figures.
    #[command(hide = true)]
    Tables(control::ours::Asked),
    /// Puts a cluster's objects to an API server.
    #[command(hide = true)]
    Put {
        #[arg(long)]
        kubeconfig: PathBuf,
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(SERVICES_MAX)))]
        services: u32,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    /// What to measure: names of groups, or numbers of ratios; all if none is given.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// A smaller cluster and shorter stretches: under five minutes in all. This is what is done by default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// The whole of it, ten thousand Services included: under thirty minutes.
    #[arg(long)]
    full: bool,
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
    /// Puts the tables into README.md, the charts into docs, and the figures into benches/results/sample.json.
    #[arg(long)]
    readme: bool,
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
        Some(Command::Stages(arguments)) => stages::run(&arguments),
        Some(Command::Snapshot(arguments)) => snapshot(&arguments),
        Some(Command::Table(arguments)) => table::run(&arguments),
        Some(Command::Density(arguments)) => density::run(&arguments),
        Some(Command::Scale(arguments)) => scale::run(&arguments),
        Some(Command::Scan(arguments)) => scan::run(&arguments),
        Some(Command::Setup(arguments)) => setup::run(&arguments),
        Some(Command::Churn(arguments)) => churn::run(&arguments),
        Some(Command::Changes(arguments)) => churn::make(&arguments).map(|()| true),
        Some(Command::Instructions(arguments)) => instructions::run(&arguments),
        Some(Command::Agent) => agent::serve().map(|()| true),
        Some(Command::Reflect { interface, core }) => l2fwd::run(&interface, core).map(|()| true),
        Some(Command::Put { kubeconfig, services }) => Cluster { services }.put(&kubeconfig).map(|()| true),
        Some(Command::Tables(asked)) => asked.run().map(|()| true),
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
    let quick = !arguments.full;
    for name in &arguments.names {
        ensure!(
            !groups::chosen(std::slice::from_ref(name), quick).is_empty(),
            "nothing is called {name:?}: {}, or a ratio's number",
            groups::names().join(", ")
        );
    }
    let chosen = groups::chosen(&arguments.names, quick);
    let bench = std::env::current_exe()?;
    let tools = Tools { atalho: beside(&bench, "atalho")?, lab: beside(&bench, "atalho-lab")?, bench };
    let usual = LiveOptions::new(tools, &arguments.prefix, quick);
    let options = LiveOptions {
        pairs: arguments.pairs.unwrap_or(usual.pairs),
        seconds: arguments.seconds.unwrap_or(usual.seconds),
        ..usual
    };
    let mut report = BenchReport::new(Machine::read()?);
    let interrupt = Interrupt::watch()?;
    let mut sites = Sites::new(&options)?;
    let _lock = Lock::take(&options.prefix)?;
    let _ahead = Ahead::take();
    let progress = Progress::new(schedule::of_run_s(&chosen, &options, quick), schedule::limit_s(quick));
    let mut alone = AloneRecord::default();
    for part in &chosen.alone {
        live::stop_if(&interrupt)?;
        progress.say(part.name());
        part.measure(quick, &mut alone)?;
        progress.done(schedule::of_part_s(*part, quick));
    }
    report.add_alone(alone);
    for (index, group) in chosen.groups.iter().enumerate() {
        report.add_group(group, live::run(group, &mut sites, &progress, &interrupt)?);
        let later = Chosen { groups: chosen.groups[index + 1..].to_vec(), ..chosen.clone() };
        sites.keep(|peer| later.peers().any(|needed| needed == peer));
    }
    if let Some(group) = &chosen.latency {
        report.add_latency(group, latency::run(group, &mut sites, &progress, &interrupt)?);
    }
    if let Some(group) = &chosen.control {
        report.add_control(group, control::run(group, &mut sites, &progress, &interrupt)?);
    }
    report.seconds = progress.elapsed().as_secs_f64();
    let json = serde_json::to_string(&report)?;
    let kept = keep(arguments.results.as_deref(), "bench", &json)?;
    for (name, svg) in chart::all(&report)? {
        let path = kept.with_extension(format!("{name}.svg"));
        fs::write(&path, svg).with_context(|| format!("cannot keep {}", path.display()))?;
    }
    if arguments.readme {
        document::update(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &report, &json)?;
    }
    match arguments.output {
        Output::Json => println!("{json}"),
        Output::Text => print!("{}", report.text()),
    }
    Ok(report.is_steady())
}

/// Another program of ours, as cargo builds them.
fn beside(program: &Path, name: &str) -> Result<PathBuf> {
    let path = program.with_file_name(name);
    ensure!(path.exists(), "{} is not built: run ./scripts/bench, or build it first", path.display());
    Ok(path)
}
