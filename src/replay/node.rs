//! One node with one worker, in memory: the pipeline, the slow path, the connection table, and what control does to them.
//! Everything happens in one thread and at the clock's time, so nothing ever waits for another.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use atalho_control::config::Config;
use atalho_control::reconcile::Reconciler;
use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs, ExpiryScan};
use atalho_engine::counters::Counters;
use atalho_engine::handoff::{Handoff, Task, WorkerQueues};
use atalho_engine::next_hops::NextHops;
use atalho_engine::pipeline::{Engine, EngineParts, Slot};
use atalho_engine::tables::Tables;
use atalho_engine::verdict::{DropReason, PuntReason, Verdict};
use atalho_layout::{SECRET_WORDS, affinity};
use atalho_slowpath::{Limits, Parts, SlowPath};

use super::clock::Clock;
use super::objects::Objects;
use super::out::Out;
use super::report::End;

/// As on a node.
const HANDOFF_BUFFERS: usize = 512;
/// Pods of one node, the node, and everybody on the uplink.
const NEXT_HOPS: usize = 16_384;

/// The node.
pub struct Node {
    engine: Engine,
    slow: SlowPath,
    queues: Arc<WorkerQueues>,
    table: ConnTable,
    epochs: Arc<Epochs>,
    next_hops: NextHops,
    snapshot: Arc<ArcSwap<Tables>>,
    tables: Arc<Tables>,
    /// Next hops that are written.
    written: BTreeSet<u32>,
    reconciler: Reconciler,
    scan: ExpiryScan,
    /// Whose packet stands in a buffer that the slow path keeps, by the buffer's address.
    waiting: HashMap<usize, Cause>,
    /// Packets whose end is known and not yet told: what they cause is all written first.
    ended: Vec<(u64, End)>,
}

/// The input packet in a buffer, and why it went to the slow path.
#[derive(Debug, Clone, Copy)]
struct Cause {
    n: u64,
    reason: PuntReason,
}

impl Node {
    /// `seed`: where secrets and draws come from.
    pub fn new(config: &Config, seed: u64) -> Self {
        let mut draws = Draws(seed);
        let secret: [u64; SECRET_WORDS] = std::array::from_fn(|_| draws.next());
        let table = ConnTable::in_memory(config.conntrack.max_flows as usize, &secret);
        let epochs = Arc::new(Epochs::new());
        let next_hops = NextHops::in_memory(NEXT_HOPS);
        let queues = WorkerQueues::new(HANDOFF_BUFFERS);
        let snapshot = Arc::new(ArcSwap::from_pointee(Tables::default()));
        let engine = Engine::new(EngineParts {
            worker: 0,
            table,
            affinity: AffinityTable::in_memory(affinity::ENTRIES, &secret),
            epochs: epochs.clone(),
            next_hops,
            counters: Arc::new(Counters::default()),
            seed: draws.next(),
            prefetch: |_| {},
        });
        let read_snapshot = snapshot.clone();
        let parts = Parts {
            queues: vec![queues.clone()],
            tables: Box::new(move || read_snapshot.load_full()),
            next_hops,
            // All neighbours are known.
            ask_neighbour: Box::new(|_| {}),
            // Nobody sleeps.
            wake_worker: Box::new(|_| {}),
        };
        Self {
            engine,
            slow: SlowPath::new(parts, Limits::default()),
            queues,
            table,
            epochs,
            next_hops,
            tables: snapshot.load_full(),
            snapshot,
            written: BTreeSet::new(),
            reconciler: Reconciler::default(),
            scan: ExpiryScan::new(0, 1),
            waiting: HashMap::new(),
            ended: Vec::new(),
        }
    }

    pub fn table(&self) -> &ConnTable {
        &self.table
    }

    /// Puts the objects' tables in force and ends the flows that this concerns.
    pub fn publish(&mut self, objects: &Objects) {
        let compiled = objects.compiled();
        for (index, next_hop) in &compiled.next_hops {
            // More pods than next hops: their packets are dropped as next_hop_gone, as on a node.
            if (*index as usize) < NEXT_HOPS {
                self.next_hops.set(*index, next_hop);
                self.written.insert(*index);
            }
        }
        let before = std::mem::replace(&mut self.tables, compiled.tables.clone());
        self.snapshot.store(self.tables.clone());
        self.written.retain(|index| {
            let is_wanted = compiled.next_hops.contains_key(index);
            if !is_wanted {
                self.next_hops.clear(*index);
            }
            is_wanted
        });
        for key in &compiled.delta.vips_removed {
            if let Some(vip) = before.services.look_up(key) {
                self.reconciler.depart(*key, vip);
            }
        }
        if self.table.count() > 0 {
            self.end_flows(objects);
        }
    }

