//! The end of a connection, as a whole: whoever takes away the original entry is the one who ended it and takes the
//! reply away next. A caller who holds the reply goes to the original first.
//!
//! It judges nothing; `expire.rs`, eviction and control decide what ends.

use atalho_layout::Phase;
use atalho_layout::state::KIND_REPLY;

use super::FlowRef;
use super::epochs::Epochs;
use super::family::{CTL, Family, TICK};
use super::half::Half;
use super::insert::later;
use super::state::{ConnectionState, Evictable, Side};
use super::tcp::Track;
use crate::atomic::{AtomicU32, Ordering};
use crate::flow::Protocol;
use crate::tables::Timeouts;

/// A live connection, read through both of its entries.
pub(super) struct Judged {
    pub original: FlowRef,
    pub protocol: Protocol,
    pub original_side: Side,
    pub reply_side: Side,
    pub reply_slot: u32,
}

impl Judged {
    pub(super) fn state(&self) -> ConnectionState {
        ConnectionState::of(self.protocol, &self.original_side, &self.reply_side)
    }

    pub(super) fn evictable(&self) -> Option<Evictable> {
        self.state().evictable(&self.original_side, &self.reply_side)
    }

    /// Seconds since the last packet of either direction. A tick may lie ahead of `now_s` if another worker's batch
    /// began later: then 0.
    pub(super) fn idle_s(&self, now_s: u32) -> u32 {
        let idle = now_s.wrapping_sub(later(self.original_side.seen_s, self.reply_side.seen_s));
        if (idle as i32) < 0 { 0 } else { idle }
    }

    /// Whether it has been idle for as long as its state allows.
    pub(super) fn is_expired(&self, now_s: u32, timeouts: &Timeouts) -> bool {
        self.idle_s(now_s) >= self.state().timeout_s(&self.original_side, &self.reply_side, timeouts)
    }
}

impl<F: Family> Half<F> {
    /// Reads the connection of a live entry of either direction. `None` if it is not live or is just changing.
    pub(super) fn judge(&self, slot: u32) -> Option<Judged> {
        let entry = self.entry(slot);
        let ctl = live_ctl(entry[CTL].load(Ordering::Acquire))?;
        let kind = entry[F::KIND].load(Ordering::Relaxed);
        let other_slot = entry[F::PEER].load(Ordering::Relaxed);
        if other_slot >= self.slots() {
            return None;
        }
        let other = self.entry(other_slot);
        let other_ctl = live_ctl(other[CTL].load(Ordering::Acquire))?;
        let points_back = other[F::PEER].load(Ordering::Relaxed) == slot;
        let side =
            |entry: &[AtomicU32]| Side { track: Track::load(entry), seen_s: entry[TICK].load(Ordering::Relaxed) };
        let (mine, its) = (side(entry), side(other));
        if !points_back || !Self::is_unchanged(entry, ctl) || !Self::is_unchanged(other, other_ctl) {
            return None;
        }
        let protocol = Protocol::from_number(kind as u8)?;
        let at = |slot, ctl: u32| FlowRef { is_ipv6: F::IS_IPV6, slot, sequence: ctl >> 8 };
        let (mine_at, its_at) = (at(slot, ctl), at(other_slot, other_ctl));
        Some(if kind & KIND_REPLY == 0 {
            Judged { original: mine_at, protocol, original_side: mine, reply_side: its, reply_slot: other_slot }
        } else {
            Judged { original: its_at, protocol, original_side: its, reply_side: mine, reply_slot: slot }
        })
    }

    pub(super) fn state(&self, at: FlowRef) -> Option<ConnectionState> {
        let is_same = at.slot < self.slots() && self.entry(at.slot)[CTL].load(Ordering::Acquire) == live(at.sequence);
        if is_same { self.judge(at.slot).map(|judged| judged.state()) } else { None }
    }

    pub(super) fn end(&self, epochs: &Epochs, at: FlowRef) -> bool {
        if at.slot >= self.slots() {
            return false;
        }
        let entry = self.entry(at.slot);
        let ctl = live(at.sequence);
        if entry[CTL].load(Ordering::Acquire) != ctl {
            return false;
        }
        let kind = entry[F::KIND].load(Ordering::Relaxed);
        let other_slot = entry[F::PEER].load(Ordering::Relaxed);
        if other_slot >= self.slots() {
            return false;
        }
        let other = self.entry(other_slot);
        let other_ctl = other[CTL].load(Ordering::Acquire);
        let points_back = other[F::PEER].load(Ordering::Relaxed) == at.slot;
        if Phase::of(other_ctl) != Phase::Live || !points_back || !Self::is_unchanged(entry, ctl) {
            return false;
        }
        let (original, reply) = ((at.slot, ctl), (other_slot, other_ctl));
        let (original, reply) = if kind & KIND_REPLY == 0 { (original, reply) } else { (reply, original) };
        // An original that still stands vouches for its reply, which only the winner takes away.
        self.bury(original.0, original.1, epochs) && self.bury(reply.0, reply.1, epochs)
    }
}

fn live(sequence: u32) -> u32 {
    sequence << 8 | Phase::Live as u32
}

fn live_ctl(ctl: u32) -> Option<u32> {
    (Phase::of(ctl) == Phase::Live).then_some(ctl)
}
