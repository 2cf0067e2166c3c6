//! The slow path's thread: takes what workers punt, gives back, sleeps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atalho_engine::handoff::Handoff;

use crate::slow_path::SlowPath;

/// Packets taken from one worker before the next one's turn.
const TAKE_MAX: usize = 64;
/// While packets wait, their neighbours are looked at this often; a ring of the bell does so at once.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl SlowPath {
    /// Runs until `stop` is set (and the bell rung). Without packets that wait it sleeps without a timeout.
    pub fn run(mut self, stop: &AtomicBool) {
        let start = Instant::now();
        let bell = self.bell();
        while !stop.load(Ordering::Relaxed) {
            let now_ms = start.elapsed().as_millis() as u64;
            let taken = self.take(now_ms);
            if self.has_waiting() {
                self.look(now_ms);
            }
            if !taken {
                let at_most = self.has_waiting().then_some(LOOK_EVERY);
                bell.sleep(at_most, || {
                    !stop.load(Ordering::SeqCst) && self.parts.queues.iter().all(|q| q.punts.is_empty())
                });
            }
        }
    }

    /// Handles what workers punted; whether there was anything.
    fn take(&mut self, now_ms: u64) -> bool {
        let mut taken = false;
        let mut leaving = Vec::new();
        for worker in 0..self.parts.queues.len() {
            let queues = self.parts.queues[worker].clone();
            for _ in 0..TAKE_MAX {
                let Some(buffer) = queues.punts.pop() else { break };
                taken = true;
                self.handle(now_ms, worker, buffer, |worker, buffer| leaving.push((worker, buffer)));
                self.give_back(&mut leaving);
            }
        }
        self.wake_workers();
        taken
    }

    /// Lets go the packets that need not wait any more.
    fn look(&mut self, now_ms: u64) {
        let mut leaving = Vec::new();
        self.tick(now_ms, |worker, buffer| leaving.push((worker, buffer)));
        self.give_back(&mut leaving);
        self.wake_workers();
    }

    fn give_back(&self, leaving: &mut Vec<(usize, Box<Handoff>)>) {
        for (worker, buffer) in leaving.drain(..) {
            // The queue has room for every buffer of the worker, so this cannot fail.
            let full = self.parts.queues[worker].returns.push(buffer).is_err();
            debug_assert!(!full, "more buffers than were made");
        }
    }

    fn wake_workers(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        for (worker, queues) in self.parts.queues.iter().enumerate() {
            if !queues.returns.is_empty() && queues.is_asleep() {
                (self.parts.wake_worker)(worker);
            }
        }
    }
}
