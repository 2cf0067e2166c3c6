//! Churn: EndpointSlices change hundreds of times a second at a real API server, while a node with a million flows forwards
//! traffic. What a change takes to be in force, how many are gathered, what scans cost, how long a flow goes to an endpoint that
//! is gone, and that nothing is lost; then the same million flows are read out by `atalho flows`.

mod changes;
mod moving;
mod readings;

use std::fmt;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::apiserver::{self, ApiServer};
use crate::bench::machine::Machine;
use crate::bench::output::OutputArguments;
use crate::lab::command::run_in;
use crate::lab::daemon::{Objects, write_config};
use crate::lab::objects;
use crate::lab::paths::{self, Path};
use crate::lab::plan::{Family, Plan};
use crate::lab::session::{Programs, Session};
use crate::traffic::client::{JobKind, Outcome};

pub use changes::{ChangesArguments, make};
use moving::{Moved, Moving};
use readings::Readings;

/// Nobody lives there: what comes is not answered and not sent back.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 128);
/// New flows a second while the table fills.
const FILL_PPS: u32 = 40_000;
/// How often it is filled at most.
const FILLS_MAX: usize = 6;
/// Connections that the table has room for beyond those it is filled with.
const ROOM: u32 = 200_000;
/// Status and memory are looked at so often.
const LOOK: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub struct ChurnArguments {
    /// Changes a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// How long they last.
    #[arg(long, default_value_t = 120)]
    seconds: u32,
    /// Flows in the table meanwhile.
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    /// 20 seconds of changes.
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    #[arg(long, default_value = "ab-churn")]
    prefix: String,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChurnFigures {
    pub machine: Machine,
    pub seconds: f64,
    pub flows: u64,
    /// Changes that the API server took, a second.
    pub changes_per_s: f64,
    /// Changes that the daemon saw, and publications that they made.
    pub changes: u64,
    pub publications: u64,
    /// From a change's arrival until every worker uses it, milliseconds.
    pub change_to_use_p50_ms: f64,
    pub change_to_use_p99_ms: f64,
    /// From the moment in which the writer made the change until it is in force: of 99 in 100 it was less than this, seconds.
    pub written_to_use_p99_s: f64,
    /// Most changes that waited at once, and for how many there is room.
    pub queue_longest: u64,
    pub queue_max: u64,
    /// Scans for flows whose endpoint is gone; their share of a core.
    pub scans: u64,
    pub scan_ms: f64,
    pub scans_percent: f64,
    /// From a change's arrival until every flow that it ends was found: of 99 in 100 it was less than this, seconds.
    pub change_to_ended_p99_s: f64,
    /// A flow whose endpoint went meanwhile.
    pub moved: Moved,
    /// The daemon's CPU, percent of a core.
    pub cpu_percent: f64,
    pub memory_before_mib: f64,
    pub memory_most_mib: f64,
    /// Requests of the traffic, and how many of them were not answered or answered wrongly.
    pub requests: u64,
    pub lost: u64,
    /// Packets that workers or kernel programs dropped.
    pub dropped: u64,
    /// Flows that were picked again.
    pub repicked: u64,
    pub listed: Listed,
}

/// Reading all flows out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed {
    pub flows: u64,
    pub seconds: f64,
    pub requests: u64,
    pub lost: u64,
}

/// Measures, prints and keeps. `false`: something was lost.
pub fn run(arguments: &ChurnArguments) -> Result<bool> {
    let seconds = if arguments.quick { 20 } else { arguments.seconds };
    ensure!((1..=2000).contains(&arguments.rate), "--rate {}: 1 to 2000", arguments.rate);
    ensure!((5..=600).contains(&seconds), "--seconds {seconds}: 5 to 600");
    ensure!((1000..=4_000_000).contains(&arguments.flows), "--flows {}: 1000 to 4000000", arguments.flows);
    let figures = Churn::build(arguments)?.measure(arguments, seconds)?;
    let has_moved = figures.moved.moves == figures.moved.changes && figures.moved.lost <= figures.moved.moves as u64;
    let well = figures.lost + figures.dropped + figures.repicked + figures.listed.lost == 0 && has_moved;
    arguments.output.show("churn", &[figures])?;
    Ok(well)
}

