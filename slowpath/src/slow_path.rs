//! The slow path's core: one punted packet in, one buffer back to its worker, now or later.

use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::handoff::{Handoff, Task, WorkerQueues};
use atalho_engine::next_hops::NextHops;
use atalho_engine::tables::Tables;
use atalho_engine::verdict::{DropReason, PuntReason};

use crate::answer::answer;
use crate::bell::Bell;
use crate::bucket::Bucket;
use crate::counters::SlowPathCounters;
use crate::link;
use crate::punted::Punted;
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
    /// Neighbours for which packets wait.
    pub neighbours: usize,
    pub packets_per_neighbour: usize,
    /// After this a packet is given up.
    pub neighbour_wait_ms: u64,
}

impl Default for Limits {
    /// Linux limits ICMP answers to 1,000/s too (icmp_msgs_per_sec), and gives up on a neighbour after 3 s (three
    /// questions a second apart).
    fn default() -> Self {
        Self {
            answers_per_s: 1000,
            answers_burst: 1000,
            neighbours: 1024,
            packets_per_neighbour: 64,
            neighbour_wait_ms: 3000,
        }
    }
}

/// The slow path of all workers.
pub struct SlowPath {
    pub(crate) parts: Parts,
    pub(crate) bell: Bell,
    waiting: Waiting,
    bucket: Bucket,
    counters: Arc<SlowPathCounters>,
}

impl SlowPath {
    pub fn new(parts: Parts, limits: Limits) -> Self {
        // Half of a worker's buffers may wait for neighbours; the others stay for everything else.
        let by_worker_max = parts.queues.iter().map(|queues| queues.free.capacity() / 2).collect();
        Self {
            waiting: Waiting::new(limits, by_worker_max),
            bucket: Bucket::new(limits.answers_per_s, limits.answers_burst),
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

    /// Whether packets wait for neighbours, so that [`Self::tick`] has to be called now and then.
    pub fn has_waiting(&self) -> bool {
        self.waiting.packets() > 0
    }

    /// Deals with a punted packet of `worker` at `now_ms` (any monotonic clock). The buffer comes back at once with its task
    /// set, for the queue `returns`, or waits: then [`Self::tick`] gives it back.
    pub fn handle(&mut self, now_ms: u64, worker: usize, mut buffer: Box<Handoff>) -> Option<Box<Handoff>> {
        self.counters.punted();
        let outcome = match buffer.task {
            Task::Punt { reason: PuntReason::NeighbourUnresolved, next_hop_address: Some(address), .. } => {
                return self.wait(now_ms, address, worker, buffer);
            }
            Task::Punt { reason, mtu, .. } => self.answer(now_ms, reason, mtu, &mut buffer).map(|()| reason),
            Task::Resume | Task::Reply | Task::Drop(_) => Err(DropReason::SlowPathMalformed),
        };
        Some(match outcome {
            Ok(reason) => {
                self.counters.answered(reason);
                buffer.task = Task::Reply;
                buffer
            }
            Err(reason) => self.dropped(buffer, reason),
        })
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
        counters.waiting(waiting.packets());
        for (worker, mut buffer) in leaving {
            counters.resumed();
            buffer.task = Task::Resume;
            out(worker, buffer);
        }
        for (worker, buffer, reason) in given_up {
            out(worker, self.dropped(buffer, reason));
        }
    }

    fn wait(&mut self, now_ms: u64, address: IpAddr, worker: usize, buffer: Box<Handoff>) -> Option<Box<Handoff>> {
        match self.waiting.park(now_ms, address, worker, buffer) {
            Ok(ask) => {
                if ask {
                    (self.parts.ask_neighbour)(address);
                }
                self.counters.waiting(self.waiting.packets());
                None
            }
            Err(buffer) => Some(self.dropped(buffer, DropReason::NeighbourQueueFull)),
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
        let header =
            link::header(&packet, buffer.ingress, &tables, &self.parts.next_hops).ok_or(DropReason::UnknownPort)?;
        let answer = answer(&packet, reason, mtu, &tables)?;
        let len = link::HEADER_BYTES + answer.len();
        let frame = buffer.frame.get_mut(..len).ok_or(DropReason::SlowPathMalformed)?;
        frame[..link::HEADER_BYTES].copy_from_slice(&header);
        frame[link::HEADER_BYTES..].copy_from_slice(&answer);
        buffer.len = len;
        self.bucket.spend();
        Ok(())
    }

    fn dropped(&self, mut buffer: Box<Handoff>, reason: DropReason) -> Box<Handoff> {
        self.counters.dropped(reason);
        buffer.task = Task::Drop(reason);
        buffer
    }
}

/// Whether packets by way of `address` can go: it has a next hop, as a neighbour on the uplink or as a pod of this node, and
/// that one's link address is known.
fn is_resolved(address: IpAddr, tables: &Tables, next_hops: &NextHops) -> bool {
    let index = tables.routes.neighbour(address).or_else(|| tables.local_pods.get(&address).copied());
    index.and_then(|index| next_hops.get(index)).is_some_and(|next_hop| next_hop.destination.is_some())
}
