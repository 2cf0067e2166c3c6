//! Look-up: in one go, or split so that a batch overlaps its misses of the cache: hash all and prefetch the tags of their first
//! buckets, then prefetch the entries whose tags match, or the tags of the second bucket, then find. What a packet of a
//! found flow leaves in its entry: `follow.rs`.

use std::hint::select_unpredictable;

use atalho_layout::Phase;
use atalho_layout::state::{KIND_DNAT, KIND_REPLY, KIND_SERVICE, KIND_SNAT};

use super::family::{CTL, Family, SLOTS, V4, V6};
use super::half::{Half, Room};
use super::{ConnTable, Flow, FlowRef};
use crate::atomic::{AtomicU32, Ordering};
use crate::flow::{FlowKey, Protocol};
use crate::processor::Processor;

/// 32-bit words of a line of the cache.
const LINE_WORDS: usize = 16;

/// A key, hashed: what the steps of a batched look-up hand on.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    pub(super) hash: u32,
    pub(super) key: ProbeKey,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum ProbeKey {
    V4(<V4 as Family>::Key),
    V6(<V6 as Family>::Key),
}

impl Probe {
    /// A key of IPv4 and its hash.
    #[inline]
    pub(crate) fn v4(key: <V4 as Family>::Key, hash: u32) -> Self {
        Self { hash, key: ProbeKey::V4(key) }
    }

    /// A key of IPv6 and its hash.
    #[inline]
    pub(crate) fn v6(key: <V6 as Family>::Key, hash: u32) -> Self {
        Self { hash, key: ProbeKey::V6(key) }
    }

    /// `None` if its protocol is none of ours.
    pub(crate) fn key(&self) -> Option<FlowKey> {
        match &self.key {
            ProbeKey::V4(key) => V4::flow_key(key),
            ProbeKey::V6(key) => V6::flow_key(key),
        }
    }
}

impl ConnTable {
    /// Hashes a key. `None` if its addresses are of two families.
    #[inline]
    pub fn probe(&self, key: &FlowKey) -> Option<Probe> {
        if key.is_ipv4() {
            let key = V4::key(key)?;
            Some(Probe { hash: V4::hash(&self.secret, &key), key: ProbeKey::V4(key) })
        } else {
            let key = V6::key(key)?;
            Some(Probe { hash: V6::hash(&self.secret, &key), key: ProbeKey::V6(key) })
        }
    }

    /// Names the lines of the key's tags.
    #[inline]
    pub fn prefetch_tags(&self, probe: &Probe, processor: impl Processor) {
        match &probe.key {
            ProbeKey::V4(_) => self.v4.prefetch_tags(probe.hash, processor),
            ProbeKey::V6(_) => self.v6.prefetch_tags(probe.hash, processor),
        }
    }

    /// Reads the key's tags and names the first line of each entry that may be it.
    #[inline]
    pub fn prefetch_entry(&self, probe: &Probe, processor: impl Processor) {
        match &probe.key {
            ProbeKey::V4(_) => self.v4.prefetch_entry(probe.hash, processor),
            ProbeKey::V6(_) => self.v6.prefetch_entry(probe.hash, processor),
        }
    }

    /// Reads the key's tags and names the lines of the entry that an insert would take now; says which it is.
    #[inline]
    pub(crate) fn prefetch_room(&self, probe: &Probe, processor: impl Processor) -> Option<Room> {
        match &probe.key {
            ProbeKey::V4(_) => self.v4.prefetch_room(probe.hash, processor),
            ProbeKey::V6(_) => self.v6.prefetch_room(probe.hash, processor),
        }
    }

    /// The live flow with this key, if it is the one in `slot`. If not, it may still stand elsewhere.
    #[inline]
    pub fn find_at(&self, probe: &Probe, slot: u32) -> Option<Flow> {
        match &probe.key {
            ProbeKey::V4(key) => self.v4.hit(slot, key)?.flow(),
            ProbeKey::V6(key) => self.v6.hit(slot, key)?.flow(),
        }
    }

    /// The live flow with this key.
    #[inline]
    pub fn find_probe(&self, probe: &Probe) -> Option<Flow> {
        match &probe.key {
            ProbeKey::V4(key) => self.v4.find(probe.hash, key)?.flow(),
            ProbeKey::V6(key) => self.v6.find(probe.hash, key)?.flow(),
        }
    }
}

impl<F: Family> Half<F> {
    #[inline]
    fn prefetch_tags(&self, hash: u32, processor: impl Processor) {
        for bucket in self.pair(hash) {
            processor.prefetch(self.tag_words(bucket).as_ptr().cast());
        }
    }

    /// Names the line of the tags of a hash's first bucket, and says which bucket that is.
    #[inline]
    pub fn prefetch_first_tags(&self, hash: u32, processor: impl Processor) -> u32 {
        let [first, _] = self.pair(hash);
        processor.prefetch(self.tag_words(first).as_ptr().cast());
        first
    }

    #[inline]
    fn prefetch_entry(&self, hash: u32, processor: impl Processor) {
        for slot in self.candidates(hash) {
            processor.prefetch(self.entry(slot).as_ptr().cast());
        }
    }

