//! How many connections live, and how many were evicted. Counted beside the table: statistics, on which nothing depends.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::state::Evictable;

/// Cells of the count of connections; workers add to different ones, so that they do not share a line.
const CELLS: usize = 16;

#[derive(Default)]
pub(super) struct Counts {
    /// Their sum is the count; one alone may be "negative".
    live: [CachePadded<AtomicU64>; CELLS],
    /// By [`Evictable`].
    evicted: [AtomicU64; Evictable::ALL.len()],
}

impl Counts {
    /// Lives as long as the process, like the table itself.
    pub(super) fn leak() -> &'static Self {
        Box::leak(Box::default())
    }

    pub(super) fn add_live(&self, cell: usize) {
        self.live[cell % CELLS].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sub_live(&self, cell: usize) {
        self.live[cell % CELLS].fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn set_live(&self, count: u64) {
        self.live.iter().for_each(|cell| cell.store(0, Ordering::Relaxed));
        self.live[0].store(count, Ordering::Relaxed);
    }

    pub(super) fn live(&self) -> u64 {
        let sum = self.live.iter().fold(0, |sum: u64, cell| sum.wrapping_add(cell.load(Ordering::Relaxed)));
        // Cells are read one after the other, so a sum taken under load may be a few below zero.
        if (sum as i64) < 0 { 0 } else { sum }
    }

    pub(super) fn count_eviction(&self, cell: usize, kind: Evictable) {
        self.sub_live(cell);
        self.evicted[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn evicted(&self, kind: Evictable) -> u64 {
        self.evicted[kind as usize].load(Ordering::Relaxed)
    }
}
