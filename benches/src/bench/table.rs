//! Ratio 6: how near the connection table's look-up comes to what the memory under it gives.
//!
//! Look-ups go as the straight way does them: from a key's words, as they stand in a frame. A batch is hashed and the tags of its
//! first buckets asked for, then its entries or the tags of second buckets, then all are found and their translations read. The keys are those of both directions of live connections, drawn at random. Beside it the limit: random lines
//! of the same entries' memory, 32 prefetches in flight, one word of each read. Both are CPU time of one thread over as
//! many draws, which are made outside the timed part, and the two take turns.
//!
//! The table is in huge pages, as far as the kernel gives any, and filled as far as it is made for. What this does not do:
//! frames, and anything that a packet does to its connection.

use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use atalho_engine::conntrack::{ConnTable, Epochs, Family as _, Geometry, Hit, InsertError, V4};
use atalho_engine::pipeline::BATCH;
use atalho_engine::processor::Processor as _;
use atalho_layout::flow4;
use atalho_worker::Native;
use serde::Serialize;

use super::connections::{Family, connection};
use super::frames::FRAMES;
use super::in_memory::{Draw, SEED, secret};
use super::output::OutputArguments;
use super::ratio::{Goal, JudgedRatio};
use super::statistics::Spread;
use super::{cpu, memory, node};

const GOAL: Goal = Goal {
    number: 6,
    what: "look-ups / random lines of the same memory",
    command: "./scripts/bench table",
    accept: 0.5,
    aim: 0.75,
};

/// Look-ups of a round, and lines.
const DRAWS: usize = FRAMES;
/// Rounds of each side that make one pair.
const ROUNDS_PER_PAIR: usize = 32;
const IN_FLIGHT: usize = 32;
const ENTRIES_MAX: u32 = 40_000_000;
/// Sizes of table for which the ratio is asked.
pub const ENTRIES: [u32; 2] = [1_000_000, 10_000_000];

#[derive(clap::Args)]
pub struct TableArguments {
    /// Entries of the table, two a connection; several sizes by comma.
    #[arg(long, value_delimiter = ',', default_values_t = ENTRIES)]
    entries: Vec<u32>,
    #[arg(long, default_value_t = 21)]
    pairs: usize,
    #[command(flatten)]
    output: OutputArguments,
}

/// One size of table. CPU time of the thread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableFigures {
    pub entries: u64,
    pub memory_bytes: usize,
    /// Of the whole process, in huge pages.
    pub huge_bytes: u64,
    pub look_up_ns: Spread,
    pub line_ns: Spread,
    pub ratio: JudgedRatio,
}

/// Measures, prints and keeps. `false`: a ratio was not met.
pub fn run(arguments: &TableArguments) -> Result<bool> {
    let figures = figures(&arguments.entries, arguments.pairs)?;
    arguments.output.show("table", &figures)?;
    Ok(figures.iter().all(|figures| figures.ratio.is_met()))
}

/// Of tables of so many entries each, so many pairs of rounds.
pub fn figures(entries: &[u32], pairs: usize) -> Result<Vec<TableFigures>> {
    ensure!((1..=1000).contains(&pairs), "--pairs {pairs}: 1 to 1000");
    let of = |entries: &u32| {
        ensure!((1000..=ENTRIES_MAX).contains(entries), "--entries {entries}: 1000 to {ENTRIES_MAX}");
        TableBench::new(*entries / 2)?.measure(pairs)
    };
    entries.iter().map(of).collect()
}

impl fmt::Display for TableFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} entries in {} MB, {} MB of the process in huge pages: {:.1} ns a look-up, {:.1} ns a line",
            self.entries,
            self.memory_bytes >> 20,
            self.huge_bytes >> 20,
            self.look_up_ns.median,
            self.line_ns.median
        )?;
        write!(f, "{}", self.ratio)
    }
}

type Key = <V4 as atalho_engine::conntrack::Family>::Key;

/// A full table, and what is drawn of it.
struct TableBench {
    table: ConnTable,
    entries4: &'static [AtomicU32],
    memory_bytes: usize,
    /// The connections that live.
    live: Vec<u32>,
    random: Draw,
    keys: Vec<Key>,
    lines: Vec<u32>,
}

impl TableBench {
    /// The table is made for so many connections, and so many are put in.
    fn new(connections: u32) -> Result<Self> {
        let geometry = Geometry::for_max_flows(connections as usize);
        let memory = node::table_memory(geometry)?;
        let (entries4, memory_bytes) = (memory.entries4, size_of_val(memory.tags4) + size_of_val(memory.entries4));
        let table = ConnTable::new(memory, geometry, &secret());
        let epochs = Epochs::new();
        for number in 0..connections {
            match table.insert(0, &epochs, &connection(Family::V4, number), 1) {
                Ok(_) | Err(InsertError::TableFull) => {}
                Err(error) => anyhow::bail!("connection {number} could not be put in: {error:?}"),
            }
        }
        // Of a table that is full as designed, a few had to go.
        let live: Vec<u32> = (0..connections)
            .filter(|number| table.find(&connection(Family::V4, *number).original.key).is_some())
            .collect();
        ensure!(live.len() > connections as usize / 100 * 99, "{} of {connections} connections are left", live.len());
        Ok(Self { table, entries4, memory_bytes, live, random: Draw::new(SEED), keys: Vec::new(), lines: Vec::new() })
    }