    #[inline]
    pub(crate) fn prefetch_room(&self, hash: u32, processor: impl Processor) -> Option<Room> {
        let (left, mut slots) = self.untagged(hash, processor);
        let slot = slots.next()?;
        for line in self.entry(slot).chunks(LINE_WORDS) {
            processor.prefetch(line.as_ptr().cast());
        }
        Some(Room { slot, left })
    }

    /// The live flow with this key, whose hash it is.
    #[inline]
    pub fn find(&self, hash: u32, key: &F::Key) -> Option<Hit<F>> {
        self.candidates(hash).find_map(|slot| self.hit(slot, key))
    }

    /// The slot of a hash's `first` bucket in which its flow seems to stand, by its tag, and its line on its way. If there is none,
    /// [`Self::prefetch_second_tags`] and [`Self::look_on`] are to follow.
    #[inline]
    pub fn look(&self, first: u32, hash: u32, processor: impl Processor) -> Option<u32> {
        let (is_seen, slot) = self.seen(first, hash, processor);
        // Whether there is one nobody can foretell in a table that is nearly full; the line of the tags is near already.
        let (entry, tags) = (self.entry(slot).as_ptr().cast(), self.tag_words(first).as_ptr().cast());
        processor.prefetch(select_unpredictable(is_seen, entry, tags));
        is_seen.then_some(slot)
    }

    /// Names the line of the tags of a hash's second bucket.
    #[inline]
    pub fn prefetch_second_tags(&self, hash: u32, processor: impl Processor) {
        let [_, second] = self.pair(hash);
        processor.prefetch(self.tag_words(second).as_ptr().cast());
    }

    /// [`Self::look`] in the second bucket.
    #[inline]
    pub fn look_on(&self, hash: u32, processor: impl Processor) -> Option<u32> {
        let [_, second] = self.pair(hash);
        let (is_seen, slot) = self.seen(second, hash, processor);
        processor.prefetch(self.entry(slot).as_ptr().cast());
        is_seen.then_some(slot)
    }

    /// Whether a bucket has a tag of this hash, and the first slot that has; else any slot of it.
    #[inline(always)]
    fn seen(&self, bucket: u32, hash: u32, processor: impl Processor) -> (bool, u32) {
        let lanes = self.fitting(bucket, hash, processor);
        (lanes != 0, bucket * SLOTS as u32 + lanes.trailing_zeros() % SLOTS as u32)
    }

    /// The live entry in `slot`, if it is this key's.
    #[inline]
    pub fn hit(&self, slot: u32, key: &F::Key) -> Option<Hit<F>> {
        let entry = self.entry(slot);
        let ctl = entry[CTL].load(Ordering::Acquire);
        if Phase::of(ctl) != Phase::Live || !Self::holds_key(entry, key) {
            return None;
        }
        let hit = Self::read(entry, slot, ctl);
        // Changed meanwhile: the flow has ended, which is a miss.
        Self::is_unchanged(entry, ctl).then_some(hit)
    }

    /// Reads what a packet needs; the caller checks `CTL` afterwards.
    #[inline]
    pub(super) fn read(entry: &[AtomicU32], slot: u32, ctl: u32) -> Hit<F> {
        let mut new = F::Key::default();
        for (value, word) in new.as_mut()[..2 * F::ADDRESS + 1].iter_mut().zip(&entry[F::NEW..]) {
            *value = word.load(Ordering::Relaxed);
        }
        Hit {
            slot,
            ctl,
            new,
            kind: entry[F::KIND].load(Ordering::Relaxed),
            next_hop: entry[F::NEXT_HOP].load(Ordering::Relaxed),
            ingress: entry[F::INGRESS].load(Ordering::Relaxed),
            peer: entry[F::PEER].load(Ordering::Relaxed),
        }
    }
}

/// An entry as it was read, in words.
#[derive(Clone, Copy)]
pub struct Hit<F: Family> {
    pub slot: u32,
    ctl: u32,
    /// The translation: source, destination and ports of a key.
    pub new: F::Key,
    kind: u32,
    pub next_hop: u32,
    pub ingress: u32,
    pub peer: u32,
}

impl<F: Family> Hit<F> {
    #[inline]
    pub fn is_reply(&self) -> bool {
        self.kind & KIND_REPLY != 0
    }

    /// `None` if its protocol is none of ours: a damaged entry.
    #[inline]
    pub(super) fn flow(&self) -> Option<Flow> {
        Some(Flow {
            at: FlowRef { is_ipv6: F::IS_IPV6, slot: self.slot, sequence: self.ctl >> 8 },
            rewrite: F::rewrite(self.new.as_ref()),
            next_hop: self.next_hop,
            ingress: self.ingress,
            protocol: Protocol::from_number(self.kind as u8)?,
            is_reply: self.is_reply(),
            is_snat: self.kind & KIND_SNAT != 0,
            is_dnat: self.kind & KIND_DNAT != 0,
            is_service: self.kind & KIND_SERVICE != 0,
            peer: self.peer,
        })
    }
}

/// The slots of a bucket that stand as bits in `lanes`.
#[inline]
pub(super) fn slots_of(bucket: u32, mut lanes: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        if lanes == 0 {
            return None;
        }
        let lane = lanes.trailing_zeros();
        lanes &= lanes - 1;
        Some(bucket * SLOTS as u32 + lane)
    })
}
