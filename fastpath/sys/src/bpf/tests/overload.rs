//! Overloads of every kind, packet by packet: the real program says who may enter, and a ring in plain memory stands for
//! the kernel's. Beside it the same packets meet what would be fair without question: a queue for every pod, served in turn.

use std::collections::VecDeque;

use super::fairness::{REDIRECT, Worker, frame_of, silent_pods};
use super::lab::{Lab, Pod, Random, run_tcx, skipped};
use crate::bpf::Kernel;

const ROUNDS: u64 = 60;
const BEATS: usize = 150;
/// A quarter of a real one, and batches too, so that a round of so many beats fills it many times over.
const RING: usize = 512;
const BATCH: usize = 16;
const PODS_MAX: usize = 9;
/// A queue of a pod's own has room for a quarter of its equal part of the ring: so much is certain, however full the ring.
const CERTAIN: usize = 4;

/// What one round is like. Packets are counted by beat.
#[derive(Debug)]
struct Load {
    loud_pods: usize,
    quiet_pods: usize,
    loud: u64,
    /// At most; half of it in the mean.
    quiet: u64,
    /// What the worker takes while it runs.
    served: u64,
    /// It runs for so many beats, then another program has its core for so many.
    running: usize,
    stalled: usize,
    /// Packets that have entered and are not in the ring yet, at most.
    on_the_way: usize,
}

impl Load {
    /// Of what comes in if nobody floods, the worker takes from half to five times as much.
    fn draw(random: &Random) -> Self {
        let within = |low: u64, high: u64| low + random.next() % (high - low + 1);
        let (loud_pods, quiet_pods) = (within(1, 3), within(1, 6));
        let quiet = 2 * within(1, 2);
        let served = (loud_pods + quiet_pods) * quiet * within(5, 50) / 20 + 1;
        Self {
            loud_pods: loud_pods as usize,
            quiet_pods: quiet_pods as usize,
            loud: served * within(1, 4) / loud_pods + 1,
            quiet,
            served,
            running: within(5, 40) as usize,
            stalled: within(0, 1) as usize * within(0, 30) as usize,
            on_the_way: within(0, 64) as usize,
        }
    }

    fn pods(&self) -> usize {
        self.loud_pods + self.quiet_pods
    }

    /// Who sends in one beat, in order, and between whose packets the worker takes a batch.
    fn beat(&self, random: &Random, beat: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for pod in 0..self.pods() {
            let packets = if pod < self.loud_pods { self.loud } else { random.next() % (self.quiet + 1) };
            events.extend((0..packets).map(|_| Event::Packet(pod)));
        }
        if beat % (self.running + self.stalled) < self.running {
            let batches = (self.served + random.next() % BATCH as u64) / BATCH as u64;
            events.extend((0..batches).map(|_| Event::Batch));
        }
        for last in (1..events.len()).rev() {
            events.swap(last, random.next() as usize % (last + 1));
        }
        events
    }
}

#[derive(Clone, Copy)]
enum Event {
    Packet(usize),
    Batch,
}

/// A queue for every pod, each of the same length, served in turn.
struct FairQueues {
    room: usize,
    waiting: [usize; PODS_MAX],
    next: usize,
    delivered: [u64; PODS_MAX],
}

impl FairQueues {
    fn new(room: usize) -> Self {
        Self { room, waiting: [0; PODS_MAX], next: 0, delivered: [0; PODS_MAX] }
    }

    fn enter(&mut self, pod: usize) {
        self.waiting[pod] = (self.waiting[pod] + 1).min(self.room);
    }

    fn take(&mut self) {
        let in_turn = (0..PODS_MAX).map(|n| (self.next + n) % PODS_MAX);
        if let Some(pod) = in_turn.into_iter().find(|&pod| self.waiting[pod] > 0) {
            self.waiting[pod] -= 1;
            self.delivered[pod] += 1;
            self.next = pod + 1;
        }
    }

    /// What waits counts as delivered.
    fn finish(self) -> [u64; PODS_MAX] {
        std::array::from_fn(|pod| self.delivered[pod] + self.waiting[pod] as u64)
    }
}

