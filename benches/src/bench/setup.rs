//! Ratio 12: whether connections are set up as fast at the end as at the beginning, on the way to a million, with expiry on.
//!
//! Every packet begins a connection. Time is simulated: so many a second come that the walk for idle ones goes over the
//! whole table while it fills, by the same rule as a worker's. Then, with a table that is full, connections come and go
//! for a while: what is too old ends, and its slots are used again.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use atalho_engine::conntrack::{ConnTable, Epochs};
use atalho_engine::pipeline::BATCH;
use atalho_engine::tables::Tables;
use atalho_worker::{EXPIRY_SLOTS_PER_TURN, Expiry};
use serde::Serialize;

use super::frames::FRAMES;
use super::in_memory::{InMemoryWorker, secret};
use super::node;
use super::output::OutputArguments;
use super::ratio::{Goal, JudgedRatio};
use super::statistics::Spread;

const GOAL: Goal = Goal {
    number: 12,
    what: "set-up rate, last 100k connections / first 100k",
    command: "./scripts/bench setup",
    accept: 0.7,
    aim: 0.95,
};

/// Connections on the way.
pub const CONNECTIONS: u32 = 1_000_000;
/// Of the way, as many as are compared: so many passes at either end.
const COMPARED: u32 = 100_000;
/// Seconds on the way: the whole table is walked in that time.
const FILLING_S: u32 = 10;
/// Seconds in which as many connections come again. What is not answered goes after 30 s, and at most a walk of 8 s later, so
/// they all fit, those too that come before the walk has reached the first old ones.
const EXCHANGING_S: u32 = 60;
/// How long they come and go.
const PASSING_S: u32 = 120;

#[derive(clap::Args)]
pub struct SetupArguments {
    /// Connections on the way.
    #[arg(long, default_value_t = CONNECTIONS)]
    connections: u32,
    /// How often the way is gone.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetupFigures {
    pub connections: u32,
    /// CPU nanoseconds of a set-up, packet and expiry included.
    pub first_ns: Spread,
    pub last_ns: Spread,
    /// While connections come and go.
    pub passing_ns: f64,
    pub passed: u64,
    pub expired: u64,
    pub evicted: u64,
    pub live_max: u64,
    /// Most slots that one turn looked at for idle connections, and the bound.
    pub slots_per_turn: u32,
    pub slots_per_turn_max: u32,
    pub ratio: JudgedRatio,
}

/// Measures, prints and keeps. `false`: the ratio was not met.
pub fn run(arguments: &SetupArguments) -> Result<bool> {
    let figures = figures(arguments.connections, arguments.runs)?;
    arguments.output.show("setup", &figures)?;
    Ok(figures.iter().all(|figures| figures.ratio.is_met()))
}

/// The way to so many connections, so many times.
pub fn figures(connections: u32, runs: usize) -> Result<Vec<SetupFigures>> {
    ensure!((200_000..=4_000_000).contains(&connections), "--connections {connections}: 200000 to 4000000");
    ensure!((1..=100).contains(&runs), "--runs {runs}: 1 to 100");
    Ok(vec![SetupBench::new(connections, connections / 8)?.measure(COMPARED, runs, PASSING_S)?])
}

struct SetupBench {
    connections: u32,
    worker: InMemoryWorker,
    table: ConnTable,
    epochs: Arc<Epochs>,
    tables: Tables,
    expiry: Expiry,
    now_s: u32,
    next_flow: u32,
    /// Connections that came since the clock stepped.
    this_second: u32,
    expired: u64,
    slots_per_turn: u32,
}

impl SetupBench {
    /// The table has room for `room` connections more, so that each is let in.
    fn new(connections: u32, room: u32) -> Result<Self> {
        let table = node::connection_table((connections + room) as usize, &secret())?;
        let epochs = Arc::new(Epochs::new());
        Ok(Self {
            connections,
            worker: InMemoryWorker::new(0, table, epochs.clone(), node::next_hops()),
            expiry: Expiry::new(0, 1, 2 * u64::from(table.geometry().slots())),
            table,
            epochs,
            tables: node::tables(),
            now_s: 1000,
            next_flow: 0,
            this_second: 0,
            expired: 0,
            slots_per_turn: 0,
        })
    }

