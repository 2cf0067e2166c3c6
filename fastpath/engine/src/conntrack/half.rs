//! One family's half of the table: tags, entries, and the steps of a slot's life that the rest composes.
//!
//! A slot's life: free (or dying, with a safe epoch) -> claimed by compare-and-swap -> tentative: key and tag stand,
//! other inserters see it, readers do not -> live -> claimed by the one who removes it -> dying, with the epoch of
//! removal. `CTL` holds phase and sequence together; the sequence grows at publication and at every removal, so a
//! reader that finds the same live `CTL` before and after its reads has read one entry.
//!
//! Readers hold no lock and write nothing. The order of stores stands at each step.

use std::marker::PhantomData;

use atalho_layout::{Phase, bucket_pair, tag};

use super::epochs::Epochs;
use super::family::{CTL, Family, KEY, SLOTS};
use super::find::slots_of;
use crate::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Tags in one word, and words of one bucket.
const LANES: usize = 4;
const TAG_WORDS: usize = SLOTS / LANES;
const ONES: u64 = 0x0001_0001_0001_0001;

/// A slot that this thread owns until it publishes or gives it back.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub slot: u32,
    /// `CTL` with the phase taken out.
    sequence: u32,
    hash: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Half<F> {
    tags: &'static [AtomicU64],
    entries: &'static [AtomicU32],
    pub buckets: u32,
    family: PhantomData<F>,
}

impl<F: Family> Half<F> {
    /// Panics if the memory is shorter than `buckets` buckets.
    pub(super) fn new(tags: &'static [AtomicU64], entries: &'static [AtomicU32], buckets: u32) -> Self {
        assert!(buckets >= 2, "a table has at least two buckets");
        let slots = buckets as usize * SLOTS;
        Self { tags: &tags[..slots / LANES], entries: &entries[..slots * F::WORDS], buckets, family: PhantomData }
    }

    pub(super) fn slots(&self) -> u32 {
        self.buckets * SLOTS as u32
    }

