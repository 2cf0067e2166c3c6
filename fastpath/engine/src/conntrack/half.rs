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
use crate::processor::{LANES, Processor, TAG_WORDS};

/// A bit for each slot of a bucket.
const LANES_ALL: u32 = u32::MAX >> (32 - SLOTS);

/// A key goes into its first bucket while fewer slots than this are taken there, and then into the emptier one. Late enough
/// for a look-up to end in the first bucket nearly always, early enough for the second choice to even out the load.
pub(super) const FIRST_SLOTS: u32 = SLOTS as u32 * 3 / 4;

/// A slot that this thread owns until it publishes or gives it back.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub slot: u32,
    /// `CTL` with the phase taken out.
    sequence: u32,
    hash: u32,
    /// Slots of the pair of buckets that have no tag beside this one; of the first bucket alone while it has much room.
    pub left: u32,
}

/// A slot that was free when somebody looked, and how many slots of its pair of buckets had no tag then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub slot: u32,
    pub left: u32,
}

/// One family's tags and entries.
pub struct Half<F: Family> {
    tags: &'static [[AtomicU64; TAG_WORDS]],
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
        let tags = &tags.as_chunks().0[..buckets as usize];
        Self { tags, entries: &F::entries(entries)[..slots], buckets, family: PhantomData }
    }

    pub(super) fn slots(&self) -> u32 {
        self.buckets * SLOTS as u32
    }

    #[inline]
    pub(super) fn entry(&self, slot: u32) -> &'static [AtomicU32] {
        self.entries[slot as usize].as_ref()
    }

    #[inline]
    pub(super) fn tag_words(&self, bucket: u32) -> &'static [AtomicU64; TAG_WORDS] {
        &self.tags[bucket as usize]
    }

    /// The slots of both buckets whose tag is that of the hash. The second bucket is read when the first has no more.
    #[inline]
    pub(super) fn candidates(self, hash: u32) -> impl Iterator<Item = u32> {
        self.pair(hash).into_iter().flat_map(move |bucket| slots_of(bucket, self.fitting(bucket, hash, ())))
    }

    /// The slots of one bucket whose tag is that of the hash, as bits.
    #[inline(always)]
    pub(super) fn fitting(&self, bucket: u32, hash: u32, processor: impl Processor) -> u32 {
        processor.tags_equal(self.tag_words(bucket), tag(hash)) & LANES_ALL
    }

    /// The slots of a bucket that have a tag, as bits.
    #[inline]
    pub(super) fn tagged(&self, bucket: u32) -> u32 {
        !self.without_tag(bucket, ()) & LANES_ALL
    }

    #[inline(always)]
    fn without_tag(&self, bucket: u32, processor: impl Processor) -> u32 {
        processor.tags_equal(self.tag_words(bucket), 0) & LANES_ALL
    }

    pub(super) fn tag_of(&self, slot: u32) -> u16 {
        let (word, shift) = self.lane(slot);
        (word.load(Ordering::Acquire) >> shift) as u16
    }

    fn lane(&self, slot: u32) -> (&'static AtomicU64, u32) {
        let (bucket, lane) = (slot as usize / SLOTS, slot as usize % SLOTS);
        (&self.tags[bucket][lane / LANES], (lane % LANES * 16) as u32)
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

    /// Takes the slot in `room` if it is free still, else any other.
    #[inline]
    pub(super) fn claim_room(&self, hash: u32, room: Option<Room>, epochs: &Epochs) -> Option<Claim> {
        room.and_then(|Room { slot, left }| Some(Claim { left: left - 1, ..self.claim_slot(slot, hash, epochs)? }))
            .or_else(|| self.claim(hash, epochs))
    }

    /// Takes a free slot of the bucket that it should stand in, else of the other one.
    #[inline(never)]
    pub(super) fn claim(&self, hash: u32, epochs: &Epochs) -> Option<Claim> {
        let (count, mut slots) = self.untagged(hash, ());
        slots.find_map(|slot| self.claim_slot(slot, hash, epochs)).map(|claim| Claim { left: count - 1, ..claim })
    }

    /// The slots without a tag, those of the bucket that is to be taken first, and how many they are. Some are not free yet.
    /// While the first bucket has much room the second is not read, and not counted.
    #[inline]
    pub(super) fn untagged<P: Processor>(
        &self,
        hash: u32,
        processor: P,
    ) -> (u32, impl Iterator<Item = u32> + use<F, P>) {
        let half = *self;
        let free = move |bucket| half.without_tag(bucket, processor);
        let [first, second] = self.pair(hash);
        let of_first = free(first);
        let (mut count, mut bucket, mut lanes, mut other) = (of_first.count_ones(), first, of_first, second);
        if count <= SLOTS as u32 - FIRST_SLOTS {
            let of_second = free(second);
            if of_second.count_ones() > count {
                (bucket, lanes, other) = (second, of_second, first);
            }
            count += of_second.count_ones();
        }
        (count, slots_of(bucket, lanes).chain([other].into_iter().flat_map(move |other| slots_of(other, free(other)))))
    }

    #[inline]
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
        Some(Claim { slot, sequence, hash, left: 0 })
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
