//! The slow path's core: one punted packet in, its buffer back to its worker, now or later.

use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::handoff::{Handoff, Task, WorkerQueues};
use atalho_engine::next_hops::NextHops;
use atalho_engine::tables::Tables;
use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_engine::wire::fragment;

use crate::answer::answer;
use crate::bell::Bell;
use crate::bucket::Bucket;
use crate::counters::SlowPathCounters;
use crate::cut::cut;
use crate::fragments::{self, Fragments};
use crate::link;
use crate::punted::Punted;
use crate::relay;
use crate::senders::Senders;
use crate::waiting::Waiting;

/// What the slow path is connected to.
pub struct Parts {
    /// By worker.
    pub queues: Vec<Arc<WorkerQueues>>,
    /// The tables that workers use now.
    pub tables: Box<dyn Fn() -> Arc<Tables> + Send>,
    pub next_hops: NextHops,
    /// Has the kernel resolve a neighbour; must not block. A lost question is asked again.
    pub ask_neighbour: Box<dyn FnMut(IpAddr) + Send>,
    /// Rings the doorbell of a worker that sleeps.
    pub wake_worker: Box<dyn Fn(usize) + Send>,
}

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub answers_per_s: u32,
    /// Answers at once after a pause.
    pub answers_burst: u32,
    /// Of these, to one sender.
    pub answers_to_sender_per_s: u32,
    pub answers_to_sender_burst: u32,
    /// Copies of ICMP errors to other nodes.
    pub relays_per_s: u32,
    pub relays_burst: u32,
    /// Neighbours for which packets wait.
    pub neighbours: usize,
    pub packets_per_neighbour: usize,
    /// After this a packet is given up.
    pub neighbour_wait_ms: u64,
    /// Datagrams in fragments that are followed at a time.
    pub datagrams: usize,
    /// After this a datagram is given up, in each family.
    pub fragments_v4_ms: u64,
    pub fragments_v6_ms: u64,
}

impl Default for Limits {
    /// Linux limits ICMP errors to 1,000/s in all and one a second to each host (icmp_msgs_per_sec, icmp_ratelimit); what is
    /// counted here are also echo replies and resets, which it does not limit. Twenty senders have to work together to use
    /// it all up. Copies of errors have a limit of their own, Linux's for errors, or else a few errors to a Service of a large cluster
    /// would cost all others their answers. Linux gives up on a neighbour after 3 s too (three questions a second apart), and on a datagram after 30 s
    /// (ipfrag_time) or 60 s (RFC 8200 section 4.5).
    fn default() -> Self {
        Self {
            answers_per_s: 5000,
            answers_burst: 5000,
            answers_to_sender_per_s: 250,
            answers_to_sender_burst: 250,
            relays_per_s: 1000,
            relays_burst: 1000,
            neighbours: 1024,
            packets_per_neighbour: 64,
            neighbour_wait_ms: 3000,
            datagrams: 4096,
            fragments_v4_ms: 30_000,
            fragments_v6_ms: 60_000,
        }
    }
}

/// The slow path of all workers.
pub struct SlowPath {
    pub(crate) parts: Parts,
    pub(crate) bell: Bell,
    waiting: Waiting,
    fragments: Fragments,
    bucket: Bucket,
    senders: Senders,
    relays: Bucket,
    relay_turn: relay::Turn,
    counters: Arc<SlowPathCounters>,
}

impl SlowPath {
    pub fn new(parts: Parts, limits: Limits) -> Self {
        // Half of a worker's buffers may wait for neighbours, a quarter for first fragments; the others stay for all else.
        let buffers: Vec<usize> = parts.queues.iter().map(|queues| queues.free.capacity()).collect();
        Self {
            waiting: Waiting::new(limits, buffers.iter().map(|all| all / 2).collect()),
            fragments: Fragments::new(limits, buffers.iter().map(|all| all / 4)),
            bucket: Bucket::new(limits.answers_per_s, limits.answers_burst),
            senders: Senders::new(limits.answers_to_sender_per_s, limits.answers_to_sender_burst),
            relays: Bucket::new(limits.relays_per_s, limits.relays_burst),
            relay_turn: relay::Turn::default(),
            counters: Arc::default(),
            bell: Bell::default(),
            parts,
        }
    }

