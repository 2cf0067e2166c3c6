//! A packet's whole story, in five steps over a batch: **parse**, **find** its flow, else **admit** it, **route** it,
//! **rewrite** it. Branching on outcomes stays here; what the steps call computes and returns.
//!
//! What a packet costs, cheapest first: dropped while parsing (no memory but the frame's); **straight** (most packets, see
//! `straight.rs`: fixed offsets, one line of tags, one of the entry, words into the frame); found on the **long way**
//! (`long_way.rs`), which is everybody else's and knows every kind of packet; admitted (hash look-ups in the tables, two
//! inserts), once per flow. Batches exist so that the memory of all packets is on its way before the first one needs it.
//!
//! Time comes in as a parameter, randomness from a seed, so a run can be repeated. Nothing here allocates, waits, logs or
//! does input or output; the frame is changed only where it is forwarded.

mod connect;
mod icmp_error;
mod long_way;
mod newcomers;
mod slot;
mod straight;
mod way_out;

use std::sync::Arc;

use atalho_layout::hop;

use self::long_way::{Way, Work};
pub use self::slot::Slot;
use self::straight::Head;
use crate::affinity::AffinityTable;
use crate::conntrack::{ConnTable, Epochs};
use crate::counters::Counters;
use crate::next_hops::NextHops;
use crate::processor::Processor;
use crate::snat::PortDraw;
use crate::tables::Tables;

/// Packets that go through a step together. Measured in memory, ns a packet at 1,024 flows, at 500,000 and with every packet of a new
/// one: 64 take 27.3, 33.3 and 226, 128 take 25.9, 31.0 and 220, 256 take 27.1, 32.7 and 235. Look-ups alone among ten million
/// entries: 16.8, 12.1 and 11.6 ns, for more lines are on their way at a time.
pub const BATCH: usize = 128;

/// Frames that are on their way from memory while the headers of one are read. Measured as above: none takes 37.1 ns, 4
/// take 37.0, 8 and 16 take 36.8, 32 take 37.2; at 500,000 flows none takes some 10 % more.
const FRAMES_AHEAD: usize = 8;

/// A part of the way that all packets of a batch take together, for those who measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Headers and hash.
    Parse,
    /// Tags.
    Look,
    /// The other direction's line of TCP; on the long way the flow.
    Find,
    /// The connection's state, and what else is left of the straight way.
    Follow,
    /// First packets.
    Admit,
    /// The way out and the rewrite, on the long way.
    Rewrite,
}

/// What an engine is made of.
pub struct EngineParts<P = ()> {
    /// Index of the worker, below 255.
    pub worker: u8,
    pub table: ConnTable,
    pub affinity: AffinityTable,
    pub epochs: Arc<Epochs>,
    pub next_hops: NextHops,
    pub counters: Arc<Counters>,
    /// Same seed, same packets, same times: the same run. A live worker's is drawn and told nobody: source ports come of it.
    pub seed: u64,
    pub processor: P,
}

/// The packet logic of one worker.
pub struct Engine<P = ()> {
    parts: EngineParts<P>,
    random: Random,
    draw: PortDraw,
    heads: Box<[Head]>,
    works: Box<[Work]>,
}

/// What step 3 leaves of a batch.
struct Rest {
    /// Index of a packet that has no flow; others behind it may have one.
    first: usize,
    /// Its flow has just ended.
    has_ended: bool,
}

impl<P: Processor> Engine<P> {
    /// Everything that is allocated, is allocated here.
    pub fn new(parts: EngineParts<P>) -> Self {
        let draw = PortDraw::new([parts.seed, crate::service::mix(parts.seed)]);
        let (heads, works) = (vec![Head::LONG; BATCH].into(), vec![Work::BLANK; BATCH].into());
        Self { random: Random::new(parts.seed), draw, parts, heads, works }
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.parts.counters
    }

    pub fn table(&self) -> &ConnTable {
        &self.parts.table
    }

    /// Decides about packets that came in from ports. `now_s`: the kernel's coarse monotonic clock, seconds.
    pub fn process(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) {
        let bytes = batch.iter().map(|slot| slot.frame_bytes).sum();
        self.parts.counters.received_batch(batch.len(), bytes);
        self.run(tables, now_s, batch, |_| {});
    }

