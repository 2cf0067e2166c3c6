//! What a turn works on: the two ports, their frames, the engine, the queues to the slow path and control. Every
//! method is one line of [`crate::Worker::turn`].

use std::sync::Arc;

use arrayvec::ArrayVec;
use atalho_engine::conntrack::Epochs;
use atalho_engine::counters::Counters;
use atalho_engine::handoff::{Handoff, Task, WorkerQueues};
use atalho_engine::pipeline::{BATCH, Engine, Slot};
use atalho_engine::tables::Tables;
use atalho_engine::verdict::{DropReason, PuntReason, Verdict};
use atalho_layout::{NextHopKind, ifindex_of_tag};
use atalho_sys::processor;
use atalho_sys::xsk::{Frame, FrameBooks, FramePool, Side};

use crate::WorkerOptions;
use crate::expiry::Expiry;
use crate::native::Native;
use crate::port::Port;
use crate::pressure::Pressure;
use crate::tap::Tap;

/// Packets and requests taken back from the slow path and control in one turn, each: a flood of them must not keep the
/// ports waiting.
pub const RETURNS_PER_TURN: usize = 32;
pub const ENDS_PER_TURN: usize = 64;
/// The ports and all that a packet meets on its way between them.
pub struct Lanes<P> {
    pub uplink_ifindex: u32,
    frame_bytes_max: [usize; 2],
    pub pool: FramePool,
    pub uplink: P,
    pub funnel: P,
    pub engine: Engine<Native>,
    pub counters: Arc<Counters>,
    pub queues: Arc<WorkerQueues>,
    pub epochs: Arc<Epochs>,
    pub expiry: Expiry,
    /// How full the funnel's queue is, told to the kernel side; `None` where there is none.
    pub pressure: Option<Pressure>,
    /// Received and not yet acted on; empty between two calls, its memory kept.
    batch: Vec<(Frame, u32)>,
    received: Vec<Frame>,
    returned: Vec<Box<Handoff>>,
    outcomes: Vec<Outcome>,
    /// A copy of what comes in, if somebody wants one.
    pub tap: Option<Tap>,
    /// Set when a packet was punted: the slow path has to be told once.
    pub has_punted: bool,
}

/// What is to be done with one packet, kept while its frame moves.
#[derive(Clone, Copy)]
enum Outcome {
    Send {
        len: usize,
        side: Side,
    },
    Punt {
        reason: PuntReason,
        task: Task,
        ingress: u32,
    },
    /// Counted by the engine.
    Dropped,
}

impl Outcome {
    #[inline]
    fn of(slot: &Slot<'_>) -> Self {
        match slot.verdict {
            Verdict::Forward { .. } => {
                let side = if slot.via == NextHopKind::Uplink { Side::Uplink } else { Side::Funnel };
                Self::Send { len: slot.send_len, side }
            }
            Verdict::Punt(reason) => {
                let task = Task::Punt { reason, next_hop_address: slot.neighbour, mtu: slot.mtu };
                Self::Punt { reason, task, ingress: slot.ingress }
            }
            Verdict::Drop(_) => Self::Dropped,
        }
    }
}

impl<P: Port> Lanes<P> {
    pub fn new(
        options: &WorkerOptions,
        pool: FramePool,
        uplink: P,
        funnel: P,
        engine: Engine<Native>,
        queues: Arc<WorkerQueues>,
        epochs: Arc<Epochs>,
        expiry: Expiry,
    ) -> Self {
        Self {
            uplink_ifindex: options.uplink_ifindex,
            frame_bytes_max: options.frame_bytes_max,
            pool,
            uplink,
            funnel,
            counters: engine.counters().clone(),
            engine,
            queues,
            epochs,
            expiry,
            pressure: None,
            batch: Vec::with_capacity(BATCH),
            received: Vec::with_capacity(BATCH),
            returned: Vec::with_capacity(RETURNS_PER_TURN),
            outcomes: Vec::with_capacity(BATCH),
            tap: None,
            has_punted: false,
        }
    }

    /// Takes back sent frames.
    pub fn reclaim(&mut self, now_ms: u64) {
        self.uplink.reclaim(&mut self.pool, now_ms);
        self.funnel.reclaim(&mut self.pool, now_ms);
    }

    /// Hands out free frames and sends what was queued.
    pub fn refill_and_flush(&mut self, now_ms: u64) {
        for port in [&mut self.uplink, &mut self.funnel] {
            port.refill(&mut self.pool);
            port.flush(now_ms);
        }
    }

