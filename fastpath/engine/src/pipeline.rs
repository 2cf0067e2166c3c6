//! A packet's whole story, in five steps over a batch: **parse**, **find** its flow, else **admit** it, **route** it,
//! **rewrite** it. Branching on outcomes stays here; what the steps call computes and returns.
//!
//! What a packet costs, cheapest first: dropped while parsing (no memory but the frame's); found (one line of tags, one
//! of the entry, the rewrite); admitted (hash look-ups in the tables, two inserts), once per flow. Batches exist so that
//! the memory of all packets is on its way before the first one needs it.
//!
//! Time comes in as a parameter, randomness from a seed, so a run can be repeated. Nothing here allocates, waits, logs or
//! does input or output; the frame is changed only where it is forwarded.

mod connect;
mod newcomers;
mod slot;
mod way_out;

use std::sync::Arc;

use atalho_layout::hop;

pub use self::slot::Slot;
use self::way_out::route;
use crate::admit;
use crate::affinity::AffinityTable;
use crate::conntrack::{ConnTable, Epochs, Flow, Followed, Probe};
use crate::counters::Counters;
use crate::flow::Protocol;
use crate::fragments;
use crate::next_hops::NextHops;
use crate::rewrite;
use crate::snat::PortDraw;
use crate::tables::Tables;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{self, Packet};

/// Packets that go through a step together. 64 keeps a batch's state within a first-level cache of 32 KiB.
pub const BATCH: usize = 64;

/// What an engine is made of.
pub struct EngineParts {
    /// Index of the worker, below 255.
    pub worker: u8,
    pub table: ConnTable,
    pub affinity: AffinityTable,
    pub epochs: Arc<Epochs>,
    pub next_hops: NextHops,
    pub counters: Arc<Counters>,
    /// Same seed, same packets, same times: the same run. A live worker's is drawn and told nobody: source ports come of it.
    pub seed: u64,
    /// Asks the processor to load the line at an address; may do nothing.
    pub prefetch: fn(*const u8),
}

/// The packet logic of one worker.
pub struct Engine {
    parts: EngineParts,
    random: Random,
    draw: PortDraw,
    work: Box<[Work]>,
}

/// What is known of one packet between two steps.
#[derive(Clone, Copy)]
struct Work {
    packet: Packet,
    probe: Option<Probe>,
    way: Way,
}

/// How far a packet has come.
#[derive(Clone, Copy)]
enum Way {
    /// The verdict stands.
    Ended,
    /// No flow: to be admitted.
    Unknown,
    Found(Flow),
    /// The node's own affair: to its stack as it is.
    Unchanged,
}

/// What step 3 leaves of a batch.
struct Rest {
    /// Index of a packet that has no flow; others behind it may have one.
    first: usize,
    /// Its flow has just ended.
    has_ended: bool,
}

impl Engine {
    /// Everything that is allocated, is allocated here.
    pub fn new(parts: EngineParts) -> Self {
        let blank = Work { packet: Packet::BLANK, probe: None, way: Way::Ended };
        let draw = PortDraw::new([parts.seed, crate::service::mix(parts.seed)]);
        Self { random: Random::new(parts.seed), draw, parts, work: vec![blank; BATCH].into() }
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.parts.counters
    }

    pub fn table(&self) -> &ConnTable {
        &self.parts.table
    }

    /// Decides about packets that came in from ports. `now_s`: the kernel's coarse monotonic clock, seconds.
    pub fn process(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) {
        for slot in &*batch {
            self.parts.counters.received(slot.frame_bytes);
        }
        self.run(tables, now_s, batch);
    }

    /// Decides about packets that the slow path gives back, as if they had just come in.
    pub fn resume(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) {
        for _ in &*batch {
            self.parts.counters.returned();
        }
        self.run(tables, now_s, batch);
    }

    fn run(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) {
        for batch in batch.chunks_mut(BATCH) {
            self.parse(batch);
            self.find(tables, batch);
            if let Some(rest) = self.follow(tables, now_s, batch) {
                self.admit(tables, now_s, batch, rest);
            }
            self.route_and_rewrite(tables, batch);
        }
    }