    #[inline]
    pub(super) fn entry(&self, slot: u32) -> &'static [AtomicU32] {
        &self.entries[slot as usize * F::WORDS..][..F::WORDS]
    }

    #[inline]
    pub(super) fn tag_words(&self, bucket: u32) -> &'static [AtomicU64] {
        &self.tags[bucket as usize * TAG_WORDS..][..TAG_WORDS]
    }

    /// The slots of a bucket whose tag equals `wanted`, as bits.
    #[inline]
    pub(super) fn matching(&self, bucket: u32, wanted: u16) -> u16 {
        let pattern = u64::from(wanted) * ONES;
        let mut lanes = 0;
        for (i, word) in self.tag_words(bucket).iter().enumerate() {
            lanes |= zero_lanes(word.load(Ordering::Acquire) ^ pattern) << (i * LANES);
        }
        lanes
    }

    /// The slots of a bucket that have a tag, as bits.
    #[inline]
    pub(super) fn tagged(&self, bucket: u32) -> u16 {
        !self.matching(bucket, 0) & (u16::MAX >> (16 - SLOTS))
    }

    pub(super) fn tag_of(&self, slot: u32) -> u16 {
        let (word, shift) = self.lane(slot);
        (word.load(Ordering::Acquire) >> shift) as u16
    }

    fn lane(&self, slot: u32) -> (&'static AtomicU64, u32) {
        (&self.tags[slot as usize / LANES], slot % LANES as u32 * 16)
    }

    /// Both buckets of a hash.
    #[inline]
    pub(super) fn pair(&self, hash: u32) -> [u32; 2] {
        let (first, second) = bucket_pair(hash, self.buckets);
        [first, second]
    }

    /// Whether the entry's key is this one; its low-byte protocol included, the rest of `KIND` not.
    #[inline]
    pub(super) fn holds_key(entry: &[AtomicU32], key: &F::Key) -> bool {
        let key = key.as_ref();
        let last = key.len() - 1;
        entry[KEY..KEY + last].iter().zip(key).all(|(word, wanted)| word.load(Ordering::Relaxed) == *wanted)
            && entry[F::KIND].load(Ordering::Relaxed) & 0xff == key[last]
    }

    /// Ends a series of reads: whether `CTL` still is what it was before them.
    #[inline]
    pub(super) fn is_unchanged(entry: &[AtomicU32], ctl: u32) -> bool {
        fence(Ordering::Acquire);
        entry[CTL].load(Ordering::Relaxed) == ctl
    }

    /// Takes a free slot of the emptier bucket, else of the other one.
    pub(super) fn claim(&self, hash: u32, epochs: &Epochs) -> Option<Claim> {
        self.untagged(hash).find_map(|slot| self.claim_slot(slot, hash, epochs))
    }

    /// The slots without a tag, those of the emptier bucket first. Some are not free yet.
    #[inline]
    pub(super) fn untagged(&self, hash: u32) -> impl Iterator<Item = u32> + use<F> {
        let [first, second] = self.pair(hash).map(|bucket| (bucket, !self.tagged(bucket) & (u16::MAX >> (16 - SLOTS))));
        let order = if first.1.count_ones() >= second.1.count_ones() { [first, second] } else { [second, first] };
        order.into_iter().flat_map(|(bucket, lanes)| slots_of(bucket, lanes))
    }

    fn claim_slot(&self, slot: u32, hash: u32, epochs: &Epochs) -> Option<Claim> {
        let entry = self.entry(slot);
        let ctl = entry[CTL].load(Ordering::Acquire);
        let is_free = match Phase::of(ctl) {
            Phase::Free => true,
            Phase::Dying => epochs.is_safe(entry[F::INGRESS].load(Ordering::Relaxed)),
            Phase::Claimed | Phase::Tentative | Phase::Live => false,
        };
        if !is_free {
            return None;
        }
        let sequence = ctl & !0xff;
        entry[CTL].compare_exchange(ctl, sequence | Phase::Claimed as u32, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // A reader that sees a word written from here on also sees that the slot was claimed.
        fence(Ordering::Release);
        Some(Claim { slot, sequence, hash })
    }

    /// Shows a claimed slot, its key written, to other inserters. The caller has to fence before it looks for theirs.
    pub(super) fn announce(&self, claim: &Claim) {
        self.entry(claim.slot)[CTL].store(claim.sequence | Phase::Tentative as u32, Ordering::Release);
        let (word, shift) = self.lane(claim.slot);
        word.fetch_or(u64::from(tag(claim.hash)) << shift, Ordering::AcqRel);
    }

    /// Makes an announced slot visible to readers; returns its sequence.
    pub(super) fn publish(&self, claim: &Claim) -> u32 {
        let sequence = claim.sequence.wrapping_add(0x100);
        self.entry(claim.slot)[CTL].store(sequence | Phase::Live as u32, Ordering::Release);
        sequence >> 8
    }

    /// Gives an unpublished slot back. No reader has used it, so it needs no epoch; its tag goes first, because the next
    /// owner of the slot sets it anew.
    pub(super) fn retract(&self, claim: &Claim) {
        self.clear_tag(claim.slot);
        let sequence = claim.sequence.wrapping_add(0x100);
        self.entry(claim.slot)[CTL].store(sequence | Phase::Free as u32, Ordering::Release);
    }

    pub(super) fn clear_tag(&self, slot: u32) {
        let (word, shift) = self.lane(slot);
        word.fetch_and(!(0xffff << shift), Ordering::AcqRel);
    }

    pub(super) fn set_tag(&self, slot: u32, hash: u32) {
        self.clear_tag(slot);
        let (word, shift) = self.lane(slot);
        word.fetch_or(u64::from(tag(hash)) << shift, Ordering::AcqRel);
    }

    /// Takes a live entry away if `CTL` still is `ctl`: of several callers one wins.
    pub(super) fn bury(&self, slot: u32, ctl: u32, epochs: &Epochs) -> bool {
        let entry = self.entry(slot);
        let sequence = (ctl & !0xff).wrapping_add(0x100);
        let claimed = sequence | Phase::Claimed as u32;
        if entry[CTL].compare_exchange(ctl, claimed, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        // Read after the entry became invisible: see `Epochs`. Its fence also keeps the stores below behind the claim.
        let epoch = epochs.of_removal();
        self.clear_tag(slot);
        entry[F::INGRESS].store(epoch, Ordering::Relaxed);
        entry[CTL].store(sequence | Phase::Dying as u32, Ordering::Release);
        true
    }
}

/// Which of four 16-bit lanes are zero, as four bits. Exact: no borrow runs from lane to lane.
#[inline]
fn zero_lanes(word: u64) -> u16 {
    const LOW: u64 = 0x7fff * ONES;
    let zero = !(((word & LOW) + LOW) | word | LOW);
    // Gathers the bits 15, 31, 47 and 63; no two products meet.
    (((zero >> 15).wrapping_mul(1 << 48 | 1 << 33 | 1 << 18 | 1 << 3)) >> 48) as u16 & 0xf
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn zero_lanes_are_found_exactly() {
        let values = [0u64, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        for a in values {
            for b in values {
                for c in values {
                    for d in values {
                        let expected = u16::from(a == 0)
                            | u16::from(b == 0) << 1
                            | u16::from(c == 0) << 2
                            | u16::from(d == 0) << 3;
                        assert_eq!(zero_lanes(a | b << 16 | c << 32 | d << 48), expected, "{a:x} {b:x} {c:x} {d:x}");
                    }
                }
            }
        }
    }
}
