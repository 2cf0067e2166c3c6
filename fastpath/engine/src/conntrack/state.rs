//! What state a connection is in. Nobody stores it: each direction records what it has sent, in its own entry, and the
//! state is a pure function of both records. So no word of the table has two writers.

use atalho_layout::state::{ACKED, FIN, RST, SEEN, SYN};

use crate::flow::Protocol;
use crate::tables::Timeouts;

/// The states that have a timeout of their own; names as in netfilter where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// TCP: a SYN, or a segment from the middle of a connection, and no answer yet.
    SynSent,
    /// TCP: SYN answered, the answer not acknowledged.
    SynRecv,
    Established,
    /// TCP: one side has sent its FIN.
    FinWait,
    /// TCP: both have.
    TimeWait,
    /// TCP: reset.
    Close,
    /// UDP, SCTP: nothing came back yet.
    Unanswered,
    /// UDP, SCTP: packets went both ways.
    Answered,
    Icmp,
}

impl ConnectionState {
    /// The state of a connection by the `STATE` words of its two directions.
    pub fn of(protocol: Protocol, original: u32, reply: u32) -> Self {
        match protocol {
            Protocol::Tcp => Self::of_tcp(original, reply),
            Protocol::Udp | Protocol::Sctp if reply & SEEN == 0 => Self::Unanswered,
            Protocol::Udp | Protocol::Sctp => Self::Answered,
            Protocol::Icmp | Protocol::Icmpv6 => Self::Icmp,
        }
    }

    fn of_tcp(original: u32, reply: u32) -> Self {
        if (original | reply) & RST != 0 {
            Self::Close
        } else if original & reply & FIN != 0 {
            Self::TimeWait
        } else if (original | reply) & FIN != 0 {
            Self::FinWait
        } else if reply & SEEN == 0 {
            Self::SynSent
        } else if reply & SYN != 0 && original & ACKED == 0 {
            Self::SynRecv
        } else {
            Self::Established
        }
    }

    /// Seconds without a packet of either direction after which the connection goes.
    pub fn timeout_s(self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::SynSent => timeouts.tcp_syn_sent_s,
            Self::SynRecv => timeouts.tcp_syn_recv_s,
            Self::Established => timeouts.tcp_established_s,
            Self::FinWait => timeouts.tcp_fin_wait_s,
            Self::TimeWait => timeouts.tcp_time_wait_s,
            Self::Close => timeouts.tcp_close_s,
            Self::Unanswered => timeouts.udp_s,
            Self::Answered => timeouts.udp_stream_s,
            Self::Icmp => timeouts.icmp_s,
        }
    }

    /// Whether it may be ended early when its buckets are full: nobody has answered it, or it is over.
    pub(super) fn is_evictable(self) -> bool {
        match self {
            Self::SynSent | Self::SynRecv | Self::TimeWait | Self::Close | Self::Unanswered | Self::Icmp => true,
            Self::Established | Self::FinWait | Self::Answered => false,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::Unanswered => "UNREPLIED",
            Self::Answered => "ASSURED",
            Self::Icmp => "ICMP",
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn tcp_states_follow_from_both_records() {
        for (original, reply, expected) in [
            (SEEN | SYN, 0, ConnectionState::SynSent),
            (SEEN | ACKED, 0, ConnectionState::SynSent),
            (SEEN | SYN, SEEN | SYN | ACKED, ConnectionState::SynRecv),
            (SEEN | SYN | ACKED, SEEN | SYN | ACKED, ConnectionState::Established),
            (SEEN | ACKED, SEEN | ACKED, ConnectionState::Established),
            (SEEN | SYN | ACKED | FIN, SEEN | SYN | ACKED, ConnectionState::FinWait),
            (SEEN | SYN | ACKED, SEEN | SYN | ACKED | FIN, ConnectionState::FinWait),
            (SEEN | SYN | ACKED | FIN, SEEN | SYN | ACKED | FIN, ConnectionState::TimeWait),
            (SEEN | SYN, SEEN | RST, ConnectionState::Close),
        ] {
            assert_eq!(ConnectionState::of(Protocol::Tcp, original, reply), expected, "{original:#x} {reply:#x}");
        }
    }

    #[test]
    fn udp_needs_an_answer_to_live_longer_and_icmp_has_one_state() {
        let timeouts = Timeouts::default();
        let state = |protocol, reply| ConnectionState::of(protocol, SEEN, reply).timeout_s(&timeouts);
        assert_eq!((state(Protocol::Udp, 0), state(Protocol::Udp, SEEN)), (30, 120));
        assert_eq!((state(Protocol::Icmp, 0), state(Protocol::Icmpv6, SEEN)), (30, 30));
    }
}