    fn end_flows(&mut self, objects: &Objects) {
        self.reconciler.scan(&self.table, &self.tables, &|service, endpoint| objects.knows_endpoint(service, endpoint));
        loop {
            let is_all = self.reconciler.hand_over(std::slice::from_ref(&self.queues), &|_| {});
            while let Some(at) = self.queues.end_flows.pop() {
                self.table.end(&self.epochs, at);
            }
            if is_all {
                break;
            }
        }
        self.reclaim();
    }

    /// Ends what has been idle for too long at `now_s`.
    pub fn expire(&mut self, now_s: u32) {
        if self.table.count() > 0 {
            self.table.expire(&mut self.scan, u32::MAX, now_s, &self.tables.settings.timeouts, &self.epochs);
            self.reclaim();
        }
    }

    /// Nobody reads the table between two packets, so what was removed may be used again at once.
    fn reclaim(&self) {
        if self.epochs.waits() {
            self.epochs.mark_safe(self.epochs.advance());
        }
    }

    /// Input packet `n` comes to the worker by the port of interface index `ingress`.
    pub fn receive(&mut self, n: u64, ingress: u32, frame: &mut [u8], clock: &Clock, out: &mut Out) -> io::Result<()> {
        // Every destination MAC counts as ours.
        if let (Some(exit), Some(destination)) = (out.ports.exit(ingress), frame.first_chunk_mut::<6>()) {
            *destination = exit.our_mac();
        }
        let mut slot = Slot::new(frame, ingress);
        self.engine.process(&self.tables, clock.coarse_s(), std::slice::from_mut(&mut slot));
        let outcome = Outcome::of(&slot);
        match outcome.punt {
            Some((reason, task)) => match self.buffer_with(frame, outcome.ingress) {
                Some(buffer) => self.punt(Cause { n, reason }, task, buffer, clock, out)?,
                None => {
                    self.engine.counters().dropped(DropReason::PuntQueueFull);
                    self.ended.push((n, End::Drop(DropReason::PuntQueueFull)));
                }
            },
            None => self.settle(n, outcome.verdict, &mut frame[..outcome.send_bytes], clock, out)?,
        }
        self.reclaim();
        self.tick(clock, out)
    }

    /// Lets the slow path give back what need not wait any more.
    pub fn tick(&mut self, clock: &Clock, out: &mut Out) -> io::Result<()> {
        if self.slow.has_waiting() {
            let mut leaving = Vec::new();
            self.slow.tick(clock.now_ms(), |_, buffer| leaving.push(buffer));
            for buffer in leaving {
                if let Some(cause) = self.waiting.remove(&address(&buffer)) {
                    self.take_back(cause, buffer, clock, out)?;
                }
            }
        }
        self.ended.drain(..).try_for_each(|(n, end)| out.report.end(n, end))
    }

    /// Whether packets wait in the slow path, so that [`Self::tick`] has to be called as time goes by.
    pub fn has_waiting(&self) -> bool {
        self.slow.has_waiting()
    }

    /// Whether every packet that the engine saw ended in one place.
    pub fn is_even(&self) -> bool {
        self.engine.counters().books().is_even() && self.slow.counters().books().is_even()
    }

    fn buffer_with(&self, frame: &[u8], ingress: u32) -> Option<Box<Handoff>> {
        let mut buffer = self.queues.free.pop()?;
        if buffer.fill(frame, ingress) {
            return Some(buffer);
        }
        self.free(buffer);
        None
    }

    fn punt(
        &mut self,
        cause: Cause,
        task: Task,
        mut buffer: Box<Handoff>,
        clock: &Clock,
        out: &mut Out,
    ) -> io::Result<()> {
        self.engine.counters().punted(cause.reason);
        buffer.task = task;
        self.waiting.insert(address(&buffer), cause);
        let mut leaving = Vec::new();
        self.slow.handle(clock.now_ms(), 0, buffer, |_, buffer| leaving.push(buffer));
        for buffer in leaving {
            match self.waiting.remove(&address(&buffer)) {
                Some(cause) => self.take_back(cause, buffer, clock, out)?,
                None => self.take_piece(cause, buffer, clock, out)?,
            }
        }
        Ok(())
    }

