//! The state of a TCP connection: a pure function of what both directions have sent.

use atalho_layout::state::{ACKED, FIN, RST, SEEN, SYN};

use super::super::state::Side;
use super::Track;
use crate::tables::Timeouts;

/// Netfilter's states, by its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// A SYN and no answer yet.
    SynSent,
    /// A SYN from either side, none of them answered.
    SynSent2,
    /// SYN answered, the answer not acknowledged.
    SynRecv,
    Established,
    /// One side has sent its FIN.
    FinWait,
    /// One side has sent its FIN and the other has acknowledged it.
    CloseWait,
    /// Both have sent theirs.
    LastAck,
    /// Both have, and both FINs are acknowledged.
    TimeWait,
    /// Reset.
    Close,
}

impl TcpState {
    pub(in crate::conntrack) fn of(original: &Track, reply: &Track) -> Self {
        let either = original.state | reply.state;
        let both = original.state & reply.state;
        if either & RST != 0 {
            Self::Close
        } else if both & FIN != 0 {
            let is_over = original.is_acknowledged_by(reply) && reply.is_acknowledged_by(original);
            if is_over { Self::TimeWait } else { Self::LastAck }
        } else if either & FIN != 0 {
            let (closed, open) = if original.state & FIN != 0 { (original, reply) } else { (reply, original) };
            if closed.is_acknowledged_by(open) { Self::CloseWait } else { Self::FinWait }
        } else if original.state & SYN != 0 && reply.state & SEEN == 0 {
            Self::SynSent
        } else if both & SYN != 0 && both & ACKED == 0 {
            if either & ACKED == 0 { Self::SynSent2 } else { Self::SynRecv }
        } else {
            Self::Established
        }
    }

    /// Seconds without a packet after which the connection goes. A shorter time than the state's holds while something
    /// is unacknowledged, and while one side repeats itself and the other is silent.
    pub(in crate::conntrack) fn timeout_s(self, original: &Side, reply: &Side, timeouts: &Timeouts) -> u32 {
        let own_s = match self {
            Self::SynSent | Self::SynSent2 => timeouts.tcp_syn_sent_s,
            Self::SynRecv => timeouts.tcp_syn_recv_s,
            Self::Established => timeouts.tcp_established_s,
            Self::FinWait => timeouts.tcp_fin_wait_s,
            Self::CloseWait => timeouts.tcp_close_wait_s,
            Self::LastAck => timeouts.tcp_last_ack_s,
            Self::TimeWait => timeouts.tcp_time_wait_s,
            Self::Close => timeouts.tcp_close_s,
        };
        let waits = |from: &Side, to: &Side| !from.track.is_acknowledged_by(&to.track);
        let stalls = |from: &Side, to: &Side| from.track.repeats_itself() && from.spoke_after(to);
        if stalls(original, reply) || stalls(reply, original) {
            own_s.min(timeouts.tcp_max_retrans_s)
        } else if waits(original, reply) || waits(reply, original) {
            own_s.min(timeouts.tcp_unacknowledged_s)
        } else {
            own_s
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "SYN_SENT",
            Self::SynSent2 => "SYN_SENT2",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
        }
    }
}
