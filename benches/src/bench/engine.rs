//! The pipeline in memory: one engine, one thread, no socket.
//!
//! UDP from clients outside to one ClusterIP with ten endpoints behind the uplink. Each round writes every frame anew
//! (a fresh draw of flows, outside the timed part), then takes the CPU time of one pass over all of them in batches,
//! with what a worker does around `process`: entering the epoch, filling the slots, counting the ends. Then, outside
//! the timed part again, every frame is checked: next hop, addresses, checksums, and that a flow keeps its endpoint.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use atalho_engine::conntrack::{ConnTable, Epochs};
use atalho_engine::tables::Tables;
use serde::Serialize;

use super::frames::{FRAME_BYTES, FRAMES, STRIDE_BYTES, client_of};
use super::in_memory::{Draw, InMemoryWorker, SEED, secret};
use super::node;
use super::statistics::Spread;

/// New flows that the table takes in before they are ended again, outside the timed part.
const NEW_FLOWS_KEPT: u32 = 262_144;
const FLOWS_MAX: u32 = 4_000_000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineCase {
    /// Established flows.
    pub flows: u32,
    /// Of a hundred packets, how many begin a flow.
    pub new_percent: u32,
}

/// What it came to. CPU time of the thread; a round is one pass over all frames.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineFigures {
    /// Median over the rounds.
    pub ns_per_packet: f64,
    /// Quartiles over the rounds.
    pub ns_per_packet_low: f64,
    pub ns_per_packet_high: f64,
    pub flows: u32,
    pub new_percent: u32,
    pub packets: u64,
    pub rounds: usize,
    pub frames: usize,
    pub frame_bytes: usize,
    pub frames_span_bytes: usize,
}

impl EngineFigures {
    /// What was sent, in words.
    pub fn traffic(&self) -> String {
        match self.new_percent {
            0 => format!("{} flows", self.flows),
            100 => "every packet a new flow".into(),
            percent => format!("{} flows, {percent} % new", self.flows),
        }
    }
}

/// A pipeline ready to be measured; keeps its flows between two measurements.
pub struct EngineBench {
    case: EngineCase,
    worker: InMemoryWorker,
    tables: Tables,
    table: ConnTable,
    epochs: Arc<Epochs>,
    next_new: u32,
    new_due: u32,
    random: Draw,
    endpoint_of: HashMap<u32, Ipv4Addr>,
}

impl EngineBench {
    /// Makes the table (its memory is never given back) and admits the established flows.
    pub fn new(case: EngineCase) -> Result<Self> {
        ensure!((1..=FLOWS_MAX).contains(&case.flows), "--flows {}: 1 to {FLOWS_MAX}", case.flows);
        ensure!(case.new_percent <= 100, "--new {}: percent, 0 to 100", case.new_percent);
        let kept = if case.new_percent == 0 { 0 } else { NEW_FLOWS_KEPT + FRAMES as u32 };
        // An eighth of room: of a table filled to the last flow it was made for, chance decides who gets in.
        let most = (case.flows + kept) as usize;
        let table = node::connection_table(most + most / 8, &secret())?;
        let epochs = Arc::new(Epochs::new());
        let mut bench = Self {
            case,
            worker: InMemoryWorker::new(0, table, epochs.clone(), node::next_hops()),
            tables: node::tables(),
            table,
            epochs,
            next_new: case.flows,
            new_due: 0,
            random: Draw::new(SEED),
            endpoint_of: HashMap::new(),
        };
        bench.admit_established()?;
        Ok(bench)
    }

    /// Measures for about so long, one round at least.
    pub fn run(&mut self, length: Duration) -> Result<EngineFigures> {
        // Caches and branch predictors as they are in the middle of a run.
        self.round()?;
        let mut rounds_ns = Vec::new();
        let start = Instant::now();
        while rounds_ns.is_empty() || start.elapsed() < length {
            rounds_ns.push(self.round()? as f64 / FRAMES as f64);
        }
        let rounds = rounds_ns.len();
        let Some(spread) = Spread::of(rounds_ns) else { bail!("no round was measured") };
        Ok(EngineFigures {
            ns_per_packet: spread.median,
            ns_per_packet_low: spread.low,
            ns_per_packet_high: spread.high,
            flows: self.case.flows,
            new_percent: self.case.new_percent,
            packets: (rounds * FRAMES) as u64,
            rounds,
            frames: FRAMES,
            frame_bytes: FRAME_BYTES,
            frames_span_bytes: FRAMES * STRIDE_BYTES,
        })
    }

    /// Draws, writes, measures, checks. Returns CPU nanoseconds of the pass.
    fn round(&mut self) -> Result<u64> {
        self.round_by(|worker, tables, now_s| worker.pass(tables, now_s, || {}))
    }

