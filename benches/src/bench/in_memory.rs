//! One worker's part of the pipeline in memory: an engine, its frames, and a pass over them with what a worker does
//! around `process`: entering the epoch, filling the slots, counting the ends. Several may share one table.

use std::array;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Result, bail};
use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs};
use atalho_engine::counters::Counters;
use atalho_engine::next_hops::NextHops;
use atalho_engine::pipeline::{BATCH, Engine, EngineParts, Slot, Step};
use atalho_engine::tables::Tables;
use atalho_engine::verdict::Verdict;
use atalho_layout::SECRET_WORDS;
use atalho_worker::Native;

use super::cpu;
use super::frames::{FRAME_BYTES, FRAMES, Frames, STRIDE_BYTES};
use super::node::UPLINK;

/// Draws are repeated from run to run.
pub const SEED: u64 = 1;

/// A part of what a worker does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lap {
    /// Epoch entered, slots filled.
    Filled,
    /// A step of the engine.
    Passed(Step),
    /// Every end counted.
    Counted,
}

/// Where a worker finds its tables: it looks once a batch.
pub trait Look {
    fn look(&mut self) -> &Tables;
}

impl Look for &Tables {
    #[inline]
    fn look(&mut self) -> &Tables {
        self
    }
}

pub struct InMemoryWorker {
    engine: Engine<Native>,
    epoch: AtomicU64,
    epochs: Arc<Epochs>,
    pub counters: Arc<Counters>,
    pub frames: Frames,
    /// Flow of each frame.
    pub drawn: Vec<u32>,
}

impl InMemoryWorker {
    /// Worker `worker` of those who share `table`, `epochs` and `next_hops`.
    pub fn new(worker: u8, table: ConnTable, epochs: Arc<Epochs>, next_hops: NextHops) -> Self {
        let counters = Arc::new(Counters::default());
        let engine = Engine::new(EngineParts {
            worker,
            table,
            affinity: AffinityTable::in_memory(64, &secret()),
            epochs: epochs.clone(),
            next_hops,
            counters: counters.clone(),
            seed: SEED + u64::from(worker),
            processor: Native,
        });
        Self { engine, epoch: AtomicU64::new(0), epochs, counters, frames: Frames::default(), drawn: vec![0; FRAMES] }
    }

    /// Writes the frames of the flows that are drawn.
    pub fn write(&mut self) {
        self.frames.write(&self.drawn);
    }

    /// One pass over all frames, `after_batch` at the end of each batch. Returns its CPU nanoseconds.
    ///
    /// # Errors
    /// A packet was not forwarded.
    pub fn pass(&mut self, tables: &Tables, now_s: u32, mut after_batch: impl FnMut()) -> Result<u64> {
        let began_ns = cpu::of_this_thread_ns();
        let refused = self.batches(tables, now_s, |lap| {
            if lap == Lap::Counted {
                after_batch();
            }
        });
        let ns = cpu::of_this_thread_ns() - began_ns;
        refused.map(|()| ns)
    }

    /// The same, untimed: calls `after` at the end of each part of each batch.
    ///
    /// # Errors
    /// A packet was not forwarded.
    #[inline(always)]
    pub fn batches(&mut self, mut tables: impl Look, now_s: u32, mut after: impl FnMut(Lap)) -> Result<()> {
        let Self { engine, epochs, epoch, counters, frames, .. } = self;
        let mut refused = None;
        for frames in frames.bytes_mut().chunks_exact_mut(BATCH * STRIDE_BYTES) {
            epochs.enter(epoch);
            let mut each = frames.chunks_exact_mut(STRIDE_BYTES);
            let mut batch: [Slot<'_>; BATCH] = array::from_fn(|_| match each.next() {
                Some(frame) => Slot::new(&mut frame[..FRAME_BYTES], UPLINK),
                None => Slot::default(),
            });
            after(Lap::Filled);
            engine.process_in_steps(tables.look(), now_s, &mut batch, |step| after(Lap::Passed(step)));
            for slot in &batch {
                match slot.verdict {
                    Verdict::Forward { .. } => counters.forwarded(slot.send_len),
                    verdict => refused = Some(verdict),
                }
            }
            after(Lap::Counted);
        }
        if let Some(verdict) = refused {
            bail!("a packet was not forwarded but got {verdict:?}: this run says nothing");
        }
        Ok(())
    }

    /// Checks every frame of the last pass, byte for byte where it had to change.
    pub fn check(&self) -> Result<()> {
        self.drawn.iter().enumerate().try_for_each(|(at, flow)| self.frames.check(at, *flow).map(|_| ()))
    }

    /// Lets the slots of what has ended be used again. Only where this worker is the only one and at rest, and no kernel
    /// reads the table.
    pub fn reclaim(&self) {
        let target = self.epochs.advance();
        self.epochs.enter(&self.epoch);
        self.epochs.mark_safe(target);
    }
}

/// The table's.
pub fn secret() -> [u64; SECRET_WORDS] {
    array::from_fn(|i| mix(SEED + i as u64))
}

/// An even draw from a counter (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
pub fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Even draws of numbers below a bound, from a seed.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(1);
        (((mix(self.0) >> 32) * u64::from(bound)) >> 32) as u32
    }
}
