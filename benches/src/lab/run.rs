//! The whole demonstration: every path at once, an endpoint replaced half-way, and an account at the end.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::daemon::{Objects, Status, write_config};
use super::objects;
use super::paths::{self, Path, Place};
use super::plan::{Family, Plan};
use super::report::{Replacement, Row, RunReport};
use super::session::{Programs, Session};
use super::signal::Interrupt;
use super::view::{Moment, View};
use crate::apiserver::ApiServer;
use crate::traffic::client::{Job, JobKind, Outcome, now_ms};

/// How long after the change a flow may still be answered by the old endpoint: a second in which the change must be
/// picked up, and one in which a held flow waits for an answer that was lost at that moment.
const MOVE_MS_MAX: u64 = 2000;

pub struct RunOptions {
    pub plan: Plan,
    pub programs: Programs,
    /// Seconds of traffic.
    pub seconds: f64,
    pub workers: Option<u32>,
    /// Take the objects from a real API server; its binaries lie in this folder.
    pub api_server: Option<PathBuf>,
    /// Leave everything standing until Ctrl-C.
    pub stay: bool,
    pub json: bool,
}

/// A job that was started, and for what.
struct Started {
    id: u32,
    path: Path,
    kind: JobKind,
}

/// Runs it and prints what came of it; the result says whether all was well.
pub fn run(options: &RunOptions, interrupt: &Interrupt) -> Result<bool> {
    say("building the lab");
    let mut session = Session::build(&options.plan, &options.programs)?;
    let config = write_config(&options.plan, options.workers, "")?;
    let mut api_server = None;
    let objects = match &options.api_server {
        None => Objects::Manifests(objects::write(&options.plan)?),
        Some(binaries) => {
            say("starting etcd and kube-apiserver behind the uplink");
            let server = ApiServer::start(binaries, &options.plan, &options.programs.lab)?;
            objects::write(&options.plan)?;
            server.apply(&objects::files(&options.plan.manifests())?)?;
            let kubeconfig = server.kubeconfig();
            api_server = Some(server);
            Objects::ApiServer { kubeconfig }
        }
    };
    say("starting atalho");
    let begin = Instant::now();
    session.start_daemon(&config, &objects)?;
    session.daemon_mut()?.wait_ready(Duration::from_secs(30))?;
    say(&format!("ready after {} ms", begin.elapsed().as_millis()));

    let report = traffic(&mut session, options, api_server.as_ref(), interrupt)?;
    let Some(report) = report else { bail!("interrupted: the lab has been taken away") };
    let text = if options.json { serde_json::to_string(&report)? + "\n" } else { report.text() };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the report")?;
    if options.stay {
        say(&advice(&options.plan, options));
        while !interrupt.is_set() {
            interrupt.sleep(Duration::from_secs(1));
        }
        say("cleaning up");
    }
    Ok(report.problems.is_empty())
}

/// Drives the traffic; none if somebody interrupted it.
fn traffic(
    session: &mut Session,
    options: &RunOptions,
    api_server: Option<&ApiServer>,
    interrupt: &Interrupt,
) -> Result<Option<RunReport>> {
    let mut view = View::default();
    let begin = Instant::now();
    let total = Duration::from_secs_f64(options.seconds);
    let mut started = start_requests(session, options)?;
    let held = start_held(session, options.seconds)?;
    let mut bulk = BulkFlows::new(options.seconds);
    let mut changed_at_ms = None;
    let mut status: Option<Status> = None;
    let mut status_read = begin;
    while begin.elapsed() < total || bulk.running.is_some() {
        if interrupt.is_set() {
            return Ok(None);
        }
        bulk.advance(session)?;
        if changed_at_ms.is_none() && begin.elapsed() >= total / 2 {
            changed_at_ms = Some(now_ms());
            match api_server {
                None => objects::replace_file(&options.plan.manifests(), objects::MOVING, &objects::replacement())?,
                Some(server) => server.apply(&[objects::replacement()])?,
            }
        }
        if status.is_none() || status_read.elapsed() > Duration::from_secs(1) {
            status = Some(session.daemon()?.status()?);
            status_read = Instant::now();
        }
        session.listen(Duration::from_millis(250))?;
        let note = if changed_at_ms.is_some() { "endpoint replaced:" } else { "traffic:" };
        view.show(&Moment {
            elapsed: begin.elapsed(),
            total,
            progress: session.progress(),
            status: status.as_ref(),
            note,
        });
    }
    started.extend(bulk.started);
    let ids: Vec<u32> = started.iter().chain(&held).map(|job| job.id).collect();
    let outcomes = session.wait_for(&ids, Duration::from_secs(10))?;
    let (of_started, of_held) = outcomes.split_at(started.len());
    let mut report = account(&started, of_started);
    let changed_at_ms = changed_at_ms.context("the endpoint was never replaced: too few seconds")?;
    account_for_replacement(&mut report, &held, of_held, changed_at_ms);
    report.refused_at_once = expect_refusals(session, &mut report.problems)?;
    report.status = session.daemon()?.settled_status()?;
    account_for_status(&mut report);
    let wrong = session.wrong_packets()?;
    report
        .problems
        .extend(wrong.into_iter().map(|wrong| format!("a wrong packet arrived, says the kernel of {wrong}")));
    Ok(Some(report))
}

