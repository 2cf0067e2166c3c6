//! The end of a connection, as a whole: whoever takes away the original entry is the one who ended it and takes the
//! reply away next. A caller who holds the reply goes to the original first.
//!
//! It judges nothing; `expire.rs`, eviction and control decide what ends.

use atalho_layout::Phase;
use atalho_layout::state::KIND_REPLY;

use super::FlowRef;
use super::epochs::Epochs;
use super::family::{CTL, Family, STATE, TICK};
use super::half::Half;
use super::insert::later;
use super::state::ConnectionState;
use crate::atomic::Ordering;
use crate::flow::Protocol;

/// A live connection, read through both of its entries.
pub(super) struct Judged {
    pub original: FlowRef,
    pub protocol: Protocol,
    pub state: ConnectionState,
    pub original_seen_s: u32,
    pub reply_seen_s: u32,
    pub reply_slot: u32,
}

impl Judged {
    /// Seconds since the last packet of either direction. A tick may lie ahead of `now_s` if another worker's batch
    /// began later: then 0.
    pub(super) fn idle_s(&self, now_s: u32) -> u32 {
        let idle = now_s.wrapping_sub(later(self.original_seen_s, self.reply_seen_s));
        if (idle as i32) < 0 { 0 } else { idle }
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
        let (mine, its) = (entry[STATE].load(Ordering::Relaxed), other[STATE].load(Ordering::Relaxed));
        let (my_tick, its_tick) = (entry[TICK].load(Ordering::Relaxed), other[TICK].load(Ordering::Relaxed));
        if !points_back || !Self::is_unchanged(entry, ctl) || !Self::is_unchanged(other, other_ctl) {
            return None;
        }
        let protocol = Protocol::from_number(kind as u8)?;
        let at = |slot, ctl: u32| FlowRef { is_ipv6: F::IS_IPV6, slot, sequence: ctl >> 8 };
        Some(if kind & KIND_REPLY == 0 {
            Judged {
                original: at(slot, ctl),
                protocol,
                state: ConnectionState::of(protocol, mine, its),
                original_seen_s: my_tick,
                reply_seen_s: its_tick,
                reply_slot: other_slot,
            }
        } else {
            Judged {
                original: at(other_slot, other_ctl),
                protocol,
                state: ConnectionState::of(protocol, its, mine),
                original_seen_s: its_tick,
                reply_seen_s: my_tick,
                reply_slot: slot,
            }
        })
    }

    pub(super) fn state(&self, at: FlowRef) -> Option<ConnectionState> {
        let is_same = at.slot < self.slots() && self.entry(at.slot)[CTL].load(Ordering::Acquire) == live(at.sequence);
        if is_same { self.judge(at.slot).map(|judged| judged.state) } else { None }
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