    /// The same with a pass of the caller's.
    pub(super) fn round_by<T>(
        &mut self,
        pass: impl FnOnce(&mut InMemoryWorker, &Tables, u32) -> Result<T>,
    ) -> Result<T> {
        for at in 0..FRAMES {
            self.worker.drawn[at] = self.draw();
        }
        let passed = self.pass(pass)?;
        if self.next_new - self.case.flows >= NEW_FLOWS_KEPT {
            self.end_new_flows();
        }
        Ok(passed)
    }

    /// Flow of the next packet: at random among the established ones, or a new one when it is time for it.
    fn draw(&mut self) -> u32 {
        self.new_due += self.case.new_percent;
        if self.new_due >= 100 {
            self.new_due -= 100;
            self.next_new += 1;
            return self.next_new - 1;
        }
        self.random.below(self.case.flows)
    }

    fn admit_established(&mut self) -> Result<()> {
        for first in (0..self.case.flows).step_by(FRAMES) {
            for at in 0..FRAMES {
                self.worker.drawn[at] = (first + at as u32).min(self.case.flows - 1);
            }
            self.pass(|worker, tables, now_s| worker.pass(tables, now_s, || {}))?;
        }
        ensure!(
            self.table.count() == u64::from(self.case.flows),
            "the table holds {} of {} flows",
            self.table.count(),
            self.case.flows
        );
        Ok(())
    }

    /// Writes, passes and checks the frames of the flows that are drawn.
    fn pass<T>(&mut self, pass: impl FnOnce(&mut InMemoryWorker, &Tables, u32) -> Result<T>) -> Result<T> {
        self.worker.write();
        let passed = pass(&mut self.worker, &self.tables, atalho_sys::clock::coarse_seconds())?;
        self.check()?;
        Ok(passed)
    }

    /// Every frame of the last pass, byte for byte where it had to change.
    fn check(&mut self) -> Result<()> {
        for (at, flow) in self.worker.drawn.iter().enumerate() {
            let endpoint = self.worker.frames.check(at, *flow)?;
            let first = *self.endpoint_of.entry(*flow).or_insert(endpoint);
            ensure!(first == endpoint, "flow {flow} went to {first} and then to {endpoint}: this run says nothing");
        }
        Ok(())
    }

    /// Ends the flows that came beyond the established ones, and lets their slots be used again.
    fn end_new_flows(&mut self) {
        let (oldest_client, oldest_port) = client_of(self.case.flows);
        let is_new = |src: IpAddr, port: u16| match src {
            IpAddr::V4(client) => (u32::from(client), port) >= (u32::from(oldest_client), oldest_port),
            IpAddr::V6(_) => false,
        };
        for connection in self.table.connections() {
            if is_new(connection.original.key.src, connection.original.key.src_port) {
                self.table.end(&self.epochs, connection.at);
            }
        }
        self.worker.reclaim();
        self.endpoint_of.retain(|flow, _| *flow < self.case.flows);
        self.next_new = self.case.flows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(flows: u32, new_percent: u32) -> EngineBench {
        EngineBench::new(EngineCase { flows, new_percent }).unwrap()
    }

    #[test]
    fn established_flows_stay_as_many_and_every_packet_is_right() {
        let mut bench = bench(1000, 0);
        let figures = bench.run(Duration::ZERO).unwrap();
        assert!(figures.ns_per_packet > 0.0);
        assert_eq!((figures.packets, figures.rounds), (FRAMES as u64, 1));
        assert_eq!(bench.table.count(), 1000);
        assert!(bench.worker.counters.books().is_even());
    }

    #[test]
    fn new_flows_come_as_often_as_asked() {
        let mut quarter = bench(1000, 25);
        quarter.round().unwrap();
        assert_eq!(quarter.table.count(), 1000 + FRAMES as u64 / 4);
        quarter.end_new_flows();
        assert_eq!(quarter.table.count(), 1000);
        // Their slots serve again, and the established ones are where they were.
        quarter.round().unwrap();
        assert_eq!(quarter.table.count(), 1000 + FRAMES as u64 / 4);
    }

    #[test]
    fn a_wrong_packet_voids_the_run() {
        let mut bench = bench(10, 0);
        bench.round().unwrap();
        bench.worker.frames.bytes_mut()[5 * STRIDE_BYTES + 50] ^= 1;
        assert!(bench.check().unwrap_err().to_string().contains("says nothing"));
    }

    #[test]
    fn a_flow_that_changes_its_endpoint_voids_the_run() {
        let mut bench = bench(10, 0);
        bench.round().unwrap();
        bench.endpoint_of.values_mut().for_each(|endpoint| *endpoint = node::VIP);
        assert!(bench.check().unwrap_err().to_string().contains("and then to"));
    }
}
