//! The lab's node with two workers and a slow path, driven as a node drives them, in virtual time.

use std::sync::Arc;

use atalho_engine::conntrack::Epochs;
use atalho_engine::counters::Counters;
use atalho_engine::handoff::{Handoff, Task, WorkerQueues};
use atalho_engine::pipeline::{Engine, EngineParts, Slot};
use atalho_engine::verdict::{DropReason, PuntReason, Verdict};
use atalho_slowpath::{Limits, Parts, SlowPath};

use super::{Lab, trace};

pub const WORKERS: usize = 2;
pub const BUFFERS: usize = 64;

pub struct Node {
    pub lab: Lab,
    workers: Vec<Engine>,
    queues: Vec<Arc<WorkerQueues>>,
    pub slow: SlowPath,
    pub now_ms: u64,
    /// Frames that left, since they were last asked for.
    out: Vec<Vec<u8>>,
}

impl Node {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let lab = Lab::new();
        let epochs = Arc::new(Epochs::new());
        let worker = |worker| {
            Engine::new(EngineParts {
                worker,
                table: lab.table,
                affinity: lab.affinity,
                epochs: epochs.clone(),
                next_hops: lab.hops,
                counters: Arc::new(Counters::default()),
                seed: 1,
                processor: (),
            })
        };
        let workers = (0..WORKERS as u8).map(worker).collect();
        let queues: Vec<_> = (0..WORKERS).map(|_| WorkerQueues::new(BUFFERS)).collect();
        let tables = Arc::new(lab.tables.clone());
        let parts = Parts {
            queues: queues.clone(),
            tables: Box::new(move || tables.clone()),
            next_hops: lab.hops,
            ask_neighbour: Box::new(|_| {}),
            wake_worker: Box::new(|_| {}),
        };
        Self { lab, workers, queues, slow: SlowPath::new(parts, limits), now_ms: 0, out: vec![] }
    }

    /// All that leaves because `frame` came in by `ingress` at `worker`.
    pub fn send_by(&mut self, worker: usize, ingress: u32, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut bytes = frame.to_vec();
        let mut batch = [Slot::new(&mut bytes, ingress)];
        let now_s = self.now_s();
        self.workers[worker].process(&self.lab.tables, now_s, &mut batch);
        let end = End::of(&batch[0]);
        self.settle(worker, &end);
        trace::count(end.verdict);
        match end.verdict {
            Verdict::Forward { .. } => self.out.push(bytes[..end.send_len].to_vec()),
            Verdict::Punt(reason) => {
                let mut buffer = self.queues[worker].free.pop().expect("a free buffer");
                assert!(buffer.fill(&bytes, end.ingress));
                buffer.task = end.punt(reason);
                self.punt(worker, buffer);
            }
            Verdict::Drop(_) => {}
        }
        self.check();
        for after in &self.out {
            trace::keep(frame, after);
        }
        std::mem::take(&mut self.out)
    }

    pub fn send(&mut self, ingress: u32, frame: &[u8]) -> Vec<Vec<u8>> {
        self.send_by(0, ingress, frame)
    }

    /// The same for many, each at another worker than the one before.
    pub fn send_all(&mut self, ingress: u32, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        frames.iter().enumerate().flat_map(|(at, frame)| self.send_by(at % WORKERS, ingress, frame)).collect()
    }

    /// Time passes, and the slow path looks at what waits.
    pub fn wait_ms(&mut self, ms: u64) -> Vec<Vec<u8>> {
        self.now_ms += ms;
        let mut leaving = Vec::new();
        self.slow.tick(self.now_ms, |worker, buffer| leaving.push((worker, buffer)));
        self.give_back(leaving);
        self.check();
        std::mem::take(&mut self.out)
    }

    /// Packets dropped for `reason`, by workers and slow path.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        let by_workers: u64 = self.workers.iter().map(|w| w.counters().books().dropped_by(reason)).sum();
        by_workers + self.slow.counters().books().dropped[reason as usize]
    }

    /// Packets dropped at all.
    pub fn dropped_in_all(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.dropped(*reason)).sum()
    }

    pub fn admitted(&self) -> u64 {
        self.workers.iter().map(|worker| worker.counters().books().admitted).sum()
    }

    fn punt(&mut self, worker: usize, buffer: Box<Handoff>) {
        let mut leaving = Vec::new();
        self.slow.handle(self.now_ms, worker, buffer, |worker, buffer| leaving.push((worker, buffer)));
        self.give_back(leaving);
    }

    fn give_back(&mut self, leaving: Vec<(usize, Box<Handoff>)>) {
        let now_s = self.now_s();
        for (worker, mut buffer) in leaving {
            match buffer.task {
                Task::Resume => {
                    let mut batch = [Slot::resumed(&mut buffer)];
                    self.workers[worker].resume(&self.lab.tables, now_s, &mut batch);
                    let end = End::of(&batch[0]);
                    self.settle(worker, &end);
                    match end.verdict {
                        Verdict::Forward { .. } => self.out.push(buffer.frame[..end.send_len].to_vec()),
                        Verdict::Punt(reason) => {
                            buffer.ingress = end.ingress;
                            buffer.task = end.punt(reason);
                            self.punt(worker, buffer);
                            continue;
                        }
                        Verdict::Drop(_) => {}
                    }
                }
                Task::Reply => {
                    self.workers[worker].counters().originated();
                    self.out.push(buffer.bytes().to_vec());
                }
                Task::Drop(_) | Task::Punt { .. } => {}
            }
            assert!(self.queues[worker].free.push(buffer).is_ok(), "a buffer of another worker");
        }
    }

    fn settle(&self, worker: usize, end: &End) {
        self.workers[worker].counters().settle(end.verdict, end.send_len);
    }

    /// Both books are even, and every buffer is free or waits.
    #[track_caller]
    fn check(&self) {
        for worker in &self.workers {
            assert!(worker.counters().books().is_even(), "{:?}", worker.counters().books());
        }
        let slow = self.slow.counters().books();
        assert!(slow.is_even(), "{slow:?}");
        let free: usize = self.queues.iter().map(|queues| queues.free.len()).sum();
        assert_eq!(free + slow.waiting as usize, WORKERS * BUFFERS, "{slow:?}");
    }

    fn now_s(&self) -> u32 {
        self.lab.now_s + (self.now_ms / 1000) as u32
    }
}

/// What the engine says about one packet.
struct End {
    verdict: Verdict,
    ingress: u32,
    send_len: usize,
    neighbour: Option<std::net::IpAddr>,
    mtu: u16,
}

impl End {
    fn of(slot: &Slot<'_>) -> Self {
        let Slot { verdict, ingress, send_len, neighbour, mtu, .. } = *slot;
        Self { verdict, ingress, send_len, neighbour, mtu }
    }

    fn punt(&self, reason: PuntReason) -> Task {
        Task::Punt { reason, next_hop_address: self.neighbour, mtu: self.mtu }
    }
}
