//! Ratio 11: what a second worker brings, both over one table.
//!
//! Each worker has a core, an engine and frames of its own, and visits established flows at random: flows of its own, or the
//! same as the other. First each runs alone, then both begin every pass together, so that all of what is timed meets
//! the other's; a pair is the packets a second of both together over those of one alone. Time is CPU time of the
//! threads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use atalho_engine::conntrack::Epochs;
use atalho_engine::tables::Tables;
use atalho_sys::{clock, cores};
use serde::Serialize;

use super::frames::FRAMES;
use super::in_memory::{Draw, InMemoryWorker, secret};
use super::node;
use super::output::OutputArguments;
use super::ratio::{Goal, JudgedRatio};
use super::statistics::Spread;

const GOAL: Goal = Goal {
    number: 11,
    what: "two workers / one, packets a second in memory",
    command: "./scripts/bench scale",
    accept: 1.9,
    aim: 1.97,
};

/// Established flows.
pub const FLOWS: u32 = 100_000;
/// Passes of each stretch.
const PASSES: u32 = 16;
/// How often a worker looks for the other before it lets somebody else have its core.
const SPINS: u32 = 20_000;

#[derive(clap::Args)]
pub struct ScaleArguments {
    /// Established flows.
    #[arg(long, default_value_t = FLOWS)]
    flows: u32,
    #[arg(long, default_value_t = 21)]
    pairs: usize,
    #[command(flatten)]
    output: OutputArguments,
}

/// Whose flows a worker visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flows {
    Own,
    Shared,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScaleFigures {
    pub flows: u32,
    /// One worker alone, CPU nanoseconds a packet.
    pub alone_ns: Spread,
    /// The same while the other works too.
    pub together_ns: Spread,
    pub ratio: JudgedRatio,
}

/// Measures, prints and keeps. `false`: a ratio was not met.
pub fn run(arguments: &ScaleArguments) -> Result<bool> {
    let figures = figures(arguments.flows, arguments.pairs)?;
    arguments.output.show("scale", &figures)?;
    Ok(figures.iter().all(|figures| figures.ratio.is_met()))
}

/// With flows of their own and with shared ones, so many pairs.
pub fn figures(flows: u32, pairs: usize) -> Result<Vec<ScaleFigures>> {
    ensure!((1024..=4_000_000).contains(&flows), "--flows {flows}: 1024 to 4000000");
    ensure!((1..=1000).contains(&pairs), "--pairs {pairs}: 1 to 1000");
    let mut bench = ScaleBench::new(flows)?;
    Ok(vec![bench.measure(Flows::Own, pairs)?, bench.measure(Flows::Shared, pairs)?])
}

struct ScaleBench {
    flows: u32,
    tables: Tables,
    workers: [Worker; 2],
}

struct Worker {
    core: usize,
    inside: InMemoryWorker,
    random: Draw,
}

impl ScaleBench {
    fn new(flows: u32) -> Result<Self> {
        let all = cores::available();
        let [first, .., last] = all[..] else {
            return Err(anyhow!("two workers need a core each: this process may use {all:?}"));
        };
        // An eighth of room, so that every flow gets in.
        let table = node::connection_table(flows as usize / 8 * 9, &secret())?;
        let (epochs, next_hops) = (Arc::new(Epochs::new()), node::next_hops());
        let worker = |index: u8, core| Worker {
            core,
            inside: InMemoryWorker::new(index, table, epochs.clone(), next_hops),
            random: Draw::new(u64::from(index) << 32),
        };
        let mut bench = Self { flows, tables: node::tables(), workers: [worker(0, first), worker(1, last)] };
        for first in (0..flows).step_by(FRAMES) {
            bench.workers[0].pass(&bench.tables, |at| (first + at as u32).min(flows - 1))?;
        }
        ensure!(table.count() == u64::from(flows), "the table holds {} of {flows} flows", table.count());
        Ok(bench)
    }

