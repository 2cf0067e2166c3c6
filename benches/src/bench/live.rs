//! The run: every contender once, then again, and so on, so that each pair of neighbours sees the same machine.
//!
//! First as fast as it goes: what arrives a second. Then all at one rate that loses nothing: what a packet costs, for a
//! receiver in userspace also pays for packets that it then drops. The control beside them, the generator with an XDP
//! program that drops, says what the machine could do and what of the cost is the generator's.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use super::engine::{EngineBench, EngineCase, EngineFigures};
use super::handover;
use super::priority::Ahead;
use super::site::{Cores, Forwarder, Measured, Site};
use crate::lab::lock::Lock;
use crate::lab::signal::Interrupt;

/// Flows of the live part.
pub const FLOWS: u32 = 1024;
/// What the pipeline alone is measured with.
const ENGINE_CASES: [EngineCase; 3] = [
    EngineCase { flows: 1024, new_percent: 0 },
    EngineCase { flows: 100_000, new_percent: 0 },
    EngineCase { flows: 1024, new_percent: 100 },
];
/// A rate that loses no more than this is one at which costs are taken.
const LOSS_MAX: f64 = 0.001;
/// Shares of the slower contender's best rate that are tried as the common rate, in this order.
const SHARES: [f64; 6] = [0.95, 0.9, 0.8, 0.7, 0.6, 0.5];

#[derive(Debug, Clone, PartialEq)]
pub struct LiveOptions {
    pub atalho: PathBuf,
    /// This program's own file.
    pub bench: PathBuf,
    pub prefix: String,
    pub pairs: usize,
    /// Of each stretch.
    pub seconds: f64,
}

/// The same moment on all contenders.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Round {
    pub worker: Measured,
    pub kernel: Measured,
    pub control: Measured,
    /// A cache line from the sender's core to the worker's, right after the worker's stretch.
    pub handover_ns: f64,
}

/// Everything that was measured, nothing worked out yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recorded {
    pub flows: u32,
    pub sender_core: usize,
    pub worker_core: usize,
    /// As fast as it goes.
    pub fastest: Vec<Round>,
    /// All at this rate, packets a second.
    pub paced_pps: f64,
    pub paced: Vec<Round>,
    /// By case, one figure a pair.
    pub engine: Vec<Vec<EngineFigures>>,
}

/// Runs it all. Ends early, cleaned up, when interrupted.
pub fn run(options: &LiveOptions, interrupt: &Interrupt) -> Result<Recorded> {
    let LiveOptions { pairs, seconds, prefix, .. } = options;
    ensure!((1..=100).contains(pairs), "--pairs {pairs}: 1 to 100");
    ensure!((0.05..=10.0).contains(seconds), "--seconds {seconds}: 0.05 to 10");
    let _lock = Lock::take(prefix)?;
    let _ahead = Ahead::take();
    let mut progress = Progress::new();
    progress.say("admitting flows for the pipeline in memory");
    let mut engines = ENGINE_CASES.into_iter().map(EngineBench::new).collect::<Result<Vec<_>>>()?;
    progress.say("building two nodes out of namespaces, one with the daemon, one that forwards by its kernel");
    let programs: [&Path; 2] = [&options.atalho, &options.bench];
    let (mut worker, cores) = Site::build(&format!("{prefix}-worker"), Forwarder::Worker, programs, FLOWS)?;
    let (mut kernel, _) = Site::build(&format!("{prefix}-kernel"), Forwarder::Kernel, programs, FLOWS)?;

    let mut engine: Vec<Vec<EngineFigures>> = vec![Vec::new(); engines.len()];
    let mut fastest = Vec::new();
    for pair in 1..=*pairs {
        stop_if(interrupt)?;
        for (bench, figures) in engines.iter_mut().zip(&mut engine) {
            figures.push(bench.run(Duration::from_secs_f64(seconds / 4.0))?);
        }
        let round = round(&mut worker, &mut kernel, cores, *seconds, None)?;
        progress.say(&format!(
            "as fast as it goes, pair {pair} of {pairs}: worker {:.2} Mpps, kernel {:.2}, control {:.2}, {:.0} ns between the cores",
            round.worker.mpps(),
            round.kernel.mpps(),
            round.control.mpps(),
            round.handover_ns
        ));
        fastest.push(round);
    }
    let paced_pps = common_rate(&fastest, &mut worker, &mut kernel, interrupt)?;
    let mut paced = Vec::new();
    for pair in 1..=*pairs {
        stop_if(interrupt)?;
        let round = round(&mut worker, &mut kernel, cores, *seconds, Some(paced_pps))?;
        progress.say(&format!(
            "at {:.2} Mpps, pair {pair} of {pairs}: lost {:.3} % by the worker, {:.3} % by the kernel",
            paced_pps / 1e6,
            100.0 * round.worker.loss(),
            100.0 * round.kernel.loss()
        ));
        paced.push(round);
    }
    Ok(Recorded {
        flows: FLOWS,
        sender_core: cores.sender,
        worker_core: cores.worker,
        fastest,
        paced_pps,
        paced,
        engine,
    })
}

