//! The node of a script: the lab's engine, the slow path, and the way between them as a worker and its slow path have it.
//!
//! Each call ends with even books and with every buffer in its place.

use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::conntrack::ExpiryScan;
use atalho_engine::handoff::{Handoff, Task, WorkerQueues};
use atalho_engine::next_hops::NextHop;
use atalho_engine::pipeline::Slot;
use atalho_engine::verdict::{DropReason, PuntReason, Verdict};
use atalho_slowpath::{Limits, Parts, SlowPath};

use super::oracle;
use crate::lab::{self, Lab, packet};
use crate::memory::Memory;

/// Frames that answers and errors may be about.
const REMEMBERED: usize = 4;
const HOPS: u32 = 5;

/// A frame that left.
#[derive(Clone)]
pub struct Sent {
    pub next_hop: u32,
    pub frame: Vec<u8>,
}

pub struct Node {
    lab: Lab,
    slow: SlowPath,
    queues: Arc<WorkerQueues>,
    expiry: ExpiryScan,
    now_ms: u64,
    pending: Vec<(u32, Vec<u8>)>,
    sent: Vec<Sent>,
    memory: Memory,
}

impl Node {
    pub fn new() -> Self {
        let memory = Memory::take();
        let lab = Lab::on(memory.table, memory.affinity, memory.hops);
        let tables = Arc::new(lab.tables.clone());
        let parts = Parts {
            queues: vec![memory.queues.clone()],
            tables: Box::new(move || tables.clone()),
            next_hops: memory.hops,
            ask_neighbour: Box::new(|_| {}),
            wake_worker: Box::new(|_| {}),
        };
        let limits = Limits {
            answers_per_s: 100,
            answers_burst: 20,
            neighbours: 3,
            packets_per_neighbour: 2,
            datagrams: 4,
            ..Limits::default()
        };
        Self {
            slow: SlowPath::new(parts, limits),
            queues: memory.queues.clone(),
            expiry: ExpiryScan::new(0, 1),
            now_ms: u64::from(lab.now_s) * 1000,
            pending: Vec::new(),
            sent: Vec::new(),
            lab,
            memory,
        }
    }

    /// A frame that left lately.
    pub fn sent(&self, which: u8) -> Option<Sent> {
        (!self.sent.is_empty()).then(|| self.sent[usize::from(which) % self.sent.len()].clone())
    }

    /// A frame is on its way in; [`Self::serve`] takes it with the others that wait.
    pub fn arrives(&mut self, ingress: u32, frame: Vec<u8>) {
        self.pending.push((ingress, frame));
    }

    /// The link address of a neighbour is found or lost, or a link changes its MTU.
    pub fn changes(&mut self, which: u8, how: u8) {
        let index = u32::from(which) % HOPS;
        let Some(hop) = self.lab.hops.get(index) else { return };
        let is_known = how & 1 == 0 || index == lab::HOP_NODE;
        let mtu = [lab::MTU, lab::MTU, 9000, 1280, 576, 68][usize::from(how >> 1) % 6];
        let destination = is_known.then_some([0x0a, 0, 0, 0, 4, which]);
        self.lab.hops.set(index, &NextHop { destination, mtu, ..hop });
        self.tick();
    }

    /// Time passes; idle connections expire, waiting packets are looked at, and removed slots become free.
    pub fn passes(&mut self, ms: u64) {
        self.now_ms += ms;
        self.lab.now_s = (self.now_ms / 1000) as u32;
        let slots = 2 * self.lab.table.geometry().slots();
        let timeouts = &self.lab.tables.settings.timeouts;
        self.lab.table.expire(&mut self.expiry, slots, self.lab.now_s, timeouts, &self.lab.epochs);
        if self.lab.epochs.waits() {
            let target = self.lab.epochs.advance();
            self.lab.epochs.mark_safe(target);
        }
        self.tick();
    }

    /// Takes what came in, as one batch.
    pub fn serve(&mut self) {
        let came = std::mem::take(&mut self.pending);
        let mut frames: Vec<Vec<u8>> = came.iter().map(|(_, frame)| frame.clone()).collect();
        let mut slots: Vec<Slot<'_>> =
            frames.iter_mut().zip(&came).map(|(frame, (ingress, _))| Slot::new(frame, *ingress)).collect();
        self.lab.engine.process(&self.lab.tables, self.lab.now_s, &mut slots);
        let ends: Vec<End> = slots.iter().map(End::of).collect();
        for (end, (frame, (_, before))) in ends.iter().zip(frames.iter().zip(&came)) {
            self.judges(end, before, frame);
            if let Verdict::Punt(_) = end.verdict {
                let Some(mut buffer) = self.queues.free.pop() else {
                    self.lab.engine.counters().dropped(DropReason::PuntQueueFull);
                    continue;
                };
                assert!(buffer.fill(frame, end.ingress), "longer than a buffer: {}", frame.len());
                self.punts(buffer, end);
            }
        }
        self.check_books();
    }

