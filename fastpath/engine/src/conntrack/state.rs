//! What state a connection is in. Nobody stores it: each direction records what it has sent, in its own entry, and the
//! state is a pure function of both records. So no word of the table has two writers.

use atalho_layout::state::{ACKED, SEEN};

use super::insert::later;
use super::sctp::SctpState;
use super::tcp::{TcpState, Track};
use crate::flow::Protocol;
use crate::tables::Timeouts;

/// One direction of a connection, as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    pub track: Track,
    /// Kernel coarse seconds of its last packet.
    pub seen_s: u32,
}

impl Side {
    pub(super) fn spoke_after(&self, other: &Self) -> bool {
        later(self.seen_s, other.seen_s) != other.seen_s
    }
}

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    Tcp(TcpState),
    Sctp(SctpState),
    /// UDP: nothing came back yet.
    Unanswered,
    /// UDP: packets went both ways. (netfilter grants the longer time only to what lasts for two seconds.)
    Answered,
    Icmp,
    Icmpv6,
}

/// Why a connection may have to go when its buckets are full, first those that go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evictable {
    /// Nobody has answered it, or its handshake is not through.
    Unanswered,
    /// It is over.
    Closing,
    /// UDP or ICMP, answered.
    Datagram,
}

impl Evictable {
    pub const ALL: [Self; 3] = [Self::Unanswered, Self::Closing, Self::Datagram];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Unanswered => "unanswered",
            Self::Closing => "closing",
            Self::Datagram => "datagram",
        }
    }
}

impl ConnectionState {
    pub(super) fn of(protocol: Protocol, original: &Side, reply: &Side) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp(TcpState::of(&original.track, &reply.track)),
            Protocol::Sctp => Self::Sctp(SctpState::of(&original.track, &reply.track)),
            Protocol::Udp if reply.track.state & SEEN == 0 => Self::Unanswered,
            Protocol::Udp => Self::Answered,
            Protocol::Icmp => Self::Icmp,
            Protocol::Icmpv6 => Self::Icmpv6,
        }
    }

    /// Seconds without a packet of either direction after which the connection goes.
    pub(super) fn timeout_s(self, original: &Side, reply: &Side, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Tcp(state) => state.timeout_s(original, reply, timeouts),
            Self::Sctp(state) => state.timeout_s(timeouts),
            Self::Unanswered => timeouts.udp_s,
            Self::Answered => timeouts.udp_stream_s,
            Self::Icmp => timeouts.icmp_s,
            Self::Icmpv6 => timeouts.icmpv6_s,
        }
    }

    /// As what it may be ended early when its buckets are full; `None`: never.
    pub(super) fn evictable(self, original: &Side, reply: &Side) -> Option<Evictable> {
        let is_answered = reply.track.state & SEEN != 0;
        match self {
            Self::Tcp(TcpState::Close | TcpState::TimeWait | TcpState::LastAck) => Some(Evictable::Closing),
            Self::Sctp(_) if SctpState::is_over(&original.track, &reply.track) => Some(Evictable::Closing),
            _ if !is_answered => Some(Evictable::Unanswered),
            // Its handshake is not through, whatever else was sent.
            Self::Tcp(_) if original.track.state & ACKED == 0 => Some(Evictable::Unanswered),
            Self::Tcp(_) => None,
            Self::Sctp(SctpState::Closed | SctpState::CookieWait | SctpState::CookieEchoed) => {
                Some(Evictable::Unanswered)
            }
            Self::Sctp(_) => None,
            _ => Some(Evictable::Datagram),
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp(state) => state.name(),
            Self::Sctp(state) => state.name(),
            Self::Unanswered => "UNREPLIED",
            Self::Answered => "ASSURED",
            Self::Icmp | Self::Icmpv6 => "ICMP",
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn udp_needs_an_answer_to_live_longer() {
        let timeouts = Timeouts::default();
        let side = |state, seen_s| Side { track: Track { state, end: 100, ..Track::default() }, seen_s };
        for (reply, seen_s, expected) in
            [(0, 109, (ConnectionState::Unanswered, 30)), (SEEN, 100, (ConnectionState::Answered, 120))]
        {
            let (original, reply) = (side(SEEN, seen_s), side(reply, 100));
            let state = ConnectionState::of(Protocol::Udp, &original, &reply);
            assert_eq!((state, state.timeout_s(&original, &reply, &timeouts)), expected);
        }
    }
}
