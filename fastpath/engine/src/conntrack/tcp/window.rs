//! Which sequence and acknowledgment numbers a segment may carry: netfilter's four conditions, computed from the words
//! that each direction keeps of itself.
//!
//! I. no data beyond what the receiver has acknowledged plus the largest window it has offered;
//! II. no data from before the last byte sent less that window; III. no acknowledgment of what was never sent;
//! IV. none that is older than a window (RFC 5961 section 5). Data has to touch the window, not to lie within it.

use atalho_layout::state::{ACKED, PLAIN, SYN, WSCALE, WSCALE_SHIFT};

use super::{SHIFT_MAX, TcpSegment, Track, is_after};

/// Bytes by which an acknowledgment may always lag behind: netfilter's MAXACKWINCONST, an unscaled window and more.
pub(super) const ACK_LAG_MIN: u32 = 66_000;

impl Track {
    /// Whether a segment of this direction that carries ACK is in the window.
    #[inline]
    pub(super) fn is_in_window(&self, peer: &Self, segment: &TcpSegment) -> bool {
        let end = segment.end();
        // One without data may stand anywhere: a keep-alive one before the end, a late acknowledgment far behind it.
        let is_in_window = end == segment.seq || self.may_send(peer, segment.seq, end);
        is_in_window && peer.takes_ack(segment.ack, self.window_to(peer))
    }

    /// Whether a reset that does not stand exactly goes on, for its receiver to challenge: in the window, and not before
    /// what the receiver has acknowledged.
    pub(super) fn may_challenge(&self, peer: &Self, segment: &TcpSegment) -> bool {
        let is_old = peer.state & ACKED != 0 && is_after(peer.ack, segment.seq);
        !is_old && self.may_send(peer, segment.seq, segment.end())
    }

    /// Conditions I and II.
    #[inline]
    fn may_send(&self, peer: &Self, seq: u32, end: u32) -> bool {
        let window = peer.window_to(self).max(1);
        let allowed_from = if peer.state & ACKED != 0 { peer.ack } else { self.end };
        let limit = allowed_from.wrapping_add(window);
        // A last segment that only touches the window reaches beyond it.
        let sent = if is_after(self.end, limit) { limit } else { self.end };
        !is_after(seq, limit) && !is_after(sent.wrapping_sub(window), end)
    }

    /// Conditions III and IV: whether the other side, whose window is `window` bytes, may acknowledge `ack` of what this
    /// direction has sent.
    #[inline]
    pub(super) fn takes_ack(&self, ack: u32, window: u32) -> bool {
        !is_after(ack, self.end) && !is_after(self.end.wrapping_sub(window.max(ACK_LAG_MIN)), ack)
    }

    /// The largest window that this direction has offered, bytes. Scaling holds only if both sides asked for it; whether
    /// they did is unknown if the connection was picked up in the middle, then the largest shift is assumed.
    #[inline]
    pub(super) fn window_to(&self, other: &Self) -> u32 {
        let shift = if self.state & PLAIN == 0 {
            0
        } else if self.state & other.state & SYN == 0 {
            u32::from(SHIFT_MAX)
        } else if self.state & other.state & WSCALE != 0 {
            self.state >> WSCALE_SHIFT & 0xf
        } else {
            0
        };
        self.window << shift
    }
}