    /// The same, and calls `after` at the end of each step of each batch.
    pub fn process_in_steps(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>], after: impl FnMut(Step)) {
        let bytes = batch.iter().map(|slot| slot.frame_bytes).sum();
        self.parts.counters.received_batch(batch.len(), bytes);
        self.run(tables, now_s, batch, after);
    }

    /// Decides about packets that the slow path gives back, as if they had just come in.
    pub fn resume(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) {
        for _ in &*batch {
            self.parts.counters.returned();
        }
        self.run(tables, now_s, batch, |_| {});
    }

    #[inline]
    fn run(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>], mut after: impl FnMut(Step)) {
        for batch in batch.chunks_mut(BATCH) {
            self.parse(batch);
            after(Step::Parse);
            self.look(batch);
            after(Step::Look);
            self.find(tables, batch);
            after(Step::Find);
            let rest = self.follow(tables, now_s, batch);
            after(Step::Follow);
            if let Some(rest) = rest {
                self.admit(tables, now_s, batch, rest);
            }
            after(Step::Admit);
            self.route_and_rewrite(tables, batch);
            after(Step::Rewrite);
        }
    }

    /// Step 1: headers, hash, and the first line of the table on its way.
    fn parse(&mut self, batch: &mut [Slot<'_>]) {
        let EngineParts { table, processor, .. } = &self.parts;
        batch.iter().take(FRAMES_AHEAD).for_each(|slot| processor.prefetch(slot.frame.as_ptr()));
        for (at, (head, work)) in self.heads.iter_mut().zip(&mut self.works).enumerate().take(batch.len()) {
            if let Some(ahead) = batch.get(at + FRAMES_AHEAD) {
                processor.prefetch(ahead.frame.as_ptr());
            }
            let slot = &mut batch[at];
            *head = Head::read(slot, table, *processor);
            if head.is_long() {
                work.parse(slot, table, *processor);
            }
        }
    }

    /// Step 2, first half: tags. Entries are all on their way before the first is read.
    fn look(&mut self, batch: &mut [Slot<'_>]) {
        let EngineParts { table, processor, .. } = &self.parts;
        let (mut unseen, mut unseen_count) = ([0; BATCH], 0);
        for (at, (head, work)) in self.heads.iter_mut().zip(&self.works).enumerate().take(batch.len()) {
            if head.is_long() {
                work.prefetch_entry(table, *processor);
            } else {
                unseen[unseen_count % BATCH] = at;
                unseen_count += usize::from(!head.look(table, *processor));
            }
        }
        if unseen_count > 0 {
            self.look_on(batch, &unseen[..unseen_count]);
        }
    }

    /// The tags of second buckets, for packets whose first one had none that fit.
    #[inline(never)]
    fn look_on(&mut self, batch: &mut [Slot<'_>], unseen: &[usize]) {
        let EngineParts { table, processor, .. } = &self.parts;
        unseen.iter().for_each(|at| self.heads[*at].prefetch_second_tags(table, *processor));
        for at in unseen {
            if !self.heads[*at].look_on(table, *processor) {
                self.works[*at].miss(&mut self.heads[*at], &mut batch[*at], table, *processor);
            }
        }
    }

    /// Step 2, second half: the flow.
    fn find(&mut self, tables: &Tables, batch: &mut [Slot<'_>]) {
        let EngineParts { table, processor, .. } = &self.parts;
        for ((slot, head), work) in batch.iter_mut().zip(&self.heads).zip(&mut self.works) {
            if head.is_long() {
                work.find(slot, table, tables, *processor);
            } else {
                head.look_at_peer(table, *processor);
            }
        }
    }

    /// Step 3: packets of flows move the state of their connections, up to the first packet of the batch that has no flow.
    /// Straight ones take the steps that are left as well.
    fn follow(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) -> Option<Rest> {
        let Self { parts, heads, works, .. } = self;
        let node = parts.next_hops.get(hop::NODE).map(|node| node.ifindex);
        for (first, ((slot, head), work)) in batch.iter_mut().zip(heads).zip(works).enumerate() {
            if head.forward(parts, &tables.settings, now_s, node, slot) {
                continue;
            }
            if head.is_long() && matches!(work.way, Way::First(_)) {
                return Some(Rest { first, has_ended: false });
            }
            work.take_over(head, slot, parts, tables);
            let has_ended = work.follow(slot, parts, tables, now_s);
            if matches!(work.way, Way::Unknown) {
                return Some(Rest { first, has_ended });
            }
        }
        None
    }

    /// Steps 4 and 5: the way out, and what the packet looks like there.
    fn route_and_rewrite(&mut self, tables: &Tables, batch: &mut [Slot<'_>]) {
        let EngineParts { next_hops, counters, .. } = &self.parts;
        let node = next_hops.get(hop::NODE).map(|node| node.ifindex);
        for ((slot, head), work) in batch.iter_mut().zip(&self.heads).zip(&self.works) {
            if head.is_long() {
                work.route_and_rewrite(slot, next_hops, counters, tables, node);
            }
        }
    }
}

/// Draws for choices that need no secrecy (SplitMix64; Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (crate::service::mix(self.0) >> 32) as u32
    }
}
