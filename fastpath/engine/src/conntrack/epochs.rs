//! Epochs: when the slot of a removed entry may be used again.
//!
//! A worker that found a flow may still store its activity into the entry until its batch ends, and so may the kernel
//! program. A removed slot therefore carries the epoch of its removal and is claimed again only once that epoch is
//! safe: every worker has begun a batch in a later epoch (or sleeps) and the kernel has passed a grace period. Waiting
//! for that takes milliseconds and blocks, so one thread of control does it: [`Epochs::waits`], then
//! [`Epochs::advance`], poll [`Epochs::passed`], wait for the kernel, [`Epochs::mark_safe`].
//!
//! Why it holds: a worker stores the current epoch before it reads the table; whoever removes an entry reads the
//! current epoch after it made the entry invisible, a full fence between on both sides. So a worker that still saw the
//! entry stands in an epoch no later than the one in the slot.
//!
//! It does not know the kernel's side and frees nothing by itself.

use crate::atomic::{AtomicU64, Ordering, fence};

/// What [`Epochs::leave`] writes: this worker holds nothing.
const AWAY: u64 = u64::MAX;

/// The epochs of one table, shared by everybody who inserts into it or removes from it.
#[derive(Debug)]
pub struct Epochs {
    current: AtomicU64,
    /// Removals of epochs before this one are safe.
    safe: AtomicU64,
    /// 1 + the newest epoch in which something was removed; 0 = never.
    removed: AtomicU64,
}

impl Default for Epochs {
    fn default() -> Self {
        Self::new()
    }
}

impl Epochs {
    pub fn new() -> Self {
        Self { current: AtomicU64::new(1), safe: AtomicU64::new(1), removed: AtomicU64::new(0) }
    }

    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    /// A worker calls this at the start of each batch, and after waking, before it reads the table.
    pub fn enter(&self, word: &AtomicU64) {
        word.store(self.current(), Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// A worker calls this before it sleeps: from here to [`Self::enter`] it must not use a flow that it found before.
    pub fn leave(&self, word: &AtomicU64) {
        word.store(AWAY, Ordering::Release);
    }

    /// Whether a removed slot waits for its epoch. If not, there is nothing to advance for.
    pub fn waits(&self) -> bool {
        self.removed.load(Ordering::Acquire) > self.safe.load(Ordering::Acquire)
    }

    /// Begins the next epoch and returns it: the target of [`Self::passed`] and [`Self::mark_safe`].
    pub fn advance(&self) -> u64 {
        let target = self.current.fetch_add(1, Ordering::AcqRel) + 1;
        fence(Ordering::SeqCst);
        target
    }

    /// Whether every worker has begun a batch in epoch `target` or later, or sleeps.
    pub fn passed<'a>(&self, target: u64, words: impl IntoIterator<Item = &'a AtomicU64>) -> bool {
        words.into_iter().all(|word| word.load(Ordering::Acquire) >= target)
    }

    /// After [`Self::passed`] and the kernel's grace period: what was removed before `target` may be used again.
    pub fn mark_safe(&self, target: u64) {
        self.safe.fetch_max(target, Ordering::AcqRel);
    }

    /// The epoch to write into an entry that was just made invisible.
    pub(super) fn of_removal(&self) -> u32 {
        fence(Ordering::SeqCst);
        let epoch = self.current.load(Ordering::Acquire);
        if self.removed.load(Ordering::Relaxed) <= epoch {
            self.removed.fetch_max(epoch + 1, Ordering::AcqRel);
        }
        epoch as u32
    }

    /// Whether a slot removed in `epoch` may be claimed. Entries keep 32 bits of it, so the comparison wraps: right as
    /// long as no slot waits for more than 2^31 epochs, which is years at ten a second.
    pub(super) fn is_safe(&self, epoch: u32) -> bool {
        let safe = self.safe.load(Ordering::Acquire) as u32;
        (epoch.wrapping_sub(safe) as i32) < 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_removal_is_safe_only_after_every_worker_moved_on() {
        let epochs = Epochs::new();
        let (one, two) = (AtomicU64::new(0), AtomicU64::new(0));
        epochs.enter(&one);
        epochs.enter(&two);
        assert!(!epochs.waits());
        let removed = epochs.of_removal();
        assert!(epochs.waits() && !epochs.is_safe(removed));

        let target = epochs.advance();
        epochs.enter(&one);
        assert!(!epochs.passed(target, [&one, &two]), "the second worker is still in its batch");
        epochs.leave(&two);
        assert!(epochs.passed(target, [&one, &two]), "a sleeping worker counts as passed");
        assert!(!epochs.is_safe(removed));
        epochs.mark_safe(target);
        assert!(epochs.is_safe(removed) && !epochs.waits());
        assert!(!epochs.is_safe(epochs.of_removal()), "a removal of the new epoch waits for the next one");
    }

    #[test]
    fn safety_survives_the_wrap_of_the_32_bits_that_an_entry_keeps() {
        let epochs = Epochs::new();
        epochs.current.store((1 << 32) - 1, Ordering::Relaxed);
        epochs.safe.store((1 << 32) - 1, Ordering::Relaxed);
        let removed = epochs.of_removal();
        assert_eq!(removed, u32::MAX);
        assert!(!epochs.is_safe(removed));
        let target = epochs.advance();
        epochs.mark_safe(target);
        assert!(epochs.is_safe(removed) && !epochs.is_safe(epochs.of_removal()));
    }
}
