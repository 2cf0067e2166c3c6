//! `atalho-lab`: builds the lab, drives traffic through it, tells what came of it. Also the agent inside the namespaces.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use atalho_benches::lab::lock::Lock;
use atalho_benches::lab::plan::Plan;
use atalho_benches::lab::run::{RunOptions, run};
use atalho_benches::lab::session::{Programs, Session};
use atalho_benches::lab::signal::Interrupt;
use atalho_benches::lab::{network, objects, paths};
use atalho_benches::traffic::client::JobKind;
use atalho_benches::traffic::flood::{self, Flood};
use atalho_benches::traffic::{agent, junk, raw, spread};
use atalho_benches::{apiserver, lab::plan::Family};
use clap::{Parser, Subcommand, ValueEnum};
use pnet_datalink::MacAddr;

#[derive(Parser)]
#[command(
    name = "atalho-lab",
    about = "A Kubernetes node made of network namespaces, with the daemon in it and traffic through it"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the lab, run the daemon in it, drive traffic, tell what happened, clean up.
    Run(RunArguments),
    /// Take away what a killed lab left behind.
    Clean {
        #[arg(long, default_value = "at")]
        prefix: String,
    },
    /// Prove the lab itself: plain kernel routing and no daemon.
    SelfTest {
        #[arg(long, default_value = "at-self")]
        prefix: String,
    },
    /// The agent inside a namespace (orders on standard input).
    #[command(hide = true)]
    Agent,
    /// Send frames that nobody should send.
    #[command(hide = true)]
    Junk(JunkArguments),
    /// Send frames, given a line each in hexadecimal digits, and print how many were sent.
    #[command(hide = true)]
    Frames {
        #[arg(long)]
        interface: String,
        #[arg(long)]
        copies: u64,
    },
    /// Send datagrams at a pace, and print how many were sent.
    #[command(hide = true)]
    Flood(FloodArguments),
    /// Begin flows: send one datagram to each of many addresses and ports, and print how many were sent.
    #[command(hide = true)]
    Spread {
        #[arg(long)]
        to: std::net::Ipv4Addr,
        #[arg(long)]
        flows: u32,
        #[arg(long)]
        pps: u32,
    },
    /// Count the datagrams that come to each address until the standard input ends.
    #[command(hide = true)]
    Count {
        #[arg(required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Create or change objects at an API server, from YAML files.
    Apply {
        #[arg(long)]
        kubeconfig: PathBuf,
        files: Vec<PathBuf>,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    /// Seconds of traffic.
    #[arg(long, default_value_t = 24.0)]
    seconds: f64,
    /// Pods on the node.
    #[arg(long, default_value_t = 4)]
    pods: usize,
    /// Workers; one per core and queue if not given.
    #[arg(long)]
    workers: Option<u32>,
    /// Take the objects from a real kube-apiserver, whose binaries are in this folder.
    #[arg(long, value_name = "FOLDER")]
    api_server: Option<PathBuf>,
    /// Leave everything standing until Ctrl-C.
    #[arg(long)]
    stay: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Starts the names of all namespaces; another one lets a second lab run at the same time.
    #[arg(long, default_value = "at")]
    prefix: String,
}

#[derive(clap::Args)]
struct JunkArguments {
    #[arg(long)]
    interface: String,
    /// MAC address of the next hop.
    #[arg(long, value_parser = mac)]
    to: MacAddr,
    #[arg(long)]
    count: u64,
    #[arg(long)]
    seed: u64,
    /// Own addresses, one of each family at least.
    #[arg(long, required = true)]
    source: Vec<IpAddr>,
}

#[derive(clap::Args)]
struct FloodArguments {
    #[arg(long)]
    to: SocketAddr,
    /// Datagrams a second.
    #[arg(long)]
    pps: u64,
    #[arg(long)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    flows: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("atalho-lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn execute(command: Command) -> Result<bool> {
    match command {
        Command::Run(arguments) => {
            anyhow::ensure!(
                (2.0..=3600.0).contains(&arguments.seconds),
                "--seconds {}: 2 to 3600, for the endpoint is replaced half-way",
                arguments.seconds
            );
            let options = RunOptions {
                plan: Plan { pods: arguments.pods, ..Plan::new(&arguments.prefix) },
                programs: programs()?,
                seconds: arguments.seconds,
                workers: arguments.workers,
                api_server: arguments.api_server,
                stay: arguments.stay,
                json: arguments.output == Output::Json,
            };
            run(&options, &Interrupt::watch()?)
        }
        Command::Clean { prefix } => {
            Plan::new(&prefix).check()?;
            let _lock = Lock::take(&prefix)?;
            network::remove(&prefix);
            Ok(true)
        }
        Command::SelfTest { prefix } => self_test(&prefix),
        Command::Agent => agent::run().map(|()| true).context("the agent cannot go on"),
        Command::Junk(arguments) => send_junk(&arguments).map(|()| true),
        Command::Frames { interface, copies } => {
            println!("{}", raw::send_lines(&interface, copies, std::io::stdin().lock())?);
            Ok(true)
        }
        Command::Flood(FloodArguments { to, pps, seconds, flows }) => {
            println!("{}", flood::send(&Flood { to, pps, seconds, flows })?);
            Ok(true)
        }
        Command::Spread { to, flows, pps } => {
            println!("{}", spread::send(to, flows, pps)?);
            Ok(true)
        }
        Command::Count { addresses } => {
            let counts: Vec<String> = flood::count(&addresses)?.iter().map(ToString::to_string).collect();
            println!("{}", counts.join(" "));
            Ok(true)
        }
        Command::Apply { kubeconfig, files } => apiserver::apply(&kubeconfig, &files).map(|()| true),
    }
}

fn programs() -> Result<Programs> {
    Programs::beside(&std::env::current_exe()?)
}

fn mac(text: &str) -> Result<MacAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no MAC address: six pairs of hexadecimal digits"))
}

/// Prints how many frames the kernel took.
fn send_junk(arguments: &JunkArguments) -> Result<()> {
    let sender = junk::Sender { interface: &arguments.interface, to: arguments.to, sources: arguments.source.clone() };
    println!("{}", sender.send(arguments.count, arguments.seed)?);
    Ok(())
}

/// Plain routing by the node's kernel: what fails here is the lab's fault, not the daemon's.
fn self_test(prefix: &str) -> Result<bool> {
    let plan = Plan { forwarding: true, ..Plan::new(prefix) };
    let lab = std::env::current_exe()?;
    let mut session = Session::build(&plan, &Programs { atalho: lab.clone(), lab })?;
    objects::write(&plan)?;
    let mut all_well = true;
    for path in Family::BOTH.into_iter().flat_map(paths::without_services) {
        for kind in [JobKind::Tcp, JobKind::Udp, JobKind::Bulk] {
            let id = session.ask(path.from, paths::job(&path, kind, 1.0))?;
            let outcome = session.wait_for(&[id], std::time::Duration::from_secs(10))?.remove(0);
            let complaints = paths::complaints(&path, kind, &outcome);
            println!(
                "{} {} {}: {} requests, {} bytes",
                path.name,
                path.family.name(),
                paths::kind_name(kind),
                outcome.requests,
                outcome.bytes
            );
            for complaint in &complaints {
                println!("  {complaint}");
            }
            all_well &= complaints.is_empty();
        }
    }
    Ok(all_well)
}