    /// Receives a batch on `side`, runs it through the engine and acts on the verdicts; returns how many came in.
    pub fn serve(&mut self, side: Side, tables: &Tables, now_s: u32, now_ms: u64) -> usize {
        let port = match side {
            Side::Uplink => &mut self.uplink,
            Side::Funnel => &mut self.funnel,
        };
        let count = port.receive(&mut self.pool, &mut self.received, BATCH);
        if side == Side::Funnel
            && let Some(pressure) = &mut self.pressure
        {
            let taken = self.received.iter().map(|frame| u32::from(frame.pieces())).sum();
            pressure.look(taken, self.funnel.waiting());
        }
        if count == 0 {
            return 0;
        }
        for frame in &self.received {
            processor::prefetch(self.pool.bytes(frame));
        }
        let mut received = std::mem::take(&mut self.received);
        for frame in received.drain(..) {
            match self.ingress_of(side, &frame) {
                Ok(ingress) => self.batch.push((frame, ingress)),
                Err(reason) => {
                    self.counters.received(frame.len());
                    self.drops(frame, reason);
                }
            }
        }
        self.received = received;
        if let Some(tap) = &self.tap {
            tap.take(&self.pool, &self.batch, tables, now_ms);
        }
        self.process(tables, now_s);
        let (mut batch, mut outcomes) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.outcomes));
        for ((frame, _), outcome) in batch.drain(..).zip(outcomes.drain(..)) {
            self.act(frame, outcome);
        }
        (self.batch, self.outcomes) = (batch, outcomes);
        count
    }

    /// The port by which a frame came in: the interface index of the uplink, or the one in a funnel frame's tag.
    fn ingress_of(&self, side: Side, frame: &Frame) -> Result<u32, DropReason> {
        if frame.len() > self.frame_bytes_max[side as usize] {
            return Err(DropReason::SuperPacket);
        }
        match side {
            Side::Uplink => Ok(self.uplink_ifindex),
            Side::Funnel => {
                let mac = self.pool.bytes(frame).first_chunk::<6>().ok_or(DropReason::TooShort)?;
                ifindex_of_tag(*mac).ok_or(DropReason::UnknownPort)
            }
        }
    }

    /// Runs `self.batch` through the engine, which leaves `self.outcomes`.
    fn process(&mut self, tables: &Tables, now_s: u32) {
        let mut slots = ArrayVec::<Slot<'_>, BATCH>::new();
        for (frame, ingress) in &mut self.batch {
            let frame_bytes = frame.len();
            slots.push(Slot { frame_bytes, ..Slot::new(self.pool.bytes_mut(frame), *ingress) });
        }
        self.engine.process(tables, now_s, &mut slots);
        self.outcomes.extend(slots.iter().map(Outcome::of));
    }

    /// Carries an outcome out: each frame ends in a ring, or back in the pool; each packet in one counter.
    #[inline(always)]
    fn act(&mut self, frame: Frame, outcome: Outcome) {
        match outcome {
            Outcome::Send { len, side } => {
                let frame = self.pool.shortened(frame, len);
                self.forward(frame, side);
            }
            Outcome::Punt { reason, task, ingress } => self.punt_frame(frame, task, ingress, reason),
            Outcome::Dropped => self.pool.give_back(frame),
        }
    }

    #[cold]
    fn punt_frame(&mut self, frame: Frame, task: Task, ingress: u32, reason: PuntReason) {
        match self.queues.buffer_for(reason) {
            Some(mut buffer) => match self.pool.copy_to(&frame, &mut buffer.frame) {
                Some(len) => {
                    (buffer.len, buffer.ingress, buffer.fragment) = (len, ingress, None);
                    self.punt(buffer, task, reason);
                }
                None => {
                    self.counters.dropped(DropReason::SuperPacket);
                    self.free(buffer);
                }
            },
            None => self.counters.dropped(DropReason::PuntQueueFull),
        }
        self.pool.give_back(frame);
    }

    #[inline(always)]
    fn forward(&mut self, frame: Frame, side: Side) {
        let bytes = frame.len();
        match self.transmit(frame, side) {
            Ok(()) => self.counters.forwarded(bytes),
            Err((frame, reason)) => self.drops(frame, reason),
        }
    }

    #[inline(always)]
    fn transmit(&mut self, frame: Frame, side: Side) -> Result<(), (Frame, DropReason)> {
        let port = match side {
            Side::Uplink => &mut self.uplink,
            Side::Funnel => &mut self.funnel,
        };
        port.transmit(&mut self.pool, frame)
    }

    fn drops(&mut self, frame: Frame, reason: DropReason) {
        self.counters.dropped(reason);
        self.pool.give_back(frame);
    }

    fn punt(&mut self, mut buffer: Box<Handoff>, task: Task, reason: PuntReason) {
        buffer.task = task;
        match self.queues.punts.push(buffer) {
            Ok(()) => {
                self.counters.punted(reason);
                self.has_punted = true;
            }
            Err(buffer) => {
                self.counters.dropped(DropReason::PuntQueueFull);
                self.free(buffer);
            }
        }
    }

    /// Acts on what the slow path sends back; returns how much there was.
    pub fn serve_returns(&mut self, tables: &Tables, now_s: u32) -> usize {
        let mut count = 0;
        while count < RETURNS_PER_TURN {
            let Some(buffer) = self.queues.returns.pop() else { break };
            count += 1;
            match buffer.task {
                Task::Resume => self.returned.push(buffer),
                Task::Reply => {
                    let side = if buffer.ingress == self.uplink_ifindex { Side::Uplink } else { Side::Funnel };
                    match self.pool.copy_from(buffer.bytes()).map(|frame| self.transmit(frame, side)) {
                        Some(Ok(())) => self.counters.originated(),
                        Some(Err((frame, _))) => {
                            self.counters.unsent();
                            self.pool.give_back(frame);
                        }
                        None => self.counters.unsent(),
                    }
                    self.free(buffer);
                }
                // The slow path's own books say how these ended.
                Task::Drop(_) | Task::Punt { .. } => self.free(buffer),
            }
        }
        if !self.returned.is_empty() {
            self.resume(tables, now_s);
        }
        count
    }

    /// Runs `self.returned` through the engine, in the buffers that they came in.
    fn resume(&mut self, tables: &Tables, now_s: u32) {
        let mut returned = std::mem::take(&mut self.returned);
        {
            let mut slots: ArrayVec<Slot<'_>, RETURNS_PER_TURN> =
                returned.iter_mut().map(|buffer| Slot::resumed(buffer)).collect();
            self.engine.resume(tables, now_s, &mut slots);
            self.outcomes.extend(slots.iter().map(Outcome::of));
        }
        let mut outcomes = std::mem::take(&mut self.outcomes);
        for (mut buffer, outcome) in returned.drain(..).zip(outcomes.drain(..)) {
            match outcome {
                Outcome::Send { len, side } => {
                    match self.pool.copy_from(&buffer.frame[..len]) {
                        Some(frame) => self.forward(frame, side),
                        None => self.counters.dropped(DropReason::TxNoFrame),
                    }
                    self.free(buffer);
                }
                Outcome::Punt { reason, task, ingress } => {
                    buffer.ingress = ingress;
                    self.punt(buffer, task, reason);
                }
                Outcome::Dropped => self.free(buffer),
            }
        }
        self.outcomes = outcomes;
        self.returned = returned;
    }

    /// Ends the connections that control names; returns how many were asked for and how many were there.
    pub fn end_flows(&mut self) -> (usize, u64) {
        let (mut asked, mut ended) = (0, 0);
        while asked < ENDS_PER_TURN {
            let Some(at) = self.queues.end_flows.pop() else { break };
            asked += 1;
            ended += u64::from(self.engine.table().end(&self.epochs, at));
        }
        (asked, ended)
    }

    /// Looks at the next slots that are due in a turn of so many packets; returns how many connections ended.
    pub fn expire(&mut self, tables: &Tables, now_s: u32, packets: usize) -> u64 {
        let budget = self.expiry.take_due(now_s, packets);
        if budget == 0 {
            return 0;
        }
        let timeouts = &tables.settings.timeouts;
        let expired = self.engine.table().expire(&mut self.expiry.scan, budget, now_s, timeouts, &self.epochs);
        u64::from(expired.ended)
    }

    /// Whether something waits for this worker.
    pub fn has_work(&self) -> bool {
        self.uplink.waiting() > 0
            || self.funnel.waiting() > 0
            || !self.queues.returns.is_empty()
            || !self.queues.end_flows.is_empty()
    }

    pub fn books(&self) -> FrameBooks {
        let mut books = self.pool.books();
        self.uplink.add_to_books(&mut books);
        self.funnel.add_to_books(&mut books);
        books
    }

    fn free(&self, buffer: Box<Handoff>) {
        // The queue has room for every buffer there is; a stranger's would be freed here, which a test would see.
        let _ = self.queues.free.push(buffer);
    }
}