    /// Everything ends: no packet may be left over.
    pub fn ends(mut self) {
        self.serve();
        // One step gives up what waits; what it resumed may wait anew.
        for _ in 0..3 {
            self.passes(61_000);
        }
        assert!(!self.slow.has_waiting(), "packets wait for ever");
        assert_eq!(self.lab.engine.counters().books().punted(), self.slow_ends(), "punted packets have one end each");
        self.memory.keep(self.lab.engine.counters(), &self.lab.epochs);
    }

    /// Punted packets that the slow path answered or dropped.
    fn slow_ends(&self) -> u64 {
        let books = self.slow.counters().books();
        books.answered.iter().sum::<u64>() + books.dropped_in_all()
    }

    /// Compares a frame with what it was when it came in.
    fn judges(&mut self, end: &End, before: &[u8], frame: &[u8]) {
        match end.verdict {
            Verdict::Forward { next_hop } => {
                oracle::check(before, &frame[..end.send_len]);
                self.lab.engine.counters().forwarded(end.send_len);
                self.remembers(next_hop, &frame[..end.send_len]);
            }
            // Ready to be sent, but for its length.
            Verdict::Punt(PuntReason::ToCut) => oracle::check(before, &frame[..end.send_len]),
            _ => assert_eq!(frame, before, "a frame that is not forwarded stays as it came"),
        }
    }

    fn remembers(&mut self, next_hop: u32, frame: &[u8]) {
        if self.sent.len() == REMEMBERED {
            self.sent.remove(0);
        }
        self.sent.push(Sent { next_hop, frame: frame.to_vec() });
    }

    fn punts(&mut self, mut buffer: Box<Handoff>, end: &End) {
        let Verdict::Punt(reason) = end.verdict else { unreachable!("only punted packets come here") };
        self.lab.engine.counters().punted(reason);
        buffer.task = Task::Punt { reason, next_hop_address: end.neighbour, mtu: end.mtu };
        let whole = (reason == PuntReason::ToCut).then(|| buffer.frame[..end.send_len].to_vec());
        let mut leaving = Vec::new();
        self.slow.handle(self.now_ms, 0, buffer, |_, buffer| leaving.push(buffer));
        if let Some(whole) = whole {
            let is_sent = |buffer: &&Box<Handoff>| buffer.task == Task::Reply;
            let pieces: Vec<&[u8]> = leaving.iter().filter(is_sent).map(|buffer| buffer.bytes()).collect();
            oracle::check_pieces(&whole, &pieces, end.mtu);
            for buffer in leaving {
                self.frees(buffer);
            }
            return;
        }
        leaving.into_iter().for_each(|buffer| self.returns(buffer));
    }

    fn tick(&mut self) {
        let mut leaving = Vec::new();
        self.slow.tick(self.now_ms, |_, buffer| leaving.push(buffer));
        leaving.into_iter().for_each(|buffer| self.returns(buffer));
        self.check_books();
    }

    /// What the slow path gives back.
    fn returns(&mut self, mut buffer: Box<Handoff>) {
        match buffer.task {
            Task::Reply => {
                packet::verify(buffer.bytes());
                self.lab.engine.counters().originated();
            }
            Task::Resume => {
                let before = buffer.bytes().to_vec();
                let mut batch = [Slot::resumed(&mut buffer)];
                self.lab.engine.resume(&self.lab.tables, self.lab.now_s, &mut batch);
                let end = End::of(&batch[0]);
                self.judges(&end, &before, &buffer.frame[..before.len()]);
                if let Verdict::Punt(_) = end.verdict {
                    buffer.ingress = end.ingress;
                    return self.punts(buffer, &end);
                }
            }
            Task::Drop(_) | Task::Punt { .. } => {}
        }
        self.frees(buffer);
    }

    fn frees(&self, buffer: Box<Handoff>) {
        assert!(self.queues.free.push(buffer).is_ok(), "more buffers than were made");
    }

    fn check_books(&self) {
        let (books, slow) = (self.lab.engine.counters().books(), self.slow.counters().books());
        assert!(books.is_even(), "{books:?}");
        assert!(slow.is_even(), "{slow:?}");
    }
}

/// What the engine said about one packet.
struct End {
    verdict: Verdict,
    ingress: u32,
    send_len: usize,
    neighbour: Option<IpAddr>,
    mtu: u16,
}

impl End {
    fn of(slot: &Slot<'_>) -> Self {
        let Slot { verdict, ingress, send_len, neighbour, mtu, .. } = *slot;
        Self { verdict, ingress, send_len, neighbour, mtu }
    }
}