    fn measure(&mut self, pairs: usize) -> Result<TableFigures> {
        self.draw();
        // Caches and branch predictors as they are in the middle of a run.
        self.look_up()?;
        self.read_lines();
        let mut each = Vec::new();
        for _ in 0..pairs {
            let (mut look_up_ns, mut line_ns) = (0, 0);
            for _ in 0..ROUNDS_PER_PAIR {
                self.draw();
                look_up_ns += self.look_up()?;
                self.draw();
                line_ns += self.read_lines();
            }
            let of_one = |ns: u64| ns as f64 / (ROUNDS_PER_PAIR * DRAWS) as f64;
            each.push((of_one(look_up_ns), of_one(line_ns)));
        }
        let spread = |values: Vec<f64>| Spread::of(values).context("nothing was measured");
        let rates = Spread::of_ratios(each.iter().map(|(look_up, line)| (*line, *look_up)));
        let entries = 2 * self.live.len() as u64;
        Ok(TableFigures {
            entries,
            memory_bytes: self.memory_bytes,
            huge_bytes: memory::huge_bytes()?,
            look_up_ns: spread(each.iter().map(|pair| pair.0).collect())?,
            line_ns: spread(each.iter().map(|pair| pair.1).collect())?,
            ratio: GOAL.judge(format!("{entries} entries"), rates.context("nothing was measured")?, true),
        })
    }

    /// What the next round looks up, and which lines it reads.
    fn draw(&mut self) {
        let Self { live, random, keys, lines, .. } = self;
        keys.clear();
        keys.extend((0..DRAWS).map(|_| {
            let number = live[random.below(live.len() as u32) as usize];
            let connection = connection(Family::V4, number);
            let key = if random.below(2) == 0 { connection.original.key } else { connection.reply.key };
            V4::key(&key).unwrap_or_default()
        }));
        let slots = (self.entries4.len() / flow4::WORDS) as u32;
        lines.clear();
        lines.extend((0..DRAWS).map(|_| random.below(slots)));
    }

    /// Looks all keys up; CPU nanoseconds.
    ///
    /// # Errors
    /// One was not found.
    #[inline(never)]
    fn look_up(&self) -> Result<u64> {
        let (table, half) = (&self.table, V4::half(&self.table));
        let (mut looks, mut unseen) = ([(0, 0); BATCH], [0; BATCH]);
        let (mut found, mut sum) = (0, 0_u32);
        // From registers: kept in memory, an entry would be read before it is written through.
        let mut read = |hit: &Hit<V4>| {
            found += 1;
            let [src, dst, ports, _] = hit.new;
            sum = (sum ^ hit.next_hop ^ hit.peer).wrapping_add(src).wrapping_add(dst).wrapping_add(ports);
        };
        let began_ns = cpu::of_this_thread_ns();
        for keys in self.keys.chunks(BATCH) {
            for ((hash, at), key) in looks.iter_mut().zip(keys) {
                *hash = table.hash::<V4>(key);
                *at = half.prefetch_first_tags(*hash, Native);
            }
            let mut unseen_count = 0;
            for (at, (hash, slot)) in looks.iter_mut().enumerate().take(keys.len()) {
                let seen = half.look(*slot, *hash, Native);
                *slot = seen.unwrap_or_default();
                unseen[unseen_count % BATCH] = at;
                unseen_count += usize::from(seen.is_none());
            }
            for at in &unseen[..unseen_count] {
                half.prefetch_second_tags(looks[*at].0, Native);
            }
            for at in &unseen[..unseen_count] {
                let (hash, slot) = &mut looks[*at];
                *slot = half.look_on(*hash, Native).unwrap_or_default();
            }
            for ((hash, slot), key) in looks.iter().zip(keys) {
                // Two keys of a pair of buckets may have the same tag.
                if let Some(hit) = half.hit(*slot, key) {
                    read(&hit);
                } else if let Some(hit) = half.find(*hash, key) {
                    read(&hit);
                }
            }
        }
        black_box(sum);
        let ns = cpu::of_this_thread_ns() - began_ns;
        ensure!(found == self.keys.len() as u64, "{found} of {} look-ups found their flow", self.keys.len());
        Ok(ns)
    }

    /// Reads all lines; CPU nanoseconds.
    #[inline(never)]
    fn read_lines(&self) -> u64 {
        let line = |at: u32| &self.entries4[at as usize * flow4::WORDS..][..flow4::WORDS];
        let began_ns = cpu::of_this_thread_ns();
        for at in &self.lines[..IN_FLIGHT] {
            Native.prefetch(line(*at).as_ptr().cast());
        }
        let mut sum = 0_u32;
        for (at, ahead) in self.lines.iter().zip(self.lines[IN_FLIGHT..].iter().chain(&self.lines[..IN_FLIGHT])) {
            Native.prefetch(line(*ahead).as_ptr().cast());
            sum = sum.wrapping_add(line(*at)[0].load(Ordering::Relaxed));
        }
        black_box(sum);
        cpu::of_this_thread_ns() - began_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_look_up_finds_its_flow_and_one_of_a_stranger_is_noticed() {
        let mut bench = TableBench::new(2000).unwrap();
        let figures = bench.measure(1).unwrap();
        assert!(figures.look_up_ns.median > 0.0 && figures.line_ns.median > 0.0 && figures.entries > 3960);
        bench.keys[0] = V4::key(&connection(Family::V4, 2000).original.key).unwrap();
        assert!(bench.look_up().unwrap_err().to_string().contains("4095 of 4096"));
    }
}
