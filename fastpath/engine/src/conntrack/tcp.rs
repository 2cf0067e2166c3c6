//! TCP as the table follows it: what each direction has sent, in four words of its own entry, and what the next segment
//! is to its connection ([`Track::follow`]).
//!
//! The words are those of netfilter's window tracking (nf_conntrack_proto_tcp.c; van Rooij, "Real Stateful TCP Packet
//! Filtering in IP Filter", 2001), with one difference: netfilter writes what a receiver allows into the sender's record,
//! here every word has one writer, so the sender's limit is computed from what the receiver has acknowledged and
//! offered (`window.rs`). A segment reads both directions and writes its own.
//!
//! No tolerance for two workers is needed: whatever answers a segment was sent after that segment had left us, and so
//! after its words were stored.
//!
//! What RFC 5961 asks of an endpoint is asked here too: a segment outside the window is refused and changes nothing; a
//! reset counts only where it stands exactly, and one elsewhere in the window goes on to be challenged; so does a SYN
//! on a connection that is up. Selective acknowledgments are not read: what they allow beyond the cumulative one, a
//! sender does not use.

mod state;
mod window;

use atalho_layout::state::{
    ACKED, AGAIN, AGAIN_SHIFT, FIN, PLAIN, REPEATS, REPEATS_SHIFT, RST, SEEN, SYN, WSCALE, WSCALE_SHIFT,
};

use super::family::{STATE, WIN_ACK, WIN_END, WIN_MAX};
use crate::atomic::{AtomicU32, Ordering};
use crate::verdict::DropReason;

pub use self::state::TcpState;

/// Largest shift of the window scale option (RFC 7323 section 2.3).
const SHIFT_MAX: u8 = 14;

/// Segments in a row that bring nothing new before a connection counts as stalled (netfilter's tcp_max_retrans).
const REPEATS_MAX: u32 = 3;

/// What the table has to know of one TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment {
    pub seq: u32,
    pub ack: u32,
    /// As in the header, before scaling.
    pub window: u16,
    /// Bytes after the TCP header.
    pub payload_len: u32,
    /// Low six bits of the flags byte.
    pub flags: u8,
    /// Shift count of the window scale option; read on SYN only.
    pub window_scale: Option<u8>,
}

/// What a segment does, by its flags; the first that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reset,
    Syn,
    SynAck,
    Fin,
    Ack,
    /// No flag that a segment must have.
    Nonsense,
}

impl TcpSegment {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    /// Whether all of `flags` are set.
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The sequence number after it; SYN and FIN take one each.
    const fn end(&self) -> u32 {
        let flags = (self.flags & Self::SYN != 0) as u32 + (self.flags & Self::FIN != 0) as u32;
        self.seq.wrapping_add(self.payload_len).wrapping_add(flags)
    }

    const fn kind(&self) -> Kind {
        match self.flags & (Self::SYN | Self::ACK | Self::RST | Self::FIN) {
            flags if flags & Self::RST != 0 => Kind::Reset,
            Self::SYN => Kind::Syn,
            flags if flags & Self::SYN != 0 => Kind::SynAck,
            flags if flags & Self::ACK == 0 => Kind::Nonsense,
            flags if flags & Self::FIN != 0 => Kind::Fin,
            _ => Kind::Ack,
        }
    }
}

/// The four words of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Track {
    pub state: u32,
    pub end: u32,
    pub ack: u32,
    pub window: u32,
}

/// What a segment is to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It belongs, and these are its direction's words from now on.
    Follows(Track),
    /// It goes on and changes nothing: its receiver is to judge it.
    Passes,
    /// The same, but that it was seen is remembered.
    PassesNoted(Track),
    /// The connection is over, and it begins a new one.
    Over,
    Refused(DropReason),
}

const OUT_OF_WINDOW: Step = Step::Refused(DropReason::TcpOutOfWindow);
const BAD_STATE: Step = Step::Refused(DropReason::TcpBadState);

impl Track {
    #[inline]
    pub(super) fn load(entry: &[AtomicU32]) -> Self {
        Self {
            state: entry[STATE].load(Ordering::Relaxed),
            end: entry[WIN_END].load(Ordering::Relaxed),
            ack: entry[WIN_ACK].load(Ordering::Relaxed),
            window: entry[WIN_MAX].load(Ordering::Relaxed),
        }
    }