/// Short requests on every path, for as long as the traffic lasts.
fn start_requests(session: &mut Session, options: &RunOptions) -> Result<Vec<Started>> {
    let mut started = Vec::new();
    for family in Family::BOTH {
        for path in paths::paths(family).into_iter().chain([paths::moving(family)]) {
            for kind in [JobKind::Tcp, JobKind::Udp] {
                started.push(start(session, path.clone(), kind, options.seconds)?);
            }
        }
    }
    Ok(started)
}

/// One connection and one datagram flow to the Service whose endpoint is replaced, held across the change.
fn start_held(session: &mut Session, seconds: f64) -> Result<Vec<Started>> {
    let mut held = Vec::new();
    for family in Family::BOTH {
        for kind in [JobKind::HoldTcp, JobKind::HoldUdp] {
            held.push(start(session, paths::moving(family), kind, seconds)?);
        }
    }
    Ok(held)
}

fn start(session: &mut Session, path: Path, kind: JobKind, seconds: f64) -> Result<Started> {
    let id = session.ask(path.from, paths::job(&path, kind, seconds))?;
    Ok(Started { id, path, kind })
}

/// Bulk flows one after another, each with an equal share of the time.
struct BulkFlows {
    waiting: Vec<Path>,
    seconds_each: f64,
    running: Option<u32>,
    started: Vec<Started>,
}

impl BulkFlows {
    fn new(seconds: f64) -> Self {
        let mut waiting: Vec<Path> = Family::BOTH.into_iter().flat_map(paths::paths).collect();
        waiting.reverse();
        let seconds_each = (seconds * 0.9 / waiting.len() as f64).min(2.0);
        Self { waiting, seconds_each, running: None, started: Vec::new() }
    }

    /// Starts the next one when the last has ended.
    fn advance(&mut self, session: &mut Session) -> Result<()> {
        if self.running.is_some_and(|id| session.outcome(id).is_none()) {
            return Ok(());
        }
        self.running = None;
        if let Some(path) = self.waiting.pop() {
            let job = start(session, path, JobKind::Bulk, self.seconds_each)?;
            self.running = Some(job.id);
            self.started.push(job);
        }
        Ok(())
    }
}

fn account(started: &[Started], outcomes: &[Outcome]) -> RunReport {
    let mut lines: Vec<(&Started, &Outcome)> = started.iter().zip(outcomes).collect();
    let order: BTreeMap<&str, usize> = paths::paths(Family::V4)
        .iter()
        .map(|path| path.name)
        .chain([paths::MOVING])
        .enumerate()
        .map(|(at, name)| (name, at))
        .collect();
    lines.sort_by_key(|(job, _)| {
        (order.get(job.path.name).copied(), job.path.family, paths::kind_name(job.kind).len(), job.id)
    });
    let rows = lines
        .iter()
        .map(|(job, outcome)| Row::new(job.path.name, job.path.family.name(), paths::kind_name(job.kind), outcome));
    let problems = lines.iter().flat_map(|(job, outcome)| paths::complaints(&job.path, job.kind, outcome));
    RunReport {
        rows: rows.collect(),
        replacement: Replacement::default(),
        refused_at_once: 0,
        status: Status::default(),
        problems: problems.collect(),
    }
}