/// What became of one round, by pod; what waits at its end counts as delivered.
#[derive(Debug, Default)]
struct Outcome {
    sent: [u64; PODS_MAX],
    delivered: [u64; PODS_MAX],
    delivered_by_fair_queues: [u64; PODS_MAX],
    overflown: u64,
    /// What the worker could have taken, and what it found.
    wanted: u64,
    taken: u64,
}

/// The node, and what the worker has taken of its queue until now.
struct Queue<'a> {
    kernel: &'a Kernel,
    pods: [(u32, Vec<u8>); PODS_MAX],
    worker: Worker,
    taken: u32,
}

impl Queue<'_> {
    fn may_enter(&self, pod: usize) -> bool {
        let (ifindex, frame) = &self.pods[pod];
        run_tcx(self.kernel, "pod_ingress", *ifindex, frame).0 == REDIRECT
    }

    fn look(&mut self, taken: usize, waiting: usize) {
        self.taken += taken as u32;
        self.worker.look(self.taken, waiting as u32);
    }

    fn play(&mut self, load: &Load, random: &Random) -> Outcome {
        let mut outcome = Outcome::default();
        let (mut on_the_way, mut ring) = (VecDeque::new(), VecDeque::new());
        let mut fair = FairQueues::new(RING / CERTAIN / load.pods());
        // What another round has left is gone.
        self.look(2 * RING, 0);
        for event in (0..BEATS).flat_map(|beat| load.beat(random, beat)) {
            match event {
                Event::Packet(pod) => {
                    outcome.sent[pod] += 1;
                    fair.enter(pod);
                    if self.may_enter(pod) {
                        on_the_way.push_back(pod);
                    }
                }
                Event::Batch => {
                    let taken = ring.len().min(BATCH);
                    ring.drain(..taken).for_each(|pod: usize| outcome.delivered[pod] += 1);
                    (0..BATCH).for_each(|_| fair.take());
                    outcome.wanted += BATCH as u64;
                    outcome.taken += taken as u64;
                    self.look(taken, ring.len());
                }
            }
            while on_the_way.len() > load.on_the_way {
                let arrived = on_the_way.pop_front();
                if ring.len() < RING { ring.extend(arrived) } else { outcome.overflown += 1 }
            }
        }
        ring.iter().chain(&on_the_way).for_each(|&pod| outcome.delivered[pod] += 1);
        outcome.delivered_by_fair_queues = fair.finish();
        outcome
    }
}

#[test]
fn no_overload_takes_from_a_pod_what_a_queue_of_its_own_would_leave_it() {
    if skipped("no_overload_takes_from_a_pod_what_a_queue_of_its_own_would_leave_it") {
        return;
    }
    let mut lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let pods = silent_pods(&mut lab, &mut kernel).map(|pod: Pod| (pod.ifindex, frame_of(&pod)));
    let worker = Worker::new(&kernel, RING as u32);
    let mut queue = Queue { kernel: &kernel, pods, worker, taken: 0 };
    let mut worst = 1.0_f64;
    for seed in 0..ROUNDS {
        let random = Random::new(seed);
        let load = Load::draw(&random);
        let outcome = queue.play(&load, &random);
        let of = |pod: usize| outcome.delivered[pod] as f64 / outcome.delivered_by_fair_queues[pod].max(1) as f64;
        let round = (load.loud_pods..load.pods()).map(of).fold(1.0, f64::min);
        worst = worst.min(round);
        assert!(round >= 0.9, "seed {seed}: {load:?}: {outcome:?}");
        assert_eq!(outcome.overflown, 0, "seed {seed}: {load:?}: {outcome:?}");
        // The worker is never short of work, but for what is on its way at the very beginning.
        assert!(outcome.taken + RING as u64 >= outcome.wanted, "seed {seed}: {load:?}: {outcome:?}");
    }
    println!("{ROUNDS} overloads: at worst {:.1} % of what fair queues deliver", 100.0 * worst);
}