    /// Stores all words.
    #[inline]
    pub(super) fn store_all(&self, entry: &[AtomicU32]) {
        entry[STATE].store(self.state, Ordering::Relaxed);
        entry[WIN_END].store(self.end, Ordering::Relaxed);
        entry[WIN_ACK].store(self.ack, Ordering::Relaxed);
        entry[WIN_MAX].store(self.window, Ordering::Relaxed);
    }

    /// Stores the words that differ from `old`; a line that nobody changes stays in every core's cache.
    #[inline]
    pub(super) fn store(&self, old: &Self, entry: &[AtomicU32]) {
        for (word, new, old) in [
            (STATE, self.state, old.state),
            (WIN_END, self.end, old.end),
            (WIN_ACK, self.ack, old.ack),
            (WIN_MAX, self.window, old.window),
        ] {
            if new != old {
                entry[word].store(new, Ordering::Relaxed);
            }
        }
    }

    /// The record of the direction whose segment begins a connection: a SYN, or any other that is picked up.
    pub(super) fn first(segment: &TcpSegment) -> Self {
        match segment.kind() {
            Kind::Syn => Self::of_syn(segment),
            _ => Self::picked_up(segment),
        }
    }

    /// What `segment` of this direction is to the connection whose other direction is `peer`. `is_reply`: this is the
    /// direction of the answers. `liberal`: only resets are refused for their sequence number.
    #[inline]
    pub(super) fn follow(&self, peer: &Self, is_reply: bool, liberal: bool, segment: &TcpSegment) -> Step {
        match segment.kind() {
            Kind::Ack | Kind::Fin => self.follow_data(peer, is_reply, liberal, segment),
            Kind::Reset => self.follow_reset(peer, segment),
            Kind::Syn if self.is_reusable(peer, segment) => Step::Over,
            Kind::Syn => self.follow_syn(peer, is_reply, segment),
            Kind::SynAck => self.follow_syn_ack(peer, is_reply, segment),
            Kind::Nonsense => BAD_STATE,
        }
    }

    /// Data, acknowledgments and FIN.
    #[inline]
    fn follow_data(&self, peer: &Self, is_reply: bool, liberal: bool, segment: &TcpSegment) -> Step {
        if self.state & AGAIN != 0 && self.begins_anew(peer, segment) {
            return Step::Follows(Self::picked_up(segment));
        }
        if self.state & peer.state & ACKED == 0 {
            let is_ack = segment.kind() == Kind::Ack;
            let is_opening = (self.state | peer.state) & ACKED == 0;
            match is_reply {
                // Before the other side has answered there is nothing to acknowledge.
                false if self.state & SYN != 0 && is_opening => return BAD_STATE,
                // What is left of an old connection answers a SYN: its client sends a reset (RFC 9293 section 3.5.1).
                true if is_opening => return if is_ack { Step::Passes } else { BAD_STATE },
                // A connection that was picked up and whose other direction nobody has seen.
                false if peer.state & SEEN == 0 => return Step::Follows(self.with(segment)),
                _ => {}
            }
        }
        if self.state & SEEN == 0 {
            // The first segment of a picked up connection's other direction.
            let is_plausible = liberal || peer.takes_ack(segment.ack, self.window_to(peer));
            return if is_plausible { Step::Follows(Self::picked_up(segment)) } else { OUT_OF_WINDOW };
        }
        if self.is_in_window(peer, segment) {
            Step::Follows(self.with(segment))
        } else if liberal {
            Step::Follows(self.with_flags(segment))
        } else {
            OUT_OF_WINDOW
        }
    }

    /// SYN without ACK.
    fn follow_syn(&self, peer: &Self, is_reply: bool, segment: &TcpSegment) -> Step {
        let is_simultaneous = (self.state | peer.state) & ACKED == 0 && peer.state & SYN != 0;
        match (is_reply, self.state & SEEN != 0) {
            // Both sides call at once (RFC 9293 section 3.5, figure 7), and repeat it.
            (true, false) if is_simultaneous => Step::Follows(Self::of_syn(segment)),
            (_, true) if is_simultaneous => {
                if self.is_same_syn(segment) {
                    Step::Passes
                } else {
                    OUT_OF_WINDOW
                }
            }
            // Who answers does not call.
            (true, _) => BAD_STATE,
            // Nobody has answered: the same call again, or a new one from the same port.
            (false, _) if peer.state & SEEN == 0 && self.state & SYN != 0 => {
                if is_after(segment.seq, self.ack) {
                    Step::Follows(Self::of_syn(segment))
                } else if !self.is_same_syn(segment) {
                    Step::PassesNoted(self.noting(segment))
                } else if is_after(segment.end(), self.end) {
                    // The same with more data, or another part of it.
                    Step::Follows(Self { end: segment.end(), ..*self })
                } else {
                    Step::Passes
                }
            }
            // A client that has forgotten the connection, or a forger: the server's challenge tells (RFC 5961 section 4),
            // or, if it has forgotten it too, its answer.
            (false, _) if self.is_repeated(segment) => Step::Passes,
            (false, _) => Step::PassesNoted(self.noting(segment)),
        }
    }

