//! SCTP as the table follows it: which chunks each direction has sent, and the tag by which it knows packets that are
//! meant for it. States and timeouts are netfilter's (nf_conntrack_proto_sctp.c).
//!
//! A packet with a wrong verification tag is refused (RFC 9260 section 8.5). An end that has forgotten the association
//! begins it anew on the same ports (section 5.2.2), so its direction keeps a second tag beside the first. Other
//! addresses of an association are other connections.

use atalho_layout::sctp::{ABORT, COOKIE_ACK, COOKIE_ECHO, HEARTBEAT, HEARTBEAT_ACK, INIT, INIT_ACK};
use atalho_layout::sctp::{SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE};
use atalho_layout::state::SEEN;

use super::tcp::{Step, Track};
use crate::tables::Timeouts;
use crate::verdict::DropReason;
use crate::wire::sctp::{SctpSegment, chunk};

/// Netfilter's states, by its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SctpState {
    /// An INIT alone, or the association is over.
    Closed,
    CookieWait,
    CookieEchoed,
    Established,
    ShutdownSent,
    ShutdownReceived,
    ShutdownAckSent,
    /// Picked up by a HEARTBEAT that was not answered.
    HeartbeatSent,
}

/// The record of the direction that begins.
pub(super) fn first(segment: &SctpSegment) -> Track {
    with(&Track::default(), segment)
}

/// What `segment` of the direction `own` is to its association.
pub(super) fn follow(own: &Track, peer: &Track, segment: &SctpSegment) -> Step {
    if segment.chunk == chunk::INIT && (own.state | peer.state) & (ABORT | SHUTDOWN_COMPLETE) != 0 {
        return Step::Over;
    }
    let is_expected = |track: &Track| segment.verification_tag == track.ack || segment.verification_tag == track.window;
    let is_known = peer.ack != 0;
    // These two may show the tag of the side that knows nothing more (section 8.5.1, the T bit).
    let may_reflect = matches!(segment.chunk, chunk::ABORT | chunk::SHUTDOWN_COMPLETE);
    let is_right = segment.chunk == chunk::INIT || !is_known || is_expected(peer) || may_reflect && is_expected(own);
    if is_right { Step::Follows(with(own, segment)) } else { Step::Refused(DropReason::SctpBadTag) }
}

fn with(own: &Track, segment: &SctpSegment) -> Track {
    let sent = match segment.chunk {
        chunk::INIT => INIT,
        chunk::INIT_ACK => INIT_ACK,
        chunk::ABORT => ABORT,
        chunk::SHUTDOWN => SHUTDOWN,
        chunk::SHUTDOWN_ACK => SHUTDOWN_ACK,
        chunk::COOKIE_ECHO => COOKIE_ECHO,
        chunk::COOKIE_ACK => COOKIE_ACK,
        chunk::SHUTDOWN_COMPLETE => SHUTDOWN_COMPLETE,
        chunk::HEARTBEAT => HEARTBEAT,
        chunk::HEARTBEAT_ACK => HEARTBEAT_ACK,
        _ => 0,
    };
    let mut next = Track { state: own.state | SEEN | sent, ..*own };
    if segment.initiate_tag != 0 {
        if own.ack == 0 {
            next.ack = segment.initiate_tag;
        } else if own.ack != segment.initiate_tag {
            next.window = segment.initiate_tag;
        }
    }
    next
}

impl SctpState {
    pub(super) fn of(original: &Track, reply: &Track) -> Self {
        let either = original.state | reply.state;
        for (chunks, state) in [
            (ABORT | SHUTDOWN_COMPLETE, Self::Closed),
            (SHUTDOWN_ACK, Self::ShutdownAckSent),
            (SHUTDOWN, if original.state & SHUTDOWN != 0 { Self::ShutdownSent } else { Self::ShutdownReceived }),
            (COOKIE_ACK, Self::Established),
            (COOKIE_ECHO, Self::CookieEchoed),
            (INIT_ACK, Self::CookieWait),
            (INIT, Self::Closed),
        ] {
            if either & chunks != 0 {
                return state;
            }
        }
        if reply.state & HEARTBEAT_ACK != 0 { Self::Established } else { Self::HeartbeatSent }
    }

    /// Whether it is over, not only about to begin.
    pub(super) fn is_over(original: &Track, reply: &Track) -> bool {
        (original.state | reply.state) & (ABORT | SHUTDOWN_COMPLETE | SHUTDOWN_ACK) != 0
    }

    pub(super) fn timeout_s(self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Closed => timeouts.sctp_closed_s,
            Self::CookieWait => timeouts.sctp_cookie_wait_s,
            Self::CookieEchoed => timeouts.sctp_cookie_echoed_s,
            Self::Established => timeouts.sctp_established_s,
            Self::ShutdownSent => timeouts.sctp_shutdown_sent_s,
            Self::ShutdownReceived => timeouts.sctp_shutdown_recd_s,
            Self::ShutdownAckSent => timeouts.sctp_shutdown_ack_sent_s,
            Self::HeartbeatSent => timeouts.sctp_heartbeat_sent_s,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::CookieWait => "COOKIE_WAIT",
            Self::CookieEchoed => "COOKIE_ECHOED",
            Self::Established => "ESTABLISHED",
            Self::ShutdownSent => "SHUTDOWN_SENT",
            Self::ShutdownReceived => "SHUTDOWN_RECD",
            Self::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            Self::HeartbeatSent => "HEARTBEAT_SENT",
        }
    }
}
