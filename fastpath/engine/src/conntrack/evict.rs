//! Room in full buckets: who has to go.
//!
//! Slots of an ended connection are free only after their epoch, so a packet that finds both buckets full comes too
//! late to make room for itself. Therefore an insert into nearly full buckets looks at what it leaves behind, and where few slots are left, or
//! are on their way to be free, it ends the connection of these buckets that matters least ([`Evictable`], then the
//! idlest). To keep such a reserve only unanswered connections and those that are over go; answered datagrams go when
//! there is nothing left at all, TCP connections and SCTP associations that are up never.

use atalho_layout::Phase;
use atalho_layout::state::{ACKED, KIND_REPLY, SEEN};

use super::FlowRef;
use super::epochs::Epochs;
use super::family::{CTL, Family, SLOTS, STATE, TICK};
use super::find::slots_of;
use super::half::{FIRST_SLOTS, Half};
use super::insert::Placed;
use super::state::Evictable;
use crate::atomic::Ordering;
use crate::flow::Protocol;

/// Slots of a pair of buckets that should be free or about to be. Under a flood of SYNs it is how many connections get in an
/// epoch. More would cost room when there is no flood: one insert in a thousand ends another connection for it at a load of
/// 88.8 %; with 2 that would be at 92.4 %, with 8 below 82 % (simulated).
pub(super) const RESERVE: u32 = if cfg!(loom) { 1 } else { 4 };

// A first bucket with so much room that nobody counts the second one's leaves the reserve untouched.
const _: () = assert!(SLOTS as u32 - FIRST_SLOTS >= RESERVE);

/// A connection that may go.
struct Candidate {
    kind: Evictable,
    idle_s: u32,
    /// Either direction.
    at: FlowRef,
}

impl<F: Family> Half<F> {
    /// Makes room where a connection was put, or was not: what was ended for each of its directions. `placed` stays.
    pub(super) fn make_room(
        &self,
        epochs: &Epochs,
        hashes: [u32; 2],
        placed: Option<&Placed>,
        now_s: u32,
    ) -> [Option<Evictable>; 2] {
        let is_new = |slot| placed.is_some_and(|placed| placed.slots().contains(&slot));
        hashes.map(|hash| self.evict(hash, epochs, now_s, is_new))
    }

    fn evict(&self, hash: u32, epochs: &Epochs, now_s: u32, is_new: impl Fn(u32) -> bool) -> Option<Evictable> {
        let pair = self.pair(hash);
        let used: u32 = pair.iter().map(|bucket| self.tagged(*bucket).count_ones()).sum();
        let left = 2 * SLOTS as u32 - used;
        if left >= RESERVE {
            return None;
        }
        let last = if left == 0 { Evictable::Datagram } else { Evictable::Closing };
        // Within one second nobody is idler than another. Then the hash decides, which nobody can foresee: the lowest
        // slot would be the one that was filled last.
        let lot = |slot: u32| (slot ^ hash).wrapping_mul(0x9e37_79b1);
        let candidate = pair
            .into_iter()
            .flat_map(|bucket| slots_of(bucket, self.tagged(bucket)))
            .filter(|slot| !is_new(*slot))
            .filter_map(|slot| self.candidate(slot, now_s))
            .filter(|candidate| candidate.kind <= last)
            .min_by_key(|candidate| (candidate.kind, u32::MAX - candidate.idle_s, lot(candidate.at.slot)))?;
        self.end(epochs, candidate.at).then_some(candidate.kind)
    }

    fn candidate(&self, slot: u32, now_s: u32) -> Option<Candidate> {
        let entry = self.entry(slot);
        let ctl = entry[CTL].load(Ordering::Acquire);
        if Phase::of(ctl) != Phase::Live {
            return None;
        }
        let (kind, state) = (entry[F::KIND].load(Ordering::Relaxed), entry[STATE].load(Ordering::Relaxed));
        // In a flood of SYNs this is most of them; it saves reading the other direction.
        let is_silent = if kind & KIND_REPLY == 0 { state & ACKED == 0 } else { state & SEEN == 0 };
        if is_silent && Protocol::from_number(kind as u8) == Some(Protocol::Tcp) {
            let idle_s = now_s.wrapping_sub(entry[TICK].load(Ordering::Relaxed));
            let idle_s = if (idle_s as i32) < 0 { 0 } else { idle_s };
            let at = FlowRef { is_ipv6: F::IS_IPV6, slot, sequence: ctl >> 8 };
            return Some(Candidate { kind: Evictable::Unanswered, idle_s, at });
        }
        let judged = self.judge(slot)?;
        Some(Candidate { kind: judged.evictable()?, idle_s: judged.idle_s(now_s), at: judged.original })
    }
}