    /// Step 1: headers, hash, and the first line of the table on its way.
    fn parse(&mut self, batch: &mut [Slot<'_>]) {
        let table = &self.parts.table;
        for (slot, work) in batch.iter_mut().zip(&mut self.work) {
            let parsed = match wire::parse(slot.frame, slot.frame_bytes) {
                Err(DropReason::Fragment) => fragments::follow(slot.frame, slot.frame_bytes, slot.fragment),
                Err(reason) => Err(Verdict::Drop(reason)),
                Ok(packet) => Ok(packet),
            };
            match parsed {
                Ok(packet) => {
                    work.probe = table.probe(&packet.key);
                    if let Some(probe) = &work.probe {
                        table.prefetch_tags(probe, self.parts.prefetch);
                    }
                    work.packet = packet;
                    work.way = Way::Unknown;
                }
                Err(verdict) => {
                    slot.verdict = verdict;
                    work.way = Way::Ended;
                }
            }
        }
    }

    /// Step 2: the flow. Entries are all on their way before the first is read.
    fn find(&mut self, tables: &Tables, batch: &mut [Slot<'_>]) {
        let EngineParts { table, prefetch, .. } = &self.parts;
        let works = &mut self.work[..batch.len()];
        for work in works.iter().filter(|work| !matches!(work.way, Way::Ended)) {
            if let Some(probe) = &work.probe {
                table.prefetch_entry(probe, *prefetch);
            }
        }
        for (slot, work) in batch.iter_mut().zip(works) {
            if matches!(work.way, Way::Ended) {
                continue;
            }
            look_up(table, tables, slot, work);
            // TCP and SCTP are judged by both directions.
            if let Way::Found(flow) = &work.way
                && matches!(flow.protocol, Protocol::Tcp | Protocol::Sctp)
            {
                table.prefetch_peer(flow, *prefetch);
            }
        }
    }

    /// Step 3: packets of flows move the state of their connections, up to the first packet of the batch that has no flow.
    fn follow(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>]) -> Option<Rest> {
        for (first, (slot, work)) in batch.iter_mut().zip(&mut self.work).enumerate() {
            let has_ended = follow(&self.parts, tables, slot, work, now_s);
            if matches!(work.way, Way::Unknown) {
                return Some(Rest { first, has_ended });
            }
        }
        None
    }

    /// Steps 4 and 5: the way out, and what the packet looks like there.
    fn route_and_rewrite(&mut self, tables: &Tables, batch: &mut [Slot<'_>]) {
        let EngineParts { next_hops, counters, .. } = &self.parts;
        let node_ifindex = next_hops.get(hop::NODE).map(|node| node.ifindex);
        for (slot, work) in batch.iter_mut().zip(&self.work) {
            let packet = &work.packet;
            let (next_hop, destination) = match &work.way {
                Way::Found(flow) => (flow.next_hop, flow.rewrite.dst),
                Way::Unchanged => (hop::NODE, packet.key.dst),
                Way::Ended => {
                    count_drop(counters, slot.verdict);
                    continue;
                }
                // Admission leaves none.
                Way::Unknown => continue,
            };
            let from_node = node_ifindex == Some(slot.ingress);
            match route(next_hops, tables, packet, next_hop, destination, from_node) {
                Ok(way_out) => {
                    if let Way::Found(flow) = &work.way {
                        if packet.is_fragment()
                            && let Err(reason) = fragments::check_rewrite(packet, &flow.rewrite)
                        {
                            slot.drops(reason);
                            counters.dropped(reason);
                            continue;
                        }
                        rewrite::apply(slot.frame, packet, &flow.rewrite, way_out.hop);
                    }
                    way_out.address(slot.frame);
                    slot.verdict = Verdict::Forward { next_hop };
                    slot.via = way_out.next_hop.kind;
                    slot.send_len = usize::from(packet.end);
                    if !way_out.next_hop.fits(packet) {
                        slot.is_to_be_cut(&way_out.next_hop);
                    }
                }
                Err(detour) => {
                    slot.ends(detour);
                    count_drop(counters, slot.verdict);
                }
            }
        }
    }
}

fn count_drop(counters: &Counters, verdict: Verdict) {
    if let Verdict::Drop(reason) = verdict {
        counters.dropped(reason);
    }
}

/// What the table says about a packet: its flow, none, or that it may not use the one it has.
#[inline]
fn look_up(table: &ConnTable, tables: &Tables, slot: &mut Slot<'_>, work: &mut Work) {
    work.way = match work.probe.as_ref().and_then(|probe| table.find_probe(probe)) {
        None => Way::Unknown,
        Some(flow) => match may_use(tables, slot.ingress, &work.packet, &flow) {
            Ok(()) => Way::Found(flow),
            Err(reason) => {
                slot.drops(reason);
                Way::Ended
            }
        },
    };
}

/// A packet of a flow moves its connection's state, or is refused, or finds that it is over: then the flow ends, which is
/// said, and the packet is of no flow. An ICMP error is about a flow and not of it.
#[inline]
fn follow(parts: &EngineParts, tables: &Tables, slot: &mut Slot<'_>, work: &mut Work, now_s: u32) -> bool {
    if let Way::Found(flow) = &work.way
        && !work.packet.is_error()
    {
        match parts.table.follow(flow, &work.packet.segment(), now_s, &tables.settings) {
            Followed::Belongs => {}
            Followed::Over => {
                parts.table.end(&parts.epochs, flow.at);
                work.way = Way::Unknown;
                return true;
            }
            Followed::Refused(reason) => {
                slot.drops(reason);
                work.way = Way::Ended;
            }
        }
    }
    false
}

/// Whether a packet with the key of `flow` may use it: one that comes by another port than the flow's (a pod that was
/// made anew, a way that changed, a forger) has to have a source that belongs there.
#[inline]
fn may_use(tables: &Tables, ingress: u32, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
    if flow.ingress == ingress && !packet.is_error() {
        return Ok(());
    }
    let port = tables.ports.get(&ingress).ok_or(DropReason::UnknownPort)?;
    admit::check_source(tables, port, packet.src)
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