/// UDP moves at once, an established TCP connection to an endpoint that still serves runs on.
fn account_for_replacement(report: &mut RunReport, held: &[Started], outcomes: &[Outcome], changed_at_ms: u64) {
    for (job, outcome) in held.iter().zip(outcomes) {
        let family = job.path.family.name();
        let name = format!("endpoint replaced, {family} {}", paths::kind_name(job.kind));
        report.problems.extend(paths::complaints(&job.path, job.kind, outcome));
        if job.kind == JobKind::HoldTcp {
            if outcome.backends.keys().any(|backend| backend != "pod-1") {
                report.problems.push(format!("{name}: the connection changed its backend: {:?}", outcome.moves));
            }
            let share = outcome.backends.get("pod-1").copied().unwrap_or_default();
            // The change comes half-way, the connection asks at an even pace: well over half of the answers came by then.
            let after = share.saturating_sub(outcome.requests / 2);
            if after == 0 {
                report.problems.push(format!("{name}: no answer after the change"));
            }
            report.replacement.tcp_answers_after.insert(family, after);
            continue;
        }
        match outcome.moves.as_slice() {
            [(_, first), (moved_ms, second)] if first == "pod-1" && second == "pod-3" => {
                let after = moved_ms.saturating_sub(changed_at_ms);
                if after > MOVE_MS_MAX {
                    report.problems.push(format!("{name}: the flow moved only after {after} ms"));
                }
                report.replacement.udp_moved_after_ms.insert(family, after);
            }
            moves => {
                report.problems.push(format!("{name}: the flow went {moves:?} instead of from pod-1 to pod-3, once"))
            }
        }
    }
}

/// A Service without endpoints refuses at once, over both families: silence would be a fault.
fn expect_refusals(session: &mut Session, problems: &mut Vec<String>) -> Result<u64> {
    let mut refused = 0;
    for family in Family::BOTH {
        let target = (paths::cluster_ip(60, family), 80).into();
        let path = Path { tcp: target, ..paths::moving(family) };
        let job = Job { count_max: 5, timeout_ms: 1000, ..paths::job(&path, JobKind::Tcp, 5.0) };
        for from in [Place::Pod(1), Place::Node] {
            let id = session.ask(from, job.clone())?;
            let outcome = session.wait_for(&[id], Duration::from_secs(10))?.remove(0);
            let answers = outcome.failures.iter().filter(|failure| failure.text.contains("refused")).count() as u64;
            if answers != 5 {
                let other = outcome.failures.iter().find(|failure| !failure.text.contains("refused"));
                problems.push(format!(
                    "Service without endpoints, {} from {from:?}: {answers} of 5 refused; {other:?}",
                    family.name()
                ));
            }
            refused += answers;
        }
    }
    Ok(refused)
}

fn account_for_status(report: &mut RunReport) {
    let status = &report.status;
    if status.state != "ready" {
        report.problems.push(format!("the daemon is {} at the end", status.state));
    }
    if !status.is_even() {
        report.problems.push("the books are uneven".into());
    }
    for refused in &status.refused {
        report.problems.push(format!("an object was refused: {refused}"));
    }
    let answered: u64 = report.rows.iter().map(|row| row.requests - row.failed).sum();
    if status.forwarded < answered * 2 {
        report.problems.push(format!(
            "{answered} requests were answered, but the daemon forwarded only {} packets",
            status.forwarded
        ));
    }
}

fn advice(plan: &Plan, options: &RunOptions) -> String {
    let folder = plan.folder();
    let atalho = options.programs.atalho.display();
    let config = folder.join("atalho.toml");
    let config = config.display();
    format!(
        "the lab stays until Ctrl-C. To try, from another terminal:\n\
         \x20 nsenter --net=/run/netns/{} bash                     a shell in a pod (there: curl, ping 10.96.0.10)\n\
         \x20 {atalho} status --config {config}\n\
         \x20 {atalho} why --config {config} tcp 10.244.1.13:40000 10.96.0.10:80\n\
         \x20 $EDITOR {}/web.yaml                                  an object; taken over within a second\n\
         \x20 tail -f {}/daemon.log",
        plan.pod(1),
        plan.manifests().display(),
        folder.display()
    )
}

fn say(what: &str) {
    eprintln!("atalho-lab: {what}");
}