fn round(worker: &mut Site, kernel: &mut Site, cores: Cores, seconds: f64, pps: Option<f64>) -> Result<Round> {
    let worker = worker.measure(seconds, pps)?;
    let handover_ns = handover::between_ns(cores.sender, cores.worker)?;
    let kernel_forwarded = kernel.measure(seconds, pps)?;
    let control = kernel.control(seconds / 2.0, pps)?;
    Ok(Round { worker, kernel: kernel_forwarded, control, handover_ns })
}

/// The highest rate, of those tried, at which nobody loses anything to speak of.
fn common_rate(fastest: &[Round], worker: &mut Site, kernel: &mut Site, interrupt: &Interrupt) -> Result<f64> {
    let slowest = |pick: fn(&Round) -> &Measured| {
        fastest.iter().map(|round| pick(round).mpps() * 1e6).fold(f64::INFINITY, f64::min)
    };
    let best = slowest(|round| &round.worker).min(slowest(|round| &round.kernel));
    for share in SHARES {
        stop_if(interrupt)?;
        let pps = best * share;
        if worker.measure(0.3, Some(pps))?.loss() < LOSS_MAX && kernel.measure(0.3, Some(pps))?.loss() < LOSS_MAX {
            return Ok(pps);
        }
    }
    Ok(best * SHARES[SHARES.len() - 1])
}

fn stop_if(interrupt: &Interrupt) -> Result<()> {
    if interrupt.is_set() {
        bail!("interrupted; everything is cleaned up");
    }
    Ok(())
}

impl Measured {
    /// Delivered, millions a second.
    pub fn mpps(&self) -> f64 {
        self.delivered as f64 / self.seconds / 1e6
    }

    pub fn offered_mpps(&self) -> f64 {
        self.sent as f64 / self.seconds / 1e6
    }

    /// Share of what was sent.
    pub fn loss(&self) -> f64 {
        1.0 - self.delivered as f64 / self.sent.max(1) as f64
    }

    /// CPU nanoseconds of everything that had a hand in it, the generator included.
    pub fn cpu_ns(&self) -> u64 {
        self.sender_cpu_ns + self.ksoftirqd_cpu_ns + self.daemon_cpu_ns
    }

    /// CPU nanoseconds of a delivered packet beyond what the generator and an XDP program that drops take for one that
    /// is sent, by `control`.
    pub fn cpu_ns_per_packet(&self, control: &Self) -> f64 {
        let generating = control.cpu_ns() as f64 / control.sent.max(1) as f64;
        (self.cpu_ns() as f64 - generating * self.sent as f64) / self.delivered.max(1) as f64
    }
}

/// What the run is at, on standard error: standard output is for the result.
struct Progress {
    start: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { start: Instant::now() }
    }

    fn say(&mut self, what: &str) {
        eprintln!("bench: {:5.1} s  {what}", self.start.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(sent: u64, delivered: u64, sender: u64, daemon: u64) -> Measured {
        Measured {
            seconds: 2.0,
            sent,
            delivered,
            sender_cpu_ns: sender,
            ksoftirqd_cpu_ns: 0,
            daemon_cpu_ns: daemon,
            workers_cpu_ns: daemon,
            softirq_ns: 0,
        }
    }

    #[test]
    fn the_generators_own_cost_is_taken_off_for_every_packet_that_it_sent() {
        let control = measured(1000, 1000, 100_000, 0);
        // 100 ns of 300 a packet are the generator's; half of them got lost.
        let live = measured(1000, 500, 300_000, 50_000);
        assert_eq!(live.cpu_ns_per_packet(&control), (350_000.0 - 100_000.0) / 500.0);
        assert_eq!((live.loss(), live.mpps(), live.offered_mpps()), (0.5, 250e-6, 500e-6));
    }

    #[test]
    fn nothing_sent_is_no_division_by_zero() {
        let nothing = measured(0, 0, 0, 0);
        assert!(nothing.cpu_ns_per_packet(&nothing).is_finite() && nothing.loss().is_finite());
    }
}
