//! What a packet of a found flow is to its connection, and what it leaves in the entry of its direction.
//!
//! TCP and SCTP read the entry of the other direction, one more line of memory, which a batch has asked for before:
//! what a side may send is for the other side to say. All other protocols stay in their own entry.

use atalho_layout::state::SEEN;

use super::family::{Family, TICK};
use super::half::Half;
use super::sctp;
use super::tcp::{Step, TcpSegment, Track};
use crate::atomic::Ordering;
use crate::processor::Processor;
use crate::tables::{Settings, Timeouts};
use crate::verdict::DropReason;
use crate::wire::sctp::SctpSegment;

/// A packet as its connection looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    Tcp(TcpSegment),
    Sctp(SctpSegment),
    /// Of a protocol without states: UDP, ICMP.
    Other,
}

impl Segment {
    #[inline]
    fn shortest_timeout_s(&self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Tcp(_) => timeouts.tcp_shortest_s(),
            Self::Sctp(_) => timeouts.sctp_shortest_s(),
            Self::Other => timeouts.stateless_shortest_s(),
        }
    }
}

/// What a packet is to the connection that its key leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// It goes on.
    Belongs,
    /// The connection is over: to be ended, and the packet admitted as if it had met none.
    Over,
    /// It is refused and has changed nothing.
    Refused(DropReason),
}

impl<F: Family> Half<F> {
    /// Names the line in which the record of the other direction than the one in `slot` stands.
    #[inline]
    pub(crate) fn prefetch_peer(&self, slot: u32, processor: impl Processor) {
        let peer = self.entry(slot)[F::PEER].load(Ordering::Relaxed);
        if peer < self.slots() {
            processor.prefetch(self.entry(peer).as_ptr().cast());
        }
    }

    #[inline]
    pub(super) fn touch(&self, slot: u32, now_s: u32) {
        let tick = &self.entry(slot)[TICK];
        if tick.load(Ordering::Relaxed) != now_s {
            tick.store(now_s, Ordering::Relaxed);
        }
    }

    /// `slot`, `peer`: of the packet's direction and of the other one.
    #[inline(always)]
    pub(crate) fn follow(
        &self,
        slot: u32,
        peer: u32,
        is_reply: bool,
        segment: &Segment,
        now_s: u32,
        settings: &Settings,
    ) -> Followed {
        let entry = self.entry(slot);
        // Expiry comes by now and then, and what is over is not to be revived before.
        let idle_s = now_s.wrapping_sub(entry[TICK].load(Ordering::Relaxed));
        if idle_s != 0
            && idle_s >= segment.shortest_timeout_s(&settings.timeouts)
            && self.is_expired(slot, now_s, settings)
        {
            return Followed::Over;
        }
        let own = Track::load(entry);
        let step = match segment {
            Segment::Tcp(segment) => own.follow(&self.peer_track(peer), is_reply, settings.tcp_liberal, segment),
            Segment::Sctp(segment) => sctp::follow(&own, &self.peer_track(peer), segment),
            Segment::Other => Step::Follows(Track { state: own.state | SEEN, ..own }),
        };
        match step {
            Step::Follows(next) => {
                next.store(&own, entry);
                self.touch(slot, now_s);
                Followed::Belongs
            }
            Step::PassesNoted(next) => {
                next.store(&own, entry);
                Followed::Belongs
            }
            Step::Passes => Followed::Belongs,
            Step::Over => Followed::Over,
            Step::Refused(reason) => Followed::Refused(reason),
        }
    }

    /// The other direction's record. The connection may have ended, but within a batch its slots are not reused.
    #[inline]
    fn peer_track(&self, peer: u32) -> Track {
        if peer < self.slots() { Track::load(self.entry(peer)) } else { Track::default() }
    }

    /// By both directions: one more line of memory, which nobody has asked for.
    #[cold]
    fn is_expired(&self, slot: u32, now_s: u32, settings: &Settings) -> bool {
        self.judge(slot).is_some_and(|judged| judged.is_expired(now_s, &settings.timeouts))
    }
}

impl Track {
    /// The record of the direction whose packet begins a connection, at `now_s`.
    pub(super) fn beginning(segment: &Segment, now_s: u32) -> Self {
        match segment {
            Segment::Tcp(segment) => Self::first(segment),
            Segment::Sctp(segment) => sctp::first(segment),
            Segment::Other => Self { state: SEEN, end: now_s, ..Self::default() },
        }
    }
}