    /// Does what the slow path asks of the worker, with the buffer that a packet was punted in.
    fn take_back(&mut self, cause: Cause, mut buffer: Box<Handoff>, clock: &Clock, out: &mut Out) -> io::Result<()> {
        match buffer.task {
            Task::Reply => {
                self.engine.counters().originated();
                let (ingress, bytes) = (buffer.ingress, buffer.len);
                out.send(cause.n, ingress, &mut buffer.frame[..bytes], clock)?;
                // Cut in pieces it goes on, and this is the first one.
                let end = if cause.reason == PuntReason::ToCut { End::Forward } else { End::Reject(cause.reason) };
                if end != End::Forward {
                    out.report.originated();
                }
                self.ended.push((cause.n, end));
            }
            Task::Resume => {
                let mut slot = Slot::resumed(&mut buffer);
                self.engine.resume(&self.tables, clock.coarse_s(), std::slice::from_mut(&mut slot));
                let outcome = Outcome::of(&slot);
                if let Some((reason, task)) = outcome.punt {
                    buffer.ingress = outcome.ingress;
                    return self.punt(Cause { reason, ..cause }, task, buffer, clock, out);
                }
                let frame = &mut buffer.frame[..outcome.send_bytes];
                self.settle(cause.n, outcome.verdict, frame, clock, out)?;
            }
            Task::Drop(reason) => self.ended.push((cause.n, End::Drop(reason))),
            Task::Punt { .. } => return Err(io::Error::other("the slow path gave a packet back unanswered: a bug")),
        }
        self.free(buffer);
        Ok(())
    }

    /// A further buffer that the slow path took for the same packet: a piece of it to be sent, or nothing.
    fn take_piece(&mut self, cause: Cause, mut buffer: Box<Handoff>, clock: &Clock, out: &mut Out) -> io::Result<()> {
        if buffer.task == Task::Reply {
            self.engine.counters().originated();
            out.report.originated();
            let (ingress, bytes) = (buffer.ingress, buffer.len);
            out.send(cause.n, ingress, &mut buffer.frame[..bytes], clock)?;
        }
        self.free(buffer);
        Ok(())
    }

    /// Carries out a verdict that is no punt. `frame`: as it is to be sent.
    fn settle(&mut self, n: u64, verdict: Verdict, frame: &mut [u8], clock: &Clock, out: &mut Out) -> io::Result<()> {
        self.engine.counters().settle(verdict, frame.len());
        match verdict {
            Verdict::Forward { next_hop } => {
                // The engine has just read it.
                let ifindex = self.next_hops.get(next_hop).map_or(0, |next_hop| next_hop.ifindex);
                out.send(n, ifindex, frame, clock)?;
                self.ended.push((n, End::Forward));
            }
            Verdict::Drop(reason) => self.ended.push((n, End::Drop(reason))),
            Verdict::Punt(_) => {}
        }
        Ok(())
    }

    fn free(&self, buffer: Box<Handoff>) {
        // The queue has room for every buffer there is.
        let _ = self.queues.free.push(buffer);
    }
}

/// What the engine said about a packet, kept while its frame moves.
struct Outcome {
    verdict: Verdict,
    /// What the slow path is asked, if the packet is for it.
    punt: Option<(PuntReason, Task)>,
    ingress: u32,
    send_bytes: usize,
}

impl Outcome {
    fn of(slot: &Slot<'_>) -> Self {
        let punt = match slot.verdict {
            Verdict::Punt(reason) => {
                Some((reason, Task::Punt { reason, next_hop_address: slot.neighbour, mtu: slot.mtu }))
            }
            Verdict::Forward { .. } | Verdict::Drop(_) => None,
        };
        Self { verdict: slot.verdict, punt, ingress: slot.ingress, send_bytes: slot.send_len }
    }
}

fn address(buffer: &Handoff) -> usize {
    std::ptr::from_ref(buffer).addr()
}

/// SplitMix64 (Steele, Lea and Flood, 2014): from one seed many.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
