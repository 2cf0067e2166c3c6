//! The books of one worker: every packet that came in ends in one counter.
//!
//! `received = forwarded + punted - returned + dropped`, where `returned` are packets that the slow path kept for a
//! while and gave back to be forwarded after all: they are not received a second time. What an answer of our own adds
//! stands in `originated` and in no sum.
//!
//! The engine counts what came in and what it drops. Whoever carries out a verdict counts that end, for only there it
//! is known: [`Counters::forwarded`] with the packet in the transmit ring, [`Counters::punted`] with it in the queue,
//! and [`Counters::dropped`] where ring or queue were full.
//!
//! One writer (the worker), any number of readers; a reader between two counts sees the books off by what is in hand.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::verdict::{DropReason, PuntReason, Verdict};

/// One worker's counters. Relaxed loads and stores, no atomic addition: there is one writer.
#[derive(Default)]
pub struct Counters {
    words: CachePadded<Words>,
}

struct Words {
    received: AtomicU64,
    received_bytes: AtomicU64,
    forwarded: AtomicU64,
    forwarded_bytes: AtomicU64,
    returned: AtomicU64,
    originated: AtomicU64,
    unsent: AtomicU64,
    admitted: AtomicU64,
    punted: [AtomicU64; PuntReason::COUNT],
    dropped: [AtomicU64; DropReason::COUNT],
}

impl Default for Words {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            received: zero(),
            received_bytes: zero(),
            forwarded: zero(),
            forwarded_bytes: zero(),
            returned: zero(),
            originated: zero(),
            unsent: zero(),
            admitted: zero(),
            punted: std::array::from_fn(|_| zero()),
            dropped: std::array::from_fn(|_| zero()),
        }
    }
}

#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    /// A frame of `bytes` came in from a port.
    #[inline]
    pub fn received(&self, bytes: usize) {
        add(&self.words.received, 1);
        add(&self.words.received_bytes, bytes as u64);
    }

    /// As many frames, of so many bytes together.
    #[inline]
    pub fn received_batch(&self, frames: usize, bytes: usize) {
        add(&self.words.received, frames as u64);
        add(&self.words.received_bytes, bytes as u64);
    }

    /// A packet that was punted came back to be run through the pipeline again.
    #[inline]
    pub fn returned(&self) {
        add(&self.words.returned, 1);
    }

    /// A frame of `bytes` is on its way out.
    #[inline]
    pub fn forwarded(&self, bytes: usize) {
        add(&self.words.forwarded, 1);
        add(&self.words.forwarded_bytes, bytes as u64);
    }

    /// A packet is in the slow path's queue.
    #[inline]
    pub fn punted(&self, reason: PuntReason) {
        add(&self.words.punted[reason as usize], 1);
    }

    #[inline]
    pub fn dropped(&self, reason: DropReason) {
        add(&self.words.dropped[reason as usize], 1);
    }

    /// A packet of our own (an answer of the slow path) is on its way out.
    #[inline]
    pub fn originated(&self) {
        add(&self.words.originated, 1);
    }

    /// A packet of our own could not be sent: no free frame, or a full ring. In no sum either, for nothing was received.
    #[inline]
    pub fn unsent(&self) {
        add(&self.words.unsent, 1);
    }

    /// A connection was put into the table.
    #[inline]
    pub fn admitted(&self) {
        add(&self.words.admitted, 1);
    }

    /// Counts the end of a packet as if its verdict had been carried out; drops are already counted.
    /// For those without rings and queues: tests, replay.
    pub fn settle(&self, verdict: Verdict, bytes: usize) {
        match verdict {
            Verdict::Forward { .. } => self.forwarded(bytes),
            Verdict::Punt(reason) => self.punted(reason),
            Verdict::Drop(_) => {}
        }
    }

    /// All counters as they stand.
    pub fn books(&self) -> Books {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Books {
            received: read(&self.words.received),
            received_bytes: read(&self.words.received_bytes),
            forwarded: read(&self.words.forwarded),
            forwarded_bytes: read(&self.words.forwarded_bytes),
            returned: read(&self.words.returned),
            originated: read(&self.words.originated),
            unsent: read(&self.words.unsent),
            admitted: read(&self.words.admitted),
            punted_by: self.words.punted.each_ref().map(read),
            dropped: self.words.dropped.each_ref().map(read),
        }
    }
}

/// The counters of one worker or of several together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Books {
    pub received: u64,
    pub received_bytes: u64,
    pub forwarded: u64,
    pub forwarded_bytes: u64,
    /// Punted packets that came back to be forwarded after all.
    pub returned: u64,
    /// Packets of our own.
    pub originated: u64,
    /// Packets of our own that could not be sent.
    pub unsent: u64,
    /// Connections put into the table.
    pub admitted: u64,
    /// By [`PuntReason`], each time a packet was handed over.
    pub punted_by: [u64; PuntReason::COUNT],
    /// By [`DropReason`].
    pub dropped: [u64; DropReason::COUNT],
}

impl Default for Books {
    fn default() -> Self {
        Self {
            received: 0,
            received_bytes: 0,
            forwarded: 0,
            forwarded_bytes: 0,
            returned: 0,
            originated: 0,
            unsent: 0,
            admitted: 0,
            punted_by: [0; PuntReason::COUNT],
            dropped: [0; DropReason::COUNT],
        }
    }
}

impl Books {
    /// Packets that ended with the slow path or wait there. Wraps below zero only in books read while they move.
    pub fn punted(&self) -> u64 {
        self.punted_by.iter().sum::<u64>().wrapping_sub(self.returned)
    }

    /// Drops of all reasons.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    pub fn dropped_by(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Whether every packet has ended: true of books at rest.
    pub fn is_even(&self) -> bool {
        self.received == self.forwarded.wrapping_add(self.punted()).wrapping_add(self.dropped_total())
    }
}

impl AddAssign<&Books> for Books {
    fn add_assign(&mut self, other: &Books) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.forwarded += other.forwarded;
        self.forwarded_bytes += other.forwarded_bytes;
        self.returned += other.returned;
        self.originated += other.originated;
        self.unsent += other.unsent;
        self.admitted += other.admitted;
        for (mine, more) in self.punted_by.iter_mut().zip(other.punted_by) {
            *mine += more;
        }
        for (mine, more) in self.dropped.iter_mut().zip(other.dropped) {
            *mine += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_waited_for_a_neighbour_ends_once() {
        let counters = Counters::default();
        counters.received(60);
        assert!(!counters.books().is_even(), "in hand");
        counters.punted(PuntReason::NeighbourUnresolved);
        assert!(counters.books().is_even());
        assert_eq!(counters.books().punted(), 1);
        counters.returned();
        counters.forwarded(60);
        let books = counters.books();
        assert!(books.is_even());
        assert_eq!((books.received, books.forwarded, books.punted()), (1, 1, 0));
    }

    #[test]
    fn books_add_up() {
        let counters = Counters::default();
        counters.received(60);
        counters.dropped(DropReason::NoRoute);
        let mut sum = counters.books();
        sum += &counters.books();
        assert_eq!((sum.received, sum.received_bytes, sum.dropped_by(DropReason::NoRoute)), (2, 120, 2));
        assert!(sum.is_even());
    }
}