    /// Whether a SYN is as old as the connection, as far as can be told: a duplicate.
    fn is_repeated(&self, syn: &TcpSegment) -> bool {
        self.end.wrapping_sub(syn.end()) <= window::ACK_LAG_MIN
    }

    /// This record with a note of a SYN that was let through.
    fn noting(&self, syn: &TcpSegment) -> Self {
        let state = self.state & ((1 << AGAIN_SHIFT) - 1);
        Self { state: state | AGAIN | syn.seq << AGAIN_SHIFT, ..*self }
    }

    /// Whether `ack` acknowledges the SYN that this direction's note is of.
    fn is_noted(&self, ack: u32) -> bool {
        self.state & AGAIN != 0 && self.state >> AGAIN_SHIFT == ack.wrapping_sub(1) & 0xffff
    }

    /// Whether `segment` completes the handshake that began with the noted SYN, which the other side has answered: both
    /// ends are in a connection that began anew without being seen, as netfilter's resynchronization has it.
    #[cold]
    fn begins_anew(&self, peer: &Self, segment: &TcpSegment) -> bool {
        let is_answered = peer.state & (SYN | ACKED | PLAIN) == SYN | ACKED && self.is_noted(peer.ack);
        is_answered && segment.seq == peer.ack && segment.ack == peer.end
    }

    /// Whether `segment` is the SYN with which this direction, that has acknowledged nothing yet, began.
    fn is_same_syn(&self, segment: &TcpSegment) -> bool {
        segment.seq == self.ack
    }

    fn follow_syn_ack(&self, peer: &Self, is_reply: bool, segment: &TcpSegment) -> Step {
        let is_known =
            self.state & SEEN != 0 && (self.is_repeated(segment) || peer.takes_ack(segment.ack, self.window_to(peer)));
        if is_reply && peer.is_noted(segment.ack) && !is_known {
            return Step::Follows(Self::of_syn(segment));
        }
        // Until the client has acknowledged one, the latest answer counts: a server in need forgets half-open connections.
        let is_later = self.state & (SYN | PLAIN) == SYN && segment.end() != self.end;
        let is_answer = is_reply && (self.state & SEEN == 0 || is_later) && peer.state & (SYN | ACKED) == SYN;
        // Both have called, this one answers now.
        let is_crossing = self.state & (SYN | ACKED) == SYN && peer.state & SYN != 0 && self.is_same_syn(segment);
        if is_answer || is_crossing {
            // Of a SYN with data the data may be left out. What answers an older SYN goes on: its client resets it
            // (RFC 9293 section 3.5, figure 8).
            let is_right = peer.state & ACKED != 0 || is_after(segment.ack, peer.ack);
            return match peer.takes_ack(segment.ack, 0) {
                true if is_right => Step::Follows(Self::of_syn(segment)),
                true => Step::Passes,
                false if !is_after(segment.ack, peer.end) => Step::Passes,
                false => OUT_OF_WINDOW,
            };
        }
        // Repeated, or the answer to a SYN that was let through.
        if is_reply || peer.state & SEEN != 0 { Step::Passes } else { BAD_STATE }
    }

