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

pub(crate) struct Half<F: Family> {
    tags: &'static [AtomicU64],
    entries: &'static [F::Entry],
    pub buckets: u32,
    family: PhantomData<F>,
}

// Derived, they would ask that an entry can be copied.
impl<F: Family> Clone for Half<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Family> Copy for Half<F> {}

impl<F: Family> Half<F> {
    /// Panics if the memory is shorter than `buckets` buckets.
    pub(super) fn new(tags: &'static [AtomicU64], entries: &'static [AtomicU32], buckets: u32) -> Self {
        assert!(buckets >= 2, "a table has at least two buckets");
        let slots = buckets as usize * SLOTS;
        Self { tags: &tags[..slots / LANES], entries: &F::entries(entries)[..slots], buckets, family: PhantomData }
    }

    pub(super) fn slots(&self) -> u32 {
        self.buckets * SLOTS as u32
    }

    #[inline]
    pub(super) fn entry(&self, slot: u32) -> &'static [AtomicU32] {
        self.entries[slot as usize].as_ref()
    }

    #[inline]
    pub(super) fn tag_words(&self, bucket: u32) -> &'static [AtomicU64] {
        &self.tags[bucket as usize * TAG_WORDS..][..TAG_WORDS]
    }

    /// The slots of both buckets whose tag is that of the hash.
    #[inline]
    pub(super) fn candidates(&self, hash: u32) -> Candidates {
        let buckets = self.pair(hash);
        let pattern = u64::from(tag(hash)) * ONES;
        let mut lanes = 0;
        for (i, bucket) in buckets.into_iter().enumerate() {
            for (j, word) in self.tag_words(bucket).iter().enumerate() {
                lanes |= zero_lanes(word.load(Ordering::Acquire) ^ pattern) << (i * TAG_WORDS + j);
            }
        }
        Candidates { buckets, lanes }
    }

    /// The slots of a bucket that have a tag, as bits.
    #[inline]
    pub(super) fn tagged(&self, bucket: u32) -> u16 {
        let mut used = 0;
        for (i, word) in self.tag_words(bucket).iter().enumerate() {
            let used_lanes = !zero_lanes(word.load(Ordering::Acquire)) & ONES;
            // Gathers the bits 0, 16, 32 and 48; no two products meet.
            let gathered = used_lanes.wrapping_mul(1 << 48 | 1 << 33 | 1 << 18 | 1 << 3) >> 48;
            used |= (gathered as u16 & 0xf) << (i * LANES);
        }
        used
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
        // One branch: that a tag matched says already that the key does, but for one in thousands.
        let differs = entry[KEY..KEY + last]
            .iter()
            .zip(key)
            .fold(0, |bits, (word, wanted)| bits | (word.load(Ordering::Relaxed) ^ wanted));
        differs | (entry[F::KIND].load(Ordering::Relaxed) & 0xff ^ key[last]) == 0
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

/// Slots of two buckets.
#[derive(Clone, Copy)]
pub(crate) struct Candidates {
    buckets: [u32; 2],
    /// Bit `16 * lane + word`, the words of both buckets counted through: so the words of tags are never gathered.
    lanes: u64,
}

impl Iterator for Candidates {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.lanes == 0 {
            return None;
        }
        let bit = self.lanes.trailing_zeros() as usize;
        self.lanes &= self.lanes - 1;
        let (lane, word) = (bit / 16, bit % 16);
        let bucket = if word < TAG_WORDS { self.buckets[0] } else { self.buckets[1] };
        Some(bucket * SLOTS as u32 + (word % TAG_WORDS * LANES + lane) as u32)
    }
}

/// Which of four 16-bit lanes are zero, by the lowest bit of each. Exact: no carry runs from lane to lane.
#[inline]
fn zero_lanes(word: u64) -> u64 {
    const LOW: u64 = 0x7fff * ONES;
    !(((word & LOW) + LOW) | word) >> 15 & ONES
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
                        let expected = u64::from(a == 0)
                            | u64::from(b == 0) << 16
                            | u64::from(c == 0) << 32
                            | u64::from(d == 0) << 48;
                        assert_eq!(zero_lanes(a | b << 16 | c << 32 | d << 48), expected, "{a:x} {b:x} {c:x} {d:x}");
                    }
                }
            }
        }
    }
}