    fn measure(&mut self, whose: Flows, pairs: usize) -> Result<ScaleFigures> {
        let (mut alone_ns, mut together_ns, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        // The first only warms up.
        for pair in 0..=pairs {
            let alone = [self.stretch(whose, &[0])?[0], self.stretch(whose, &[1])?[0]];
            let together = self.stretch(whose, &[0, 1])?;
            if pair > 0 {
                rates.push((1.0 / together[0] + 1.0 / together[1], (1.0 / alone[0] + 1.0 / alone[1]) / 2.0));
                alone_ns.extend(alone);
                together_ns.extend(together);
            }
        }
        let nothing = "nothing was measured";
        let case = match whose {
            Flows::Own => format!("{} flows, each its own", self.flows),
            Flows::Shared => format!("{} flows, all shared", self.flows),
        };
        Ok(ScaleFigures {
            flows: self.flows,
            alone_ns: Spread::of(alone_ns).context(nothing)?,
            together_ns: Spread::of(together_ns).context(nothing)?,
            ratio: GOAL.judge(case, Spread::of_ratios(rates).context(nothing)?, true),
        })
    }

    /// Lets these workers run at once. Returns the CPU nanoseconds that a packet took each of them.
    fn stretch(&mut self, whose: Flows, which: &[usize]) -> Result<Vec<f64>> {
        let Self { flows, tables, workers } = self;
        let start = Start::new(which.len() as u32);
        thread::scope(|scope| {
            let threads: Vec<_> = workers
                .iter_mut()
                .enumerate()
                .filter(|(index, _)| which.contains(index))
                .map(|(index, worker)| {
                    let (start, tables) = (&start, &*tables);
                    let (from, count) = match whose {
                        Flows::Own => (index as u32 * (*flows / 2), *flows / 2),
                        Flows::Shared => (0, *flows),
                    };
                    scope.spawn(move || worker.run(tables, from, count, start))
                })
                .collect();
            let died = |_| anyhow!("a thread of the measurement panicked");
            threads.into_iter().map(|thread| thread.join().map_err(died)?).collect()
        })
    }
}

impl Worker {
    /// Nanoseconds of a packet, over all passes.
    fn run(&mut self, tables: &Tables, from: u32, count: u32, start: &Start) -> Result<f64> {
        cores::pin(self.core)?;
        let mut ns = 0;
        for pass in 1..=PASSES {
            let Self { inside, random, .. } = self;
            inside.drawn.fill_with(|| from + random.below(count));
            inside.write();
            if !start.wait_for_all(pass) {
                break;
            }
            let passed = inside
                .pass(tables, clock::coarse_seconds(), || {})
                .and_then(|pass_ns| inside.check().map(|()| pass_ns));
            match passed {
                Ok(pass_ns) => ns += pass_ns,
                Err(error) => {
                    start.give_up();
                    return Err(error);
                }
            }
        }
        Ok(ns as f64 / (PASSES as usize * FRAMES) as f64)
    }

    fn pass(&mut self, tables: &Tables, flow_at: impl Fn(usize) -> u32) -> Result<u64> {
        self.inside.drawn.iter_mut().enumerate().for_each(|(at, flow)| *flow = flow_at(at));
        self.inside.write();
        let ns = self.inside.pass(tables, clock::coarse_seconds(), || {})?;
        self.inside.check()?;
        Ok(ns)
    }
}

/// Where workers wait for each other before every pass. They spin, for waking up would take longer than a pass.
struct Start {
    workers: u32,
    arrived: AtomicU32,
    is_over: AtomicBool,
}

impl Start {
    fn new(workers: u32) -> Self {
        Self { workers, arrived: AtomicU32::new(0), is_over: AtomicBool::new(false) }
    }

    /// `false`: somebody has given up.
    fn wait_for_all(&self, pass: u32) -> bool {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0_u32;
        while self.arrived.load(Ordering::Acquire) < pass * self.workers {
            if self.is_over.load(Ordering::Acquire) {
                return false;
            }
            spins += 1;
            if spins.is_multiple_of(SPINS) {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
        true
    }

    fn give_up(&self) {
        self.is_over.store(true, Ordering::Release);
    }
}

impl fmt::Display for ScaleFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {:.1} ns a packet alone, {:.1} ns while the other works too",
            self.ratio.case, self.alone_ns.median, self.together_ns.median
        )?;
        write!(f, "{}", self.ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_workers_pass_every_packet_of_own_and_of_shared_flows() {
        let mut bench = ScaleBench::new(2048).unwrap();
        for whose in [Flows::Own, Flows::Shared] {
            let figures = bench.measure(whose, 1).unwrap();
            assert!(figures.alone_ns.median > 0.0 && figures.together_ns.runs == 2);
        }
        for worker in &bench.workers {
            let books = worker.inside.counters.books();
            assert!(books.is_even() && books.forwarded >= u64::from(8 * PASSES) * FRAMES as u64, "{books:?}");
        }
    }

    #[test]
    fn nobody_waits_for_one_who_gave_up() {
        let start = Start::new(2);
        start.give_up();
        assert!(!start.wait_for_all(1));
    }
}