    /// A reset counts if it stands exactly where the receiver expects the next byte: at the highest acknowledgment that
    /// came from there, or right after the last byte sent (RFC 5961 section 3.2); or if it answers a first segment.
    fn follow_reset(&self, peer: &Self, segment: &TcpSegment) -> Step {
        let end = if self.state & SEEN == 0 { segment.seq } else { self.end };
        let closed = Step::Follows(Self { state: self.state | SEEN | RST, end, ..*self });
        let is_expected = peer.state & ACKED != 0 && segment.seq == peer.ack;
        let is_next = self.state & SEEN != 0 && segment.seq == self.end;
        if peer.state & SEEN == 0 {
            // A client that has called and gives up, or whose call met the remains of an old connection.
            return if is_next { closed } else { Step::Passes };
        }
        if self.state & SEEN == 0 && !is_expected {
            let is_answer = segment.has(TcpSegment::ACK) && segment.ack == peer.end;
            return if is_answer { closed } else { OUT_OF_WINDOW };
        }
        // Some stacks set the flag and leave the number 0.
        let acknowledges = segment.has(TcpSegment::ACK) && segment.ack != 0;
        if acknowledges && !peer.takes_ack(segment.ack, self.window_to(peer)) {
            OUT_OF_WINDOW
        } else if is_expected || is_next {
            closed
        } else if self.may_challenge(peer, segment) {
            Step::Passes
        } else {
            OUT_OF_WINDOW
        }
    }

    /// The record of a direction that has sent nothing but this SYN.
    fn of_syn(segment: &TcpSegment) -> Self {
        let mut state = SEEN | SYN;
        if let Some(shift) = segment.window_scale {
            state |= WSCALE | u32::from(shift.min(SHIFT_MAX)) << WSCALE_SHIFT;
        }
        // Until there is something to acknowledge, the word keeps where the count began.
        let mut ack = segment.seq;
        if segment.has(TcpSegment::ACK) {
            state |= ACKED;
            ack = segment.ack;
        }
        Self { state, end: segment.end(), ack, window: segment.window.into() }
    }

    /// The record of a direction whose beginning was not seen.
    fn picked_up(segment: &TcpSegment) -> Self {
        Self { state: SEEN | PLAIN | ACKED, end: segment.end(), ack: segment.ack, window: segment.window.into() }
            .with_flags(segment)
    }

    /// This direction after one more segment that is in the window, SYN aside.
    #[inline]
    fn with(&self, segment: &TcpSegment) -> Self {
        let (end, window) = (segment.end(), u32::from(segment.window));
        let mut next = self.with_flags(segment);
        if self.state & PLAIN == 0 {
            // The window of a SYN is never scaled (RFC 7323 section 2.2), all others are.
            next.window = window;
        } else if window > self.window {
            next.window = window;
        }
        if is_after(end, self.end) {
            next.end = end;
        }
        if self.state & ACKED == 0 || is_after(segment.ack, self.ack) {
            next.ack = segment.ack;
        }
        let is_new = next.end != self.end || next.ack != self.ack || next.window != self.window;
        let repeats = (self.state & REPEATS) >> REPEATS_SHIFT;
        let repeats = if is_new { 0 } else { (repeats + 1).min(REPEATS_MAX) };
        next.state = next.state & !REPEATS | repeats << REPEATS_SHIFT;
        next
    }

    /// Only what its flags say.
    #[inline]
    fn with_flags(&self, segment: &TcpSegment) -> Self {
        let mut state = self.state | SEEN | PLAIN | ACKED;
        if state & AGAIN != 0 {
            state &= ((1 << AGAIN_SHIFT) - 1) & !AGAIN;
        }
        // What stands before data that was sent already is no end.
        if segment.has(TcpSegment::FIN) && !is_after(self.end, segment.end()) {
            state |= FIN;
        }
        Self { state, ..*self }
    }

    /// Whether all that this direction sent has been acknowledged by `peer`.
    pub(super) fn is_acknowledged_by(&self, peer: &Self) -> bool {
        peer.state & ACKED != 0 && !is_after(self.end, peer.ack)
    }

    /// Whether the last segments of this direction brought nothing new.
    pub(super) fn repeats_itself(&self) -> bool {
        (self.state & REPEATS) >> REPEATS_SHIFT == REPEATS_MAX
    }

    /// Whether a SYN of this direction may replace a connection that is over: after a reset any, after both FINs
    /// were acknowledged one whose sequence number lies beyond the old connection's (RFC 9293 section 3.6.1).
    fn is_reusable(&self, peer: &Self, segment: &TcpSegment) -> bool {
        let is_reset = (self.state | peer.state) & RST != 0;
        let both_ended =
            self.state & peer.state & FIN != 0 && self.is_acknowledged_by(peer) && peer.is_acknowledged_by(self);
        is_reset || both_ended && is_after(segment.seq, self.end)
    }
}

/// Whether sequence number `a` comes after `b` (RFC 9293 section 3.4: modulo 2^32).
const fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

#[cfg(all(test, not(loom)))]
mod tests;
