//! The driver's end of an agent: orders in, reports out.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::agent::{Order, Report};
use super::client::Job;

/// An agent process in a namespace. It ends when this is dropped.
pub struct Agent {
    namespace: String,
    child: Child,
    orders: Option<ChildStdin>,
    reports: Receiver<Report>,
}

impl Agent {
    /// Starts `program agent` in the named network namespace. `program` is the binary `atalho-lab`.
    pub fn start(program: &Path, namespace: &str) -> Result<Self> {
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .arg(program)
            .arg("agent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the lab alone, which then ends its agents in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} in the namespace {namespace}", program.display()))?;
        let orders = child.stdin.take();
        let output = child.stdout.take().context("the agent has no standard output")?;
        let (sender, reports) = channel();
        thread::Builder::new()
            .name(format!("agent {namespace}"))
            .spawn(move || pass_on(BufReader::new(output), &sender))?;
        Ok(Self { namespace: namespace.into(), child, orders, reports })
    }

    /// Serves TCP and UDP at every address; returns when the sockets are open.
    pub fn serve(&mut self, identity: &str, addresses: Vec<SocketAddr>) -> Result<()> {
        self.order(&Order::Serve { identity: identity.into(), addresses })?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.next_report(deadline)? {
                Some(Report::Serving { .. }) => return Ok(()),
                Some(Report::Refused { reason }) => bail!("{}: {reason}", self.namespace),
                Some(_) => {}
                None => bail!("the agent in {} did not start to serve within 10 s", self.namespace),
            }
        }
    }

    /// Starts a job; its outcome comes as a report.
    pub fn ask(&mut self, job: Job) -> Result<()> {
        self.order(&Order::Ask(job))
    }

    /// Ends all jobs early.
    pub fn stop(&mut self) -> Result<()> {
        self.order(&Order::Stop)
    }

    /// The next report, or none if the deadline passes first. An agent that ended is an error.
    pub fn next_report(&mut self, deadline: Instant) -> Result<Option<Report>> {
        match self.reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(report) => Ok(Some(report)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the agent in {} has ended", self.namespace),
        }
    }

    fn order(&mut self, order: &Order) -> Result<()> {
        let orders = self.orders.as_mut().context("the agent has no standard input")?;
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        orders
            .write_all(&line)
            .and_then(|()| orders.flush())
            .with_context(|| format!("the agent in {} takes no orders", self.namespace))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its input closes, so it ends by itself; the kill is for one that hangs.
        self.orders = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pass_on(output: impl BufRead, to: &Sender<Report>) {
    for line in output.lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(report) => {
                if to.send(report).is_err() {
                    return;
                }
            }
            Err(error) => eprintln!("an agent said what is no report ({error}): {line}"),
        }
    }
}
