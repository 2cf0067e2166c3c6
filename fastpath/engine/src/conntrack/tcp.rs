//! TCP as the table follows it: what each direction has sent, in four words of its own entry.
//!
//! The words are those of netfilter's window tracking (nf_conntrack_proto_tcp.c; van Rooij, "Real Stateful TCP Packet
//! Filtering in IP Filter", 2001). They decide whether a reset or a FIN counts (RFC 5961: a blind one changes nothing)
//! and whether a SYN may reuse the tuple. No packet is refused by the window yet, and a segment with a false sequence
//! number still moves the words.

use atalho_layout::state::{ACKED, FIN, RST, SEEN, SYN, WSCALE, WSCALE_SHIFT};

use super::family::{STATE, WIN_ACK, WIN_END, WIN_MAX};
use crate::atomic::{AtomicU32, Ordering};

/// Largest shift of the window scale option (RFC 7323 section 2.3).
const SHIFT_MAX: u8 = 14;

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

impl TcpSegment {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    /// Whether all of `flags` are set.
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// A SYN that asks for a new connection.
    pub const fn is_first(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }

    /// The sequence number after it; SYN and FIN take one each.
    const fn end(&self) -> u32 {
        let flags = (self.flags & Self::SYN != 0) as u32 + (self.flags & Self::FIN != 0) as u32;
        self.seq.wrapping_add(self.payload_len).wrapping_add(flags)
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

impl Track {
    pub(super) fn load(entry: &[AtomicU32]) -> Self {
        Self {
            state: entry[STATE].load(Ordering::Relaxed),
            end: entry[WIN_END].load(Ordering::Relaxed),
            ack: entry[WIN_ACK].load(Ordering::Relaxed),
            window: entry[WIN_MAX].load(Ordering::Relaxed),
        }
    }

    /// Stores the words that differ from `old`; a line that nobody changes stays in every core's cache.
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

    /// This direction after one more segment. `peer` reads the other direction, which costs a cache line and is needed
    /// for the rare segments only.
    #[must_use]
    pub(super) fn after(self, segment: &TcpSegment, peer: impl FnOnce() -> Self) -> Self {
        if segment.has(TcpSegment::RST) {
            return if self.reset_counts(segment, &peer()) {
                Self { state: self.state | SEEN | RST, ..self }
            } else {
                self
            };
        }
        let mut next = Self { state: self.state | SEEN, ..self };
        let end = segment.end();
        let window = u32::from(segment.window);
        if segment.has(TcpSegment::SYN) && self.state & ACKED == 0 {
            // The first SYN, its repetition, or a client that tries anew from the same port.
            next.state = SEEN | SYN;
            if let Some(shift) = segment.window_scale {
                next.state |= WSCALE | u32::from(shift.min(SHIFT_MAX)) << WSCALE_SHIFT;
            }
            (next.end, next.window) = (end, window);
        } else if self.state & SEEN == 0 {
            (next.end, next.window) = (end, window);
        } else {
            if segment.has(TcpSegment::FIN) && self.state & FIN == 0 && self.fin_counts(segment, &peer()) {
                next.state |= FIN;
            }
            if is_after(end, self.end) {
                next.end = end;
            }
            next.window = self.window.max(window);
        }
        if self.state & SEEN == 0 && segment.has(TcpSegment::FIN) {
            next.state |= FIN;
        }
        if segment.has(TcpSegment::ACK) {
            if self.state & ACKED == 0 || is_after(segment.ack, self.ack) {
                next.ack = segment.ack;
            }
            next.state |= ACKED;
        }
        next
    }

    /// A reset counts if it stands exactly where the receiver expects the next byte: at the highest acknowledgment
    /// that came from there, or right after the last byte sent (RFC 5961 section 3.2); or if it answers a first segment.
    fn reset_counts(&self, segment: &TcpSegment, peer: &Self) -> bool {
        let is_expected = peer.state & ACKED != 0 && segment.seq == peer.ack;
        let is_next = self.state & SEEN != 0 && segment.seq == self.end;
        let is_answer = self.state & SEEN == 0 && segment.has(TcpSegment::ACK) && segment.ack == peer.end;
        is_expected || is_next || is_answer
    }

    /// A FIN counts if it lies within what the other side lets this one send. Segments before it may be missing: they
    /// come again, the FIN perhaps does not.
    fn fin_counts(&self, segment: &TcpSegment, peer: &Self) -> bool {
        let limit = peer.ack.wrapping_add(peer.scaled_window(self).max(1));
        !is_after(self.end, segment.end()) && (peer.state & ACKED == 0 || !is_after(segment.seq, limit))
    }

    /// The largest window that this direction has offered, bytes. Scaling holds only if both sides asked for it; who did
    /// is unknown if the connection was picked up in the middle, then the largest shift is assumed.
    fn scaled_window(&self, other: &Self) -> u32 {
        let shift = if self.state & other.state & SYN == 0 {
            u32::from(SHIFT_MAX)
        } else if self.state & other.state & WSCALE != 0 {
            self.state >> WSCALE_SHIFT & 0xf
        } else {
            0
        };
        self.window << shift
    }

    /// Whether a first SYN of this direction may replace a connection that is over (RFC 9293 section 3.6.1: the sequence
    /// number must lie beyond the old connection's).
    pub(super) fn is_reusable(&self, peer: &Self, segment: &TcpSegment) -> bool {
        if !segment.is_first() {
            return false;
        }
        let is_reset = (self.state | peer.state) & RST != 0;
        let both_ended = self.state & peer.state & FIN != 0;
        is_reset || both_ended && is_after(segment.seq, self.end)
    }
}

/// Whether `a` lies behind `b` on the circle of sequence numbers (RFC 9293 section 3.4).
const fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::state::ConnectionState;
    use super::*;
    use crate::flow::Protocol;

    /// Both directions of one connection; segments are (flags, seq, ack, bytes).
    #[derive(Default, Clone, Copy)]
    struct Pair {
        client: Track,
        server: Track,
    }

    impl Pair {
        fn client(&mut self, flags: u8, seq: u32, ack: u32, payload_len: u32) -> &mut Self {
            let peer = self.server;
            self.client = self.client.after(&segment(flags, seq, ack, payload_len), || peer);
            self
        }

        fn server(&mut self, flags: u8, seq: u32, ack: u32, payload_len: u32) -> &mut Self {
            let peer = self.client;
            self.server = self.server.after(&segment(flags, seq, ack, payload_len), || peer);
            self
        }

        fn state(&self) -> ConnectionState {
            ConnectionState::of(Protocol::Tcp, self.client.state, self.server.state)
        }

        fn established() -> Self {
            let mut pair = Self::default();
            pair.client(SYN, u32::MAX, 0, 0).server(SYN | ACK, 5000, 0, 0).client(ACK, 0, 5001, 0);
            assert_eq!(pair.state(), ConnectionState::Established);
            pair
        }
    }

    const FIN: u8 = TcpSegment::FIN;
    const SYN: u8 = TcpSegment::SYN;
    const RST: u8 = TcpSegment::RST;
    const ACK: u8 = TcpSegment::ACK;

    fn segment(flags: u8, seq: u32, ack: u32, payload_len: u32) -> TcpSegment {
        let window_scale = (flags & SYN != 0).then_some(7);
        TcpSegment { seq, ack, window: 500, payload_len, flags, window_scale }
    }

    #[test]
    fn a_connection_lives_from_syn_to_time_wait_across_the_wrap_of_its_sequence() {
        let mut pair = Pair::default();
        assert_eq!(pair.client(SYN, u32::MAX, 0, 0).state(), ConnectionState::SynSent);
        assert_eq!(pair.server(SYN | ACK, 5000, 0, 0).state(), ConnectionState::SynRecv);
        assert_eq!(pair.client(ACK, 0, 5001, 0).state(), ConnectionState::Established);
        pair.client(ACK, 0, 5001, 100).server(ACK, 5001, 100, 200);
        assert_eq!((pair.client.end, pair.server.end, pair.server.ack), (100, 5201, 100));
        assert_eq!(pair.client(FIN | ACK, 100, 5201, 0).state(), ConnectionState::FinWait);
        assert_eq!(pair.server(ACK, 5201, 101, 50).state(), ConnectionState::FinWait);
        assert_eq!(pair.server(FIN | ACK, 5251, 101, 0).state(), ConnectionState::TimeWait);
    }

    #[test]
    fn a_blind_reset_or_fin_changes_nothing_and_an_exact_reset_closes() {
        let mut pair = Pair::established();
        pair.client(ACK, 0, 5001, 100).server(ACK, 5001, 100, 0);
        for seq in [99, 101, 60_000, 1 << 31, u32::MAX] {
            assert_eq!(pair.client(RST, seq, 0, 0).state(), ConnectionState::Established, "{seq}");
        }
        for seq in [1 << 30, 1 << 31, 0x8000_1000, u32::MAX - 5] {
            assert_eq!(
                pair.server(FIN | ACK, 5001u32.wrapping_add(seq), 100, 0).state(),
                ConnectionState::Established,
                "{seq}"
            );
            // A false segment still moves the words; put them back.
            pair.server.end = 5001;
        }
        let mut after_all_sent = pair;
        assert_eq!(after_all_sent.client(RST, 100, 0, 0).state(), ConnectionState::Close);
        // 100 more bytes are under way and the client dies: its reset stands at the last acknowledgment or at the end.
        pair.client(ACK, 100, 5001, 100);
        let mut at_the_ack = pair;
        assert_eq!(at_the_ack.client(RST, 100, 0, 0).state(), ConnectionState::Close);
        assert_eq!(pair.client(RST | ACK, 200, 5001, 0).state(), ConnectionState::Close);
    }

    #[test]
    fn a_refused_connection_closes_only_by_a_reset_that_acknowledges_the_syn() {
        let mut pair = Pair::default();
        pair.client(SYN, 700, 0, 0);
        assert_eq!(pair.server(RST | ACK, 0, 700, 0).state(), ConnectionState::SynSent);
        assert_eq!(pair.server(RST | ACK, 0, 701, 0).state(), ConnectionState::Close);
    }

    #[test]
    fn a_fin_that_overtakes_lost_data_counts_inside_the_window() {
        let mut pair = Pair::established();
        // 1000 bytes before it are lost; the window is 500 << 7.
        assert_eq!(pair.client(FIN | ACK, 1000, 5001, 10).state(), ConnectionState::FinWait);
    }

    #[test]
    fn only_a_fresh_syn_beyond_the_old_sequence_reuses_a_finished_tuple() {
        let mut pair = Pair::established();
        let reusable = |pair: &Pair, segment| pair.client.is_reusable(&pair.server, &segment);
        assert!(!reusable(&pair, segment(SYN, 90_000, 0, 0)), "established");
        pair.client(FIN | ACK, 0, 5001, 0);
        assert!(!reusable(&pair, segment(SYN, 90_000, 0, 0)), "half closed");
        pair.server(FIN | ACK, 5001, 1, 0);
        assert!(reusable(&pair, segment(SYN, 90_000, 0, 0)));
        assert!(!reusable(&pair, segment(SYN, 0, 0, 0)), "an old duplicate");
        assert!(!reusable(&pair, segment(SYN | ACK, 90_000, 0, 0)));
        let mut reset = Pair::established();
        reset.server(RST, 5001, 0, 0);
        assert!(reusable(&reset, segment(SYN, 3, 0, 0)), "after a reset any SYN");
    }

    #[test]
    fn the_window_scale_holds_only_if_both_sides_offered_it() {
        let mut pair = Pair::established();
        assert_eq!(pair.client.scaled_window(&pair.server), 500 << 7);
        pair.server.state &= !WSCALE;
        assert_eq!(pair.client.scaled_window(&pair.server), 500);
    }
}