struct Churn {
    session: Session,
    server: ApiServer,
    held: Vec<(u32, Path, JobKind)>,
}

impl Churn {
    fn build(arguments: &ChurnArguments) -> Result<Self> {
        let plan = Plan::new(&arguments.prefix);
        let programs = Programs::beside(&std::env::current_exe()?)?;
        let binaries = apiserver::binaries()?;
        eprintln!("bench: a lab with an API server");
        let mut session = Session::build(&plan, &programs)?;
        let server = ApiServer::start(&binaries, &plan, &programs.lab)?;
        server.apply(&objects::files(&objects::write(&plan)?)?)?;
        let more = format!("\n[conntrack]\nmax_flows = {}\nudp_s = 86400\n", arguments.flows + ROOM);
        let config = write_config(&plan, None, &more)?;
        session.start_daemon(&config, &Objects::ApiServer { kubeconfig: server.kubeconfig() })?;
        session.daemon_mut()?.wait_ready(Duration::from_secs(60))?;
        Ok(Self { session, server, held: Vec::new() })
    }

    fn measure(mut self, arguments: &ChurnArguments, seconds: u32) -> Result<ChurnFigures> {
        let machine = Machine::read()?;
        let flows = self.fill(arguments.flows)?;
        self.changes(&["--prepare"])?.wait_with_output()?;
        self.hold()?;
        let mut moving = Moving::start(&mut self.session)?;
        self.session.listen(Duration::from_secs(2))?;

        eprintln!("bench: {} changes a second for {seconds} s", arguments.rate);
        let before = Readings::take(&self.session)?;
        let (mut memory_most_mib, start) = (before.memory_mib, Instant::now());
        let mut changes = self.changes(&["--rate", &arguments.rate.to_string(), "--seconds", &seconds.to_string()])?;
        while changes.try_wait()?.is_none() {
            self.session.listen(LOOK)?;
            moving.advance(&self.session, &self.server)?;
            memory_most_mib = f64::max(memory_most_mib, readings::memory_mib(&self.session)?);
        }
        let seconds = start.elapsed().as_secs_f64();
        let said = changes.wait_with_output()?;
        ensure!(said.status.success(), "whoever changes objects ended with {}", said.status);
        let made: changes::Made = serde_json::from_slice(&said.stdout).context("what the changes came to")?;
        let after = Readings::take(&self.session)?;
        let (requests, failed, _) = self.session.progress();
        let listed = self.list(requests, failed)?;

        self.session.stop_jobs()?;
        let ids: Vec<u32> = self.held.iter().map(|held| held.0).collect();
        let outcomes = self.session.wait_for(&ids, Duration::from_secs(30))?;
        let moved = moving.result(&self.session.wait_for(&[moving.id], Duration::from_secs(30))?[0]);
        let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
        let status = self.session.daemon()?.status()?;
        Ok(ChurnFigures {
            machine,
            seconds,
            flows,
            changes_per_s: made.changes as f64 / made.seconds,
            changes: after.changes - before.changes,
            publications: after.publications - before.publications,
            change_to_use_p50_ms: status.change_to_use_ms.p50.unwrap_or_default(),
            change_to_use_p99_ms: status.change_to_use_ms.p99.unwrap_or_default(),
            written_to_use_p99_s: after.programming.since(&before.programming).below(0.99),
            queue_longest: after.queue_longest,
            queue_max: after.queue_max,
            scans: after.scans - before.scans,
            scan_ms: (after.scan_s - before.scan_s) * 1000.0 / (after.scans - before.scans).max(1) as f64,
            scans_percent: (after.scan_s - before.scan_s) * 100.0 / seconds,
            change_to_ended_p99_s: after.ended.since(&before.ended).below(0.99),
            moved,
            cpu_percent: (after.cpu_s - before.cpu_s) * 100.0 / seconds,
            memory_before_mib: before.memory_mib,
            memory_most_mib,
            requests: sum(|outcome| outcome.requests),
            lost: sum(|outcome| outcome.failed + outcome.wrong),
            dropped: after.dropped - before.dropped,
            repicked: sum(|outcome| outcome.moves.len().saturating_sub(1) as u64),
            listed,
        })
    }

