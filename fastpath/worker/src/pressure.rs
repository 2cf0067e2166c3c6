//! Tells the kernel side how full this worker's funnel queue is, so that it can keep pods from crowding each other out
//! (see `fairness.h` of the programs). A few relaxed stores at a look, into a cache line of its own.

use std::sync::atomic::{AtomicU32, Ordering};

use atalho_layout::pressure;

/// The entry of one queue.
#[derive(Debug, Clone, Copy)]
pub struct Pressure {
    words: &'static [AtomicU32],
    report: u32,
    taken: u32,
    waiting: u32,
}

impl Pressure {
    /// `words`: the whole array of queues. `piece_bytes`: bytes of a packet that one entry of the ring stands for.
    /// `None`: the array has no such queue.
    pub fn new(words: &'static [AtomicU32], queue: usize, ring_entries: u32, piece_bytes: u32) -> Option<Self> {
        let at = queue * pressure::WORDS;
        let words = words.get(at..at + pressure::WORDS)?;
        let store = |word: usize, value| words[word].store(value, Ordering::Relaxed);
        store(pressure::PIECE_BYTES, piece_bytes);
        store(pressure::RING, ring_entries);
        let read = |word: usize| words[word].load(Ordering::Relaxed);
        // What a predecessor left waiting is gone with its socket.
        let mut pressure =
            Self { words, report: read(pressure::REPORT), taken: read(pressure::TAKEN), waiting: u32::MAX };
        pressure.look(0, 0);
        Some(pressure)
    }

    /// The worker has looked at its ring: it took `taken` entries, and `waiting` are left.
    #[inline]
    pub fn look(&mut self, taken: u32, waiting: u32) {
        if taken == 0 && waiting == self.waiting && !self.is_owed() {
            return;
        }
        self.taken = self.taken.wrapping_add(taken);
        self.report = self.report.wrapping_add(1);
        self.waiting = waiting;
        // A reader in between sees a look that is half old, which is as good as the one before.
        self.words[pressure::TAKEN].store(self.taken, Ordering::Relaxed);
        self.words[pressure::WAITING].store(waiting, Ordering::Relaxed);
        self.words[pressure::REPORT].store(self.report, Ordering::Relaxed);
    }

    /// Whether the kernel side has sent something since the last report, although nothing has come: were it lost on the
    /// way and never settled, the kernel side would believe the ring full one day, and send nothing any more.
    fn is_owed(&self) -> bool {
        let read = |word: usize| self.words[word].load(Ordering::Relaxed);
        read(pressure::SEEN_REPORT) == self.report && read(pressure::SENT) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_look_that_says_something_new_is_told_in_the_queues_own_entry() {
        let words: &'static [AtomicU32] = Vec::leak((0..2 * pressure::WORDS).map(|_| AtomicU32::new(0)).collect());
        assert!(Pressure::new(words, 2, 2048, 1792).is_none(), "there is no such queue");
        let of = |queue: usize, word: usize| words[queue * pressure::WORDS + word].load(Ordering::Relaxed);
        // What a predecessor has left is none of its successor's.
        words[pressure::WORDS + pressure::WAITING].store(2000, Ordering::Relaxed);
        let mut queue = Pressure::new(words, 1, 2048, 1792).unwrap();
        assert_eq!((of(1, pressure::RING), of(1, pressure::PIECE_BYTES), of(1, pressure::WAITING)), (2048, 1792, 0));
        let first = of(1, pressure::REPORT);
        queue.look(64, 86);
        assert_eq!((of(1, pressure::TAKEN), of(1, pressure::WAITING)), (64, 86));
        queue.look(64, 0);
        assert_eq!((of(1, pressure::TAKEN), of(1, pressure::WAITING), of(1, pressure::REPORT)), (128, 0, first + 2));
        // An idle worker looks a million times a second and stores nothing.
        queue.look(0, 0);
        assert_eq!(of(1, pressure::REPORT), first + 2);
        // Unless something was sent that does not come: once.
        let kernel = |word: usize, value| words[pressure::WORDS + word].store(value, Ordering::Relaxed);
        kernel(pressure::SEEN_REPORT, first + 2);
        kernel(pressure::SENT, 9);
        queue.look(0, 0);
        queue.look(0, 0);
        assert_eq!(of(1, pressure::REPORT), first + 3);
        kernel(pressure::SEEN_REPORT, 0);
        kernel(pressure::SENT, 0);
        assert!((0..pressure::WORDS).all(|word| of(0, word) == 0), "nobody else's entry is touched");
        assert_eq!((of(1, pressure::SEEN_REPORT), of(1, pressure::SENT)), (0, 0), "nor what is the kernel's");
    }
}
