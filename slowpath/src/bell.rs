//! Wakes the slow path's thread. Costs whoever rings one load while the thread is awake, and a system call while it sleeps.
//!
//! No wake-up is lost: the sleeper says that it sleeps and then looks at its queues once more, the ringer pushes and then
//! looks whether it sleeps, each with a full fence between (Dekker); one of the two sees the other.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Duration;

/// A handle to ring; clones ring the same thread. Works before the thread runs.
#[derive(Clone, Default)]
pub struct Bell(Arc<Shared>);

#[derive(Default)]
struct Shared {
    asleep: AtomicBool,
    /// Who sleeps. Locked on the way to sleep and by a ring that found it asleep, never while it is awake.
    sleeper: Mutex<Option<Thread>>,
}

impl Bell {
    /// There is something to do.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed) && self.0.asleep.swap(false, Ordering::AcqRel) {
            let sleeper = self.0.sleeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Some(thread) = &*sleeper {
                thread.unpark();
            }
        }
    }

    /// Sleeps until the bell rings, or for `at_most`, unless `idle` says that there is something to do after all. May wake
    /// early for no reason.
    pub(crate) fn sleep(&self, at_most: Option<Duration>, idle: impl FnOnce() -> bool) {
        *self.0.sleeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(std::thread::current());
        self.0.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if idle() {
            match at_most {
                Some(duration) => std::thread::park_timeout(duration),
                None => std::thread::park(),
            }
        }
        self.0.asleep.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::time::Instant;

    /// Push and sleep race each time anew: the next push comes as soon as the one before was seen.
    #[test]
    fn no_ring_is_lost() {
        const PUSHES: u32 = 20_000;
        let (bell, pushed, seen) = (Bell::default(), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (ringer, counter, answer) = (bell.clone(), pushed.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            for push in 1..=PUSHES {
                counter.store(push, Ordering::Relaxed);
                ringer.ring();
                while answer.load(Ordering::Acquire) != push {
                    std::thread::yield_now();
                }
            }
        });
        for push in 1..=PUSHES {
            while pushed.load(Ordering::Relaxed) != push {
                let before = Instant::now();
                bell.sleep(Some(Duration::from_secs(5)), || pushed.load(Ordering::Relaxed) != push);
                assert!(before.elapsed() < Duration::from_secs(5), "slept through ring {push}");
            }
            seen.store(push, Ordering::Release);
        }
        thread.join().unwrap();
    }
}