    /// Fills the table; returns how many flows there are.
    fn fill(&mut self, flows: u32) -> Result<u64> {
        eprintln!("bench: {flows} flows come");
        let (pod, lab) = (self.session.plan().pod(1), self.session.programs().lab.to_string_lossy().into_owned());
        let (to, flows_text, pps) = (NOBODY.to_string(), flows.to_string(), FILL_PPS.to_string());
        let mut there = 0;
        // What a worker that was held up had no room for comes again.
        for _ in 0..FILLS_MAX {
            run_in(&pod, &lab, &["spread", "--to", &to, "--flows", &flows_text, "--pps", &pps])?;
            there = self.session.daemon()?.settled_status()?.flows;
            if there >= u64::from(flows) {
                break;
            }
        }
        ensure!(there >= u64::from(flows) * 99 / 100, "only {there} of {flows} flows are in the table");
        Ok(there)
    }

    /// Traffic on every path, by flows that last.
    fn hold(&mut self) -> Result<()> {
        for path in Family::BOTH.into_iter().flat_map(paths::paths) {
            for kind in [JobKind::HoldTcp, JobKind::HoldUdp] {
                let mut job = paths::job(&path, kind, 1200.0);
                (job.interval_ms, job.timeout_ms) = (20, 10_000);
                self.held.push((self.session.ask(path.from, job)?, path.clone(), kind));
            }
        }
        Ok(())
    }

    fn changes(&self, words: &[&str]) -> Result<std::process::Child> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.session.plan().far())).arg(std::env::current_exe()?);
        command.arg("changes").arg("--kubeconfig").arg(self.server.kubeconfig()).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start whoever changes objects")
    }

    /// Reads all flows, under the same traffic.
    fn list(&mut self, requests: u64, failed: u64) -> Result<Listed> {
        eprintln!("bench: all flows are read");
        let start = Instant::now();
        let child = Command::new(&self.session.programs().atalho)
            .args(["flows", "-o", "json", "--config"])
            .arg(self.session.plan().folder().join("atalho.toml"))
            .stdout(Stdio::piped())
            .spawn()?;
        let reader = std::thread::spawn(move || child.wait_with_output());
        while !reader.is_finished() {
            self.session.listen(Duration::from_millis(20))?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let output = reader.join().ok().context("reading what `atalho flows` says")??;
        ensure!(output.status.success(), "`atalho flows` ended with {}", output.status);
        let flows = output.stdout.iter().filter(|byte| **byte == b'\n').count() as u64;
        let now = self.session.progress();
        Ok(Listed { flows, seconds, requests: now.0 - requests, lost: now.1 - failed })
    }
}

impl fmt::Display for ChurnFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listed, moved, .. } = self;
        writeln!(
            f,
            "{:.0} changes a second for {:.0} s, {} flows in the table: {} changes in {} publications",
            self.changes_per_s, self.seconds, self.flows, self.changes, self.publications
        )?;
        writeln!(
            f,
            "arrival to use: p50 {:.1} ms, p99 {:.1} ms; written to use: p99 below {:.3} s; {} changes at most waited (room for {})",
            self.change_to_use_p50_ms,
            self.change_to_use_p99_ms,
            self.written_to_use_p99_s,
            self.queue_longest,
            self.queue_max
        )?;
        writeln!(
            f,
            "{} scans of {:.1} ms, {:.1} % of a core; the daemon {:.1} % of a core, {:.0} MiB before and {:.0} MiB at most",
            self.scans,
            self.scan_ms,
            self.scans_percent,
            self.cpu_percent,
            self.memory_before_mib,
            self.memory_most_mib
        )?;
        writeln!(
            f,
            "arrival until all flows that end are found: p99 below {:.3} s; a flow whose endpoint went {} times moved {} times, \
             {} ms after the change was written (median), {} ms at most, with {} requests lost",
            self.change_to_ended_p99_s, moved.changes, moved.moves, moved.median_ms, moved.most_ms, moved.lost
        )?;
        writeln!(
            f,
            "{} requests, {} lost; {} packets dropped; {} flows picked again",
            self.requests, self.lost, self.dropped, self.repicked
        )?;
        write!(
            f,
            "{} flows read in {:.1} s, with {} requests and {} of them lost meanwhile",
            listed.flows, listed.seconds, listed.requests, listed.lost
        )
    }
}
