//! The agent: lives in one network namespace, serves and asks as the driver tells it, and ends with the driver.

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::{self, Job, Outcome, Progress};
use super::server;

/// How often running jobs tell where they are.
const PROGRESS_MS: u64 = 500;

/// What the driver tells, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Serve TCP and UDP at these addresses under this name.
    Serve {
        identity: String,
        addresses: Vec<SocketAddr>,
    },
    Ask(Job),
    /// End all jobs early, those that are yet to come as well; their outcomes still come.
    Stop,
}

/// What the agent tells, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    Serving {
        identity: String,
    },
    /// The order could not be carried out at all.
    Refused {
        reason: String,
    },
    Progress {
        id: u32,
        requests: u64,
        failed: u64,
        bytes: u64,
    },
    Done(Outcome),
}

type Jobs = Arc<Mutex<Vec<(u32, Arc<Progress>)>>>;

/// Carries out orders from standard input until it closes.
pub fn run() -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let jobs: Jobs = Arc::default();
    let watched = Arc::clone(&jobs);
    thread::Builder::new().name("progress".into()).spawn(move || tell_progress(&watched))?;
    for line in io::stdin().lock().lines() {
        match serde_json::from_str(&line?) {
            Ok(Order::Serve { identity, addresses }) => {
                match addresses.iter().try_for_each(|&at| server::serve(&identity, at)) {
                    Ok(()) => tell(&Report::Serving { identity }),
                    Err(error) => tell(&Report::Refused { reason: format!("cannot serve as {identity}: {error}") }),
                }
            }
            Ok(Order::Ask(job)) => start(job, &stop, &jobs)?,
            Ok(Order::Stop) => stop.store(true, Ordering::Relaxed),
            Err(error) => tell(&Report::Refused { reason: format!("not an order: {error}") }),
        }
    }
    Ok(())
}

fn start(job: Job, stop: &Arc<AtomicBool>, jobs: &Jobs) -> io::Result<()> {
    let progress = Arc::new(Progress::default());
    let (stop, jobs, id) = (Arc::clone(stop), Arc::clone(jobs), job.id);
    lock(&jobs).push((id, Arc::clone(&progress)));
    thread::Builder::new().name(format!("job {id}")).spawn(move || {
        // Any seed will do as long as agents differ: two of them must not mistake each other's bytes for their own.
        let seed = u64::from(std::process::id()) << 32 | u64::from(id);
        let outcome = client::run(&job, seed, &stop, &progress);
        lock(&jobs).retain(|(running, _)| *running != id);
        tell(&Report::Done(outcome));
    })?;
    Ok(())
}

fn tell_progress(jobs: &Jobs) {
    loop {
        thread::sleep(Duration::from_millis(PROGRESS_MS));
        let running = lock(jobs).clone();
        for (id, progress) in running {
            tell(&Report::Progress {
                id,
                requests: progress.requests.load(Ordering::Relaxed),
                failed: progress.failed.load(Ordering::Relaxed),
                bytes: progress.bytes.load(Ordering::Relaxed),
            });
        }
    }
}

/// A line to the driver. One that cannot be written means that the driver is gone: so is the agent's reason to live.
fn tell(report: &Report) {
    let Ok(mut line) = serde_json::to_vec(report) else { return };
    line.push(b'\n');
    let mut out = io::stdout().lock();
    if out.write_all(&line).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// A poisoned list is still a list of numbers.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
