//! What a packet of a found flow is to its connection, and what it leaves in the entry of its direction.
//!
//! TCP and SCTP read the entry of the other direction, one more line of memory, which a batch has asked for before:
//! what a side may send is for the other side to say. All other protocols stay in their own entry.

use atalho_layout::state::SEEN;

use super::family::{Family, TICK};
use super::half::Half;
use super::tcp::{Step, TcpSegment, Track};
use super::{Flow, sctp};
use crate::atomic::Ordering;
use crate::tables::Settings;
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
    /// Names the line in which the other direction's record stands.
    #[inline]
    pub(super) fn prefetch_peer(&self, flow: &Flow, prefetch: impl Fn(*const u8)) {
        if flow.peer < self.slots() {
            prefetch(self.entry(flow.peer).as_ptr().cast());
        }
    }

    #[inline]
    pub(super) fn touch(&self, flow: &Flow, now_s: u32) {
        let tick = &self.entry(flow.at.slot)[TICK];
        if tick.load(Ordering::Relaxed) != now_s {
            tick.store(now_s, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn follow(&self, flow: &Flow, segment: &Segment, now_s: u32, settings: &Settings) -> Followed {
        let entry = self.entry(flow.at.slot);
        // Expiry comes by now and then, and what is over is not to be revived before. The first packet of a second asks.
        if entry[TICK].load(Ordering::Relaxed) != now_s
            && self.judge(flow.at.slot).is_some_and(|judged| judged.is_expired(now_s, &settings.timeouts))
        {
            return Followed::Over;
        }
        let own = Track::load(entry);
        let step = match segment {
            Segment::Tcp(segment) => own.follow(&self.peer_track(flow), flow.is_reply, settings.tcp_liberal, segment),
            Segment::Sctp(segment) => sctp::follow(&own, &self.peer_track(flow), segment),
            Segment::Other => Step::Follows(Track { state: own.state | SEEN, ..own }),
        };
        match step {
            Step::Follows(next) => {
                next.store(&own, entry);
                self.touch(flow, now_s);
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
    fn peer_track(&self, flow: &Flow) -> Track {
        if flow.peer < self.slots() { Track::load(self.entry(flow.peer)) } else { Track::default() }
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