    fn measure(&mut self, compared: u32, runs: usize, passing_s: u32) -> Result<SetupFigures> {
        let per_pass = |ns: &[u64]| ns.iter().sum::<u64>() as f64 / (ns.len() * FRAMES) as f64;
        let compared = (compared as usize).div_ceil(FRAMES);
        let (mut first_ns, mut last_ns) = (Vec::new(), Vec::new());
        // The first only warms up, and leaves no slot that was never used.
        for run in 0..=runs {
            self.clear();
            let passes = (0..self.connections.div_ceil(FRAMES as u32)).map(|_| self.pass(FILLING_S));
            let ns: Vec<u64> = passes.collect::<Result<_>>()?;
            let (first, last) = (&ns[..compared], &ns[ns.len() - compared..]);
            if run > 0 {
                first_ns.push(per_pass(first));
                last_ns.push(per_pass(last));
            }
        }
        let (mut ns, mut live_max) = (Vec::new(), 0);
        // All are old at once, the most that the walk can meet; newcomers need room until it has been round.
        self.now_s += self.tables.settings.timeouts.udp_s;
        (self.this_second, self.expired) = (0, 0);
        let evicted = self.table.evicted();
        let until_s = self.now_s + passing_s;
        while self.now_s < until_s {
            ns.push(self.pass(EXCHANGING_S)?);
            live_max = live_max.max(self.table.count());
        }
        let rates = Spread::of_ratios(first_ns.iter().copied().zip(last_ns.iter().copied()));
        let nothing = "nothing was measured";
        Ok(SetupFigures {
            connections: self.connections,
            ratio: GOAL.judge(format!("{} connections", self.connections), rates.context(nothing)?, true),
            first_ns: Spread::of(first_ns).context(nothing)?,
            last_ns: Spread::of(last_ns).context(nothing)?,
            passing_ns: per_pass(&ns),
            passed: (ns.len() * FRAMES) as u64,
            expired: self.expired,
            evicted: self.table.evicted() - evicted,
            live_max,
            slots_per_turn: self.slots_per_turn,
            slots_per_turn_max: EXPIRY_SLOTS_PER_TURN,
        })
    }

    /// One pass of new connections, with two steps of the walk after each batch. CPU nanoseconds. `within_s`: all that the
    /// table is made for come in so many seconds.
    fn pass(&mut self, within_s: u32) -> Result<u64> {
        let Self { worker, table, epochs, tables, expiry, .. } = self;
        for flow in &mut worker.drawn {
            *flow = self.next_flow;
            // A number comes again long after its connection has gone.
            self.next_flow = (self.next_flow + 1) % (8 * self.connections);
        }
        worker.write();
        let per_s = self.connections / within_s;
        self.this_second += FRAMES as u32;
        self.now_s += self.this_second / per_s;
        self.this_second %= per_s;
        let now_s = self.now_s;
        let (most, ended) = (Cell::new(self.slots_per_turn), Cell::new(0));
        let ns = worker.pass(tables, now_s, || {
            // So few packets a second leave a worker turns without any.
            for packets in [BATCH, 0] {
                let budget = expiry.take_due(now_s, packets);
                if budget > 0 {
                    let expired = table.expire(&mut expiry.scan, budget, now_s, &tables.settings.timeouts, epochs);
                    most.set(most.get().max(expired.scanned));
                    ended.set(ended.get() + u64::from(expired.ended));
                }
            }
        })?;
        self.slots_per_turn = most.get();
        self.expired += ended.get();
        worker.check()?;
        worker.reclaim();
        Ok(ns)
    }

    fn clear(&mut self) {
        for connection in self.table.connections() {
            self.table.end(&self.epochs, connection.at);
        }
        self.worker.reclaim();
    }
}

impl fmt::Display for SetupFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.0} ns to set up each of the first, {:.0} ns each of the last; {:.0} ns while {} come, {} expire, {} are evicted and\n\
             at most {} live; at most {} slots a turn looked at for idle ones (bound: {})",
            self.first_ns.median,
            self.last_ns.median,
            self.passing_ns,
            self.passed,
            self.expired,
            self.evicted,
            self.live_max,
            self.slots_per_turn,
            self.slots_per_turn_max
        )?;
        write!(f, "{}", self.ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_come_in_and_the_old_ones_go_by_bounded_steps() {
        let mut bench = SetupBench::new(50_000, 50_000).unwrap();
        let figures = bench.measure(8192, 1, 60).unwrap();
        assert!(figures.first_ns.median > 0.0 && figures.last_ns.median > 0.0);
        assert!(figures.passed > 45_000 && figures.slots_per_turn <= figures.slots_per_turn_max, "{figures:?}");
        assert!(
            figures.expired > 0 && figures.expired + figures.evicted <= u64::from(figures.connections) + figures.passed
        );
    }
}
