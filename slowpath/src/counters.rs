//! How punted packets ended. One writer, the slow path's thread; readable by anybody at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use atalho_engine::verdict::{DropReason, PuntReason};

/// Counters since start.
pub struct SlowPathCounters {
    punted: AtomicU64,
    resumed: AtomicU64,
    waiting: AtomicU64,
    answered: [AtomicU64; PuntReason::COUNT],
    dropped: [AtomicU64; DropReason::COUNT],
}

/// The counters, read at once. While packets are on the way they may differ by the one in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowPathBooks {
    /// Packets taken from workers.
    pub punted: u64,
    /// Packets given back to the pipeline.
    pub resumed: u64,
    /// Packets that wait for a neighbour now.
    pub waiting: u64,
    /// Packets answered, by the reason of the punt.
    pub answered: [u64; PuntReason::COUNT],
    pub dropped: [u64; DropReason::COUNT],
}

impl Default for SlowPathCounters {
    fn default() -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            punted: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            answered: zeros(),
            dropped: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl SlowPathCounters {
    pub fn books(&self) -> SlowPathBooks {
        SlowPathBooks {
            punted: self.punted.load(Relaxed),
            resumed: self.resumed.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            answered: std::array::from_fn(|at| self.answered[at].load(Relaxed)),
            dropped: std::array::from_fn(|at| self.dropped[at].load(Relaxed)),
        }
    }

    pub(crate) fn punted(&self) {
        add(&self.punted);
    }

    pub(crate) fn resumed(&self) {
        add(&self.resumed);
    }

    pub(crate) fn answered(&self, reason: PuntReason) {
        add(&self.answered[reason as usize]);
    }

    pub(crate) fn dropped(&self, reason: DropReason) {
        add(&self.dropped[reason as usize]);
    }

    pub(crate) fn waiting(&self, packets: usize) {
        self.waiting.store(packets as u64, Relaxed);
    }
}

/// One writer, so a load and a store do; a locked addition would buy nothing.
fn add(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

impl SlowPathBooks {
    /// Packets dropped for any reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether every punted packet ended in one place.
    pub fn is_even(&self) -> bool {
        self.punted == self.answered.iter().sum::<u64>() + self.resumed + self.dropped_in_all() + self.waiting
    }
}