    /// To be rung after a push to `punts`, a publication, and a stop.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    pub fn counters(&self) -> Arc<SlowPathCounters> {
        self.counters.clone()
    }

    /// Whether packets wait for something, so that [`Self::tick`] has to be called now and then.
    pub fn has_waiting(&self) -> bool {
        self.waiting.packets() + self.fragments.waiting() > 0
    }

    /// Deals with a punted packet of `worker` at `now_ms` (any monotonic clock). `out` gets every buffer that is to go to a
    /// worker's queue `returns`, its task set, with the number of the worker: at once this one and what waited for it, or
    /// later, from [`Self::tick`].
    pub fn handle(
        &mut self,
        now_ms: u64,
        worker: usize,
        mut buffer: Box<Handoff>,
        mut out: impl FnMut(usize, Box<Handoff>),
    ) {
        self.counters.punted();
        match buffer.task {
            Task::Punt { reason: PuntReason::NeighbourUnresolved, next_hop_address: Some(address), .. } => {
                self.wait(now_ms, address, worker, buffer, &mut out);
            }
            Task::Punt { reason: PuntReason::Fragment, .. } => self.follow(now_ms, worker, buffer, &mut out),
            Task::Punt { reason: PuntReason::ToCut, mtu, .. } => match cut(buffer.bytes(), mtu) {
                Some(pieces) => self.send(PuntReason::ToCut, worker, buffer, &pieces, &mut out),
                None => out(worker, dropped(&self.counters, buffer, DropReason::TooBig)),
            },
            Task::Punt { reason: PuntReason::TrackedElsewhere, .. } => match self.relay(now_ms, &buffer) {
                Ok(copies) => self.send(PuntReason::TrackedElsewhere, worker, buffer, &copies, &mut out),
                Err(reason) => out(worker, dropped(&self.counters, buffer, reason)),
            },
            // A wait for nobody.
            Task::Punt { reason: PuntReason::NeighbourUnresolved, .. } | Task::Resume | Task::Reply | Task::Drop(_) => {
                out(worker, dropped(&self.counters, buffer, DropReason::SlowPathMalformed));
            }
            Task::Punt { reason, mtu, .. } => match self.answer(now_ms, reason, mtu, &mut buffer) {
                Ok(()) => {
                    self.counters.answered(reason);
                    buffer.task = Task::Reply;
                    out(worker, buffer);
                }
                Err(reason) => out(worker, dropped(&self.counters, buffer, reason)),
            },
        }
        self.counters.waiting(self.waiting.packets() + self.fragments.waiting());
    }

    /// Gives `out` the packets that need not wait any more, each with the worker whose buffer it is.
    pub fn tick(&mut self, now_ms: u64, mut out: impl FnMut(usize, Box<Handoff>)) {
        let Self { parts, waiting, counters, .. } = self;
        let tables = (parts.tables)();
        let next_hops = parts.next_hops;
        // Both callbacks give buffers out; they are gathered so that they need not share `out`.
        let mut leaving = Vec::new();
        let mut given_up = Vec::new();
        waiting.tick(
            now_ms,
            |address| is_resolved(address, &tables, &next_hops),
            |resumed| leaving.push(resumed),
            |(worker, buffer), reason| given_up.push((worker, buffer, reason)),
            |address| (parts.ask_neighbour)(address),
        );
        for (worker, mut buffer) in leaving {
            counters.resumed();
            buffer.task = Task::Resume;
            out(worker, buffer);
        }
        for (worker, buffer, reason) in given_up {
            out(worker, self.given_up(now_ms, buffer, reason));
        }
        let Self { waiting, fragments, counters, .. } = self;
        fragments.tick(now_ms, &mut |leaving| followed(counters, leaving, &mut out));
        counters.waiting(waiting.packets() + fragments.waiting());
    }

    /// What becomes of a packet that has waited for a neighbour in vain: its sender is told, if it may be.
    fn given_up(&mut self, now_ms: u64, mut buffer: Box<Handoff>, reason: DropReason) -> Box<Handoff> {
        const WHY: PuntReason = PuntReason::NeighbourUnresolved;
        if reason != DropReason::NeighbourTimeout || self.answer(now_ms, WHY, 0, &mut buffer).is_err() {
            return dropped(&self.counters, buffer, reason);
        }
        self.counters.answered(WHY);
        buffer.task = Task::Reply;
        buffer
    }

    fn wait(
        &mut self,
        now_ms: u64,
        address: IpAddr,
        worker: usize,
        buffer: Box<Handoff>,
        out: &mut impl FnMut(usize, Box<Handoff>),
    ) {
        match self.waiting.park(now_ms, address, worker, buffer) {
            Ok(true) => (self.parts.ask_neighbour)(address),
            Ok(false) => {}
            Err(buffer) => out(worker, dropped(&self.counters, buffer, DropReason::NeighbourQueueFull)),
        }
    }

    /// A fragment goes on by its datagram's first one, which it may be itself, or waits for it.
    fn follow(&mut self, now_ms: u64, worker: usize, buffer: Box<Handoff>, out: &mut impl FnMut(usize, Box<Handoff>)) {
        let Self { fragments, counters, .. } = self;
        match fragment::read(buffer.bytes(), buffer.bytes().len()) {
            Ok(fragment) => {
                fragments.take(now_ms, worker, buffer, fragment, &mut |leaving| followed(counters, leaving, out));
            }
            Err(reason) => out(worker, dropped(counters, buffer, reason)),
        }
    }

    /// The frames by which an ICMP error goes to the nodes whose turn it is.
    fn relay(&mut self, now_ms: u64, buffer: &Handoff) -> Result<Vec<Vec<u8>>, DropReason> {
        let tables = (self.parts.tables)();
        let packet = Punted::parse(buffer.bytes()).ok_or(DropReason::SlowPathMalformed)?;
        let sender = self.senders.bucket(buffer.ingress, packet.src);
        if !sender.has_token(now_ms) {
            return Err(DropReason::SenderRateLimited);
        }
        let nodes = self.relay_turn.take(&tables.other_nodes, packet.src);
        if !self.relays.has_tokens(now_ms, nodes.len() as u64) {
            return Err(DropReason::PuntRateLimited);
        }
        sender.spend();
        let relay::Copies { frames, unresolved } = relay::copies(&packet, &nodes, &tables, &self.parts.next_hops);
        self.relays.spend_all(frames.len() as u64);
        // They miss this error. The next packet that is too long will cause another.
        unresolved.into_iter().for_each(|neighbour| (self.parts.ask_neighbour)(neighbour));
        if frames.is_empty() { Err(DropReason::IcmpUnknownFlow) } else { Ok(frames) }
    }

    /// Sends what became of a packet by the port of its buffer, each frame in a buffer of its worker; or nothing at all.
    fn send(
        &mut self,
        reason: PuntReason,
        worker: usize,
        buffer: Box<Handoff>,
        frames: &[Vec<u8>],
        out: &mut impl FnMut(usize, Box<Handoff>),
    ) {
        let ingress = buffer.ingress;
        let mut buffers = vec![buffer];
        while buffers.len() < frames.len()
            && let Some(more) = self.parts.queues.get(worker).and_then(|queues| queues.free.pop())
        {
            buffers.push(more);
        }
        let is_enough = buffers.len() >= frames.len();
        let mut frames = frames.iter();
        for (at, mut buffer) in buffers.into_iter().enumerate() {
            buffer.task = match frames.next() {
                Some(frame) if is_enough && buffer.fill(frame, ingress) => Task::Reply,
                // The packet's own buffer stands for it in the books, the others were never used.
                _ => Task::Drop(DropReason::PuntQueueFull),
            };
            if at == 0 {
                match buffer.task {
                    Task::Reply => self.counters.answered(reason),
                    _ => self.counters.dropped(DropReason::PuntQueueFull),
                }
            }
            out(worker, buffer);
        }
    }

    /// Puts the answer to the buffer's packet into the buffer.
    fn answer(&mut self, now_ms: u64, reason: PuntReason, mtu: u16, buffer: &mut Handoff) -> Result<(), DropReason> {
        if !self.bucket.has_token(now_ms) {
            return Err(DropReason::PuntRateLimited);
        }
        let tables = (self.parts.tables)();
        let len = buffer.len.min(buffer.frame.len());
        let packet = Punted::parse(&buffer.frame[..len]).ok_or(DropReason::SlowPathMalformed)?;
        let sender = self.senders.bucket(buffer.ingress, packet.src);
        if !sender.has_token(now_ms) {
            return Err(DropReason::SenderRateLimited);
        }
        let header =
            link::header(&packet, buffer.ingress, &tables, &self.parts.next_hops).ok_or(DropReason::UnknownPort)?;
        let answer = answer(&packet, reason, mtu, &tables)?;
        let len = link::HEADER_BYTES + answer.len();
        let frame = buffer.frame.get_mut(..len).ok_or(DropReason::SlowPathMalformed)?;
        frame[..link::HEADER_BYTES].copy_from_slice(&header);
        frame[link::HEADER_BYTES..].copy_from_slice(&answer);
        buffer.len = len;
        self.bucket.spend();
        sender.spend();
        Ok(())
    }
}

fn dropped(counters: &SlowPathCounters, mut buffer: Box<Handoff>, reason: DropReason) -> Box<Handoff> {
    counters.dropped(reason);
    buffer.task = Task::Drop(reason);
    buffer
}

/// Sends a fragment back to its worker, as a packet of its flow or to be dropped.
fn followed(counters: &SlowPathCounters, leaving: fragments::Leaving, out: &mut impl FnMut(usize, Box<Handoff>)) {
    let fragments::Leaving { worker, mut buffer, end } = leaving;
    match end {
        Ok(packet) => {
            counters.resumed();
            buffer.fragment = Some(packet);
            buffer.task = Task::Resume;
            out(worker, buffer);
        }
        Err(reason) => out(worker, dropped(counters, buffer, reason)),
    }
}

/// Whether packets by way of `address` can go: it has a next hop, as a neighbour on the uplink or as a pod of this node, and
/// that one's link address is known.
fn is_resolved(address: IpAddr, tables: &Tables, next_hops: &NextHops) -> bool {
    let index = tables.routes.neighbour(address).or_else(|| tables.local_pods.get(&address).copied());
    index.and_then(|index| next_hops.get(index)).is_some_and(|next_hop| next_hop.destination.is_some())
}
