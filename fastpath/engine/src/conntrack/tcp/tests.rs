//! The rules one by one, on the records alone.

use super::super::state::Side;
use super::*;
use crate::tables::Timeouts;

const FIN: u8 = TcpSegment::FIN;
const SYN: u8 = TcpSegment::SYN;
const RST: u8 = TcpSegment::RST;
const ACK: u8 = TcpSegment::ACK;

fn segment(flags: u8, seq: u32, ack: u32, payload_len: u32) -> TcpSegment {
    let window_scale = (flags & SYN != 0).then_some(7);
    TcpSegment { seq, ack, window: 500, payload_len, flags, window_scale }
}

/// Both directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Pair {
    client: Track,
    server: Track,
}

impl Pair {
    fn begun_by(segment: TcpSegment) -> Self {
        Self { client: Track::first(&segment), server: Track::default() }
    }

    fn step(&self, is_reply: bool, segment: &TcpSegment) -> Step {
        let (own, peer) = if is_reply { (&self.server, &self.client) } else { (&self.client, &self.server) };
        own.follow(peer, is_reply, false, segment)
    }

    /// A segment that belongs.
    #[track_caller]
    fn follows(&mut self, is_reply: bool, segment: TcpSegment) -> TcpState {
        match self.step(is_reply, &segment) {
            Step::Follows(track) if is_reply => self.server = track,
            Step::Follows(track) => self.client = track,
            other => panic!("{segment:?} {other:?}"),
        }
        self.state()
    }

    #[track_caller]
    fn client(&mut self, flags: u8, seq: u32, ack: u32, payload_len: u32) -> TcpState {
        self.follows(false, segment(flags, seq, ack, payload_len))
    }

    #[track_caller]
    fn server(&mut self, flags: u8, seq: u32, ack: u32, payload_len: u32) -> TcpState {
        self.follows(true, segment(flags, seq, ack, payload_len))
    }

    /// Whether a SYN of the client is let through, and nothing but a note of it changes.
    fn lets_syn_through(&self, seq: u32) -> bool {
        let noted = match self.step(false, &segment(SYN, seq, 0, 0)) {
            Step::PassesNoted(noted) => noted,
            other => return other == Step::Passes,
        };
        let without = |track: &Track| Track { state: track.state & ((1 << AGAIN_SHIFT) - 1) & !AGAIN, ..*track };
        without(&noted) == without(&self.client) && Self { client: noted, ..*self }.state() == self.state()
    }

    fn state(&self) -> TcpState {
        TcpState::of(&self.client, &self.server)
    }

    fn timeout_s(&self, client_seen_s: u32, server_seen_s: u32) -> u32 {
        let client = Side { track: self.client, seen_s: client_seen_s };
        let server = Side { track: self.server, seen_s: server_seen_s };
        self.state().timeout_s(&client, &server, &Timeouts::default())
    }

    /// The client's next byte is 0, across the wrap; the server's is 5001. Windows of 500 << 7.
    fn established() -> Self {
        let mut pair = Self::begun_by(segment(SYN, u32::MAX, 0, 0));
        pair.server(SYN | ACK, 5000, 0, 0);
        assert_eq!(pair.client(ACK, 0, 5001, 0), TcpState::Established);
        pair.server(ACK, 5001, 0, 0);
        pair
    }
}

const WINDOW: u32 = 500 << 7;

#[test]
fn a_connection_lives_from_syn_to_time_wait_across_the_wrap_of_its_sequence() {
    let mut pair = Pair::begun_by(segment(SYN, u32::MAX, 0, 0));
    assert_eq!((pair.state(), pair.timeout_s(1, 0)), (TcpState::SynSent, 120));
    assert_eq!(pair.server(SYN | ACK, 5000, 0, 0), TcpState::SynRecv);
    assert_eq!(pair.timeout_s(1, 1), 60);
    assert_eq!(pair.client(ACK, 0, 5001, 0), TcpState::Established);
    assert_eq!(pair.timeout_s(1, 1), 432_000);
    pair.client(ACK, 0, 5001, 100);
    assert_eq!(pair.timeout_s(1, 1), 300, "something is unacknowledged");
    pair.server(ACK, 5001, 100, 200);
    assert_eq!((pair.client.end, pair.server.end, pair.server.ack), (100, 5201, 100));
    assert_eq!(pair.client(FIN | ACK, 100, 5201, 0), TcpState::FinWait);
    assert_eq!(pair.timeout_s(1, 1), 120);
    assert_eq!(pair.server(ACK, 5201, 101, 50), TcpState::CloseWait);
    assert_eq!(pair.timeout_s(1, 1), 60);
    assert_eq!(pair.server(FIN | ACK, 5251, 101, 0), TcpState::LastAck);
    assert_eq!(pair.timeout_s(1, 1), 30);
    assert_eq!(pair.client(ACK, 101, 5252, 0), TcpState::TimeWait);
    assert_eq!(pair.timeout_s(1, 1), 120);
}

#[test]
fn data_outside_the_window_is_refused_on_either_side_of_it() {
    let mut pair = Pair::established();
    pair.client(ACK, 0, 5001, 100_000);
    pair.server(ACK, 5001, 100_000, 0);
    for (seq, payload_len, expected) in [
        (100_000 + WINDOW, 1, true),
        (100_001 + WINDOW, 1, false),
        (100_000 - WINDOW, 1, true),
        (100_000 - WINDOW - 2, 1, false),
        (100_000 - WINDOW - 50, 100, true),
        (1 << 31, 1, false),
    ] {
        let step = pair.step(false, &segment(ACK, seq, 5001, payload_len));
        assert_eq!(matches!(step, Step::Follows(_)), expected, "{seq} {step:?}");
        assert!(expected || step == OUT_OF_WINDOW);
    }
}

#[test]
fn what_was_never_sent_cannot_be_acknowledged_nor_what_is_long_gone() {
    let mut pair = Pair::established();
    for n in 0..4 {
        pair.server(ACK, 5001 + n * 50_000, 0, 50_000);
        pair.client(ACK, 0, 5001 + n * 50_000 + 50_000, 0);
    }
    let sent = 205_001;
    for (ack, expected) in [(sent, true), (sent + 1, false), (sent - 66_000, true), (sent - 66_001, false), (0, false)]
    {
        let step = pair.step(false, &segment(ACK, 0, ack, 10));
        assert_eq!(matches!(step, Step::Follows(_)), expected, "{ack} {step:?}");
    }
}

#[test]
fn a_blind_reset_changes_nothing_and_an_exact_one_closes() {
    let mut pair = Pair::established();
    pair.client(ACK, 0, 5001, 100);
    pair.server(ACK, 5001, 100, 0);
    for (seq, expected) in [
        (99, OUT_OF_WINDOW),
        (101, Step::Passes),
        (100 + WINDOW, Step::Passes),
        (101 + WINDOW, OUT_OF_WINDOW),
        (1 << 31, OUT_OF_WINDOW),
        (u32::MAX, OUT_OF_WINDOW),
    ] {
        assert_eq!(pair.step(false, &segment(RST, seq, 0, 0)), expected, "{seq}");
    }
    let mut after_all_sent = pair;
    assert_eq!(after_all_sent.client(RST, 100, 0, 0), TcpState::Close);
    assert_eq!(pair.step(false, &segment(RST | ACK, 100, 4_000_000, 0)), OUT_OF_WINDOW, "acknowledges nothing sent");
    // 100 more bytes are under way and the client dies: its reset stands at the last acknowledgment or at the end.
    pair.client(ACK, 100, 5001, 100);
    let mut at_the_ack = pair;
    assert_eq!(at_the_ack.client(RST, 100, 0, 0), TcpState::Close);
    assert_eq!(pair.client(RST | ACK, 200, 5001, 0), TcpState::Close);
}

#[test]
fn a_refused_connection_closes_only_by_a_reset_that_acknowledges_the_syn() {
    let mut pair = Pair::begun_by(segment(SYN, 700, 0, 0));
    assert_eq!(pair.step(true, &segment(RST | ACK, 0, 700, 0)), OUT_OF_WINDOW);
    assert_eq!(pair.step(true, &segment(RST, 0, 0, 0)), OUT_OF_WINDOW);
    assert_eq!(pair.server(RST | ACK, 0, 701, 0), TcpState::Close);
}

#[test]
fn a_fin_counts_where_it_stands_in_the_window_and_not_before_data_that_was_sent() {
    let mut pair = Pair::established();
    // 1000 bytes before it are lost.
    assert_eq!(pair.client(FIN | ACK, 1000, 5001, 10), TcpState::FinWait);
    let mut pair = Pair::established();
    pair.client(ACK, 0, 5001, 1000);
    assert_eq!(pair.client(FIN | ACK, 500, 5001, 0), TcpState::Established);
    assert_eq!(pair.step(false, &segment(FIN | ACK, 1 << 30, 5001, 0)), OUT_OF_WINDOW);
}

#[test]
fn before_the_handshake_is_through_only_its_segments_count() {
    let pair = Pair::begun_by(segment(SYN, 700, 0, 0));
    for flags in [ACK, FIN | ACK, SYN | ACK, 0] {
        assert_eq!(pair.step(false, &segment(flags, 701, 5001, 0)), BAD_STATE, "{flags}");
    }
    assert_eq!(pair.step(true, &segment(FIN | ACK, 5000, 701, 0)), BAD_STATE);
    assert_eq!(pair.step(true, &segment(ACK, 77, 88, 0)), Step::Passes, "the remains of an old connection answer");
    assert_eq!(pair.step(true, &segment(SYN | ACK, 5000, 702, 0)), OUT_OF_WINDOW, "acknowledges what was not sent");
    assert_eq!(pair.step(false, &segment(SYN, 700, 0, 0)), Step::Passes, "the same SYN again");
    assert!(pair.lets_syn_through(600), "an older SYN, or a client that has forgotten this one");
    let mut newer = pair;
    assert_eq!(newer.client(SYN, 800, 0, 0), TcpState::SynSent);
    assert_eq!(newer.client.end, 801);
}

#[test]
fn data_in_the_syn_and_before_the_handshake_is_through() {
    let mut pair = Pair::begun_by(segment(SYN, 700, 0, 100));
    let mut refused = pair;
    assert_eq!(refused.server(SYN | ACK, 5000, 701, 0), TcpState::SynRecv, "the data has to come again");
    assert_eq!(pair.server(SYN | ACK, 5000, 801, 0), TcpState::SynRecv);
    pair.server(ACK, 5001, 801, 400);
    assert_eq!(pair.client(ACK, 801, 5401, 0), TcpState::Established);
}

#[test]
fn both_sides_call_at_once() {
    let mut pair = Pair::begun_by(segment(SYN, 100, 0, 0));
    assert_eq!(pair.server(SYN, 900, 0, 0), TcpState::SynSent2);
    assert_eq!(pair.step(true, &segment(SYN, 900, 0, 0)), Step::Passes, "repeated");
    assert_eq!(pair.step(false, &segment(SYN, 100, 0, 0)), Step::Passes, "repeated");
    assert_eq!(pair.client(SYN | ACK, 100, 901, 0), TcpState::SynRecv);
    assert_eq!(pair.server(SYN | ACK, 900, 101, 0), TcpState::Established);
    pair.client(ACK, 101, 901, 10);
    pair.server(ACK, 901, 111, 10);
}

#[test]
fn a_syn_on_a_living_connection_goes_on_to_be_challenged_and_changes_nothing() {
    let pair = Pair::established();
    for seq in [0, 1, 1 << 31, u32::MAX] {
        assert!(pair.lets_syn_through(seq));
        assert_eq!(pair.step(true, &segment(SYN | ACK, seq, 0, 0)), Step::Passes);
        assert_eq!(pair.step(true, &segment(SYN, seq, 0, 0)), BAD_STATE, "who answers does not call");
    }
}

#[test]
fn only_a_syn_beyond_the_old_sequence_reuses_a_finished_tuple() {
    let mut pair = Pair::established();
    let fresh = segment(SYN, 90_000, 0, 0);
    assert!(pair.lets_syn_through(90_000), "established");
    pair.client(FIN | ACK, 0, 5001, 0);
    assert!(pair.lets_syn_through(90_000), "half closed");
    pair.server(FIN | ACK, 5001, 1, 0);
    assert!(pair.lets_syn_through(90_000), "the last FIN is not acknowledged");
    pair.client(ACK, 1, 5002, 0);
    assert_eq!(pair.step(false, &fresh), Step::Over);
    assert!(pair.lets_syn_through(0), "an old duplicate");
    let mut reset = Pair::established();
    reset.server(RST, 5001, 0, 0);
    assert_eq!(reset.step(false, &segment(SYN, 3, 0, 0)), Step::Over, "after a reset any SYN");
}

#[test]
fn windows_are_scaled_if_both_sides_offered_it_and_never_those_of_a_syn() {
    let mut pair = Pair::begun_by(segment(SYN, 0, 0, 0));
    assert_eq!(pair.client.window_to(&pair.server), 500);
    pair.server(SYN | ACK, 5000, 1, 0);
    pair.client(ACK, 1, 5001, 0);
    assert_eq!((pair.client.window_to(&pair.server), pair.server.window_to(&pair.client)), (WINDOW, 500));
    pair.server.state &= !WSCALE;
    assert_eq!(pair.client.window_to(&pair.server), 500);
}

#[test]
fn a_connection_picked_up_in_the_middle_is_judged_as_far_as_it_is_known() {
    let mut pair = Pair::begun_by(segment(ACK, 1000, 7000, 100));
    assert_eq!((pair.state(), pair.timeout_s(1, 0)), (TcpState::Established, 300));
    // Its answers may go another way.
    pair.client(ACK, 500_000, 9_000_000, 100);
    assert_eq!(pair.step(true, &segment(ACK, 9_000_000, 1 << 30, 0)), OUT_OF_WINDOW);
    pair.server(ACK, 9_000_000, 500_100, 0);
    assert_eq!(pair.timeout_s(1, 1), 432_000);
    // The scale of its windows is not known, so they are as large as can be.
    pair.client(ACK, 1_500_000, 9_000_000, 100);
    assert_eq!(pair.step(false, &segment(ACK, 1 << 31, 9_000_000, 100)), OUT_OF_WINDOW);
}

#[test]
fn who_repeats_himself_in_vain_is_stalled() {
    let mut pair = Pair::established();
    for _ in 0..3 {
        assert_eq!(pair.timeout_s(9, 5), 432_000);
        // A keep-alive.
        pair.client(ACK, u32::MAX, 5001, 0);
    }
    assert_eq!(pair.timeout_s(9, 5), 300);
    assert_eq!(pair.timeout_s(9, 9), 432_000, "the other side is heard");
    pair.client(ACK, 0, 5001, 10);
    pair.server(ACK, 5001, 10, 0);
    assert_eq!(pair.timeout_s(9, 5), 432_000);
}

#[test]
fn liberal_refuses_only_resets_and_moves_no_window() {
    let pair = Pair::established();
    let outside = segment(FIN | ACK, 1 << 30, 5001, 10);
    let Step::Follows(next) = pair.client.follow(&pair.server, false, true, &outside) else { panic!("refused") };
    assert_eq!(next, Track { state: pair.client.state | atalho_layout::state::FIN, ..pair.client });
    let reset = segment(RST, 1 << 30, 0, 0);
    assert_eq!(pair.client.follow(&pair.server, false, true, &reset), OUT_OF_WINDOW);
}

#[test]
fn a_connection_that_both_ends_begin_anew_is_followed_from_the_handshake_on() {
    for half_closed in [false, true] {
        let mut pair = Pair::established();
        if half_closed {
            // The last acknowledgment was lost on the way here.
            pair.client(FIN | ACK, 0, 5001, 0);
            pair.server(FIN | ACK, 5001, 1, 0);
        }
        let before = pair;
        let syn = segment(SYN, 1 << 30, 0, 0);
        let Step::PassesNoted(noted) = pair.step(false, &syn) else { panic!("{:?}", pair.step(false, &syn)) };
        pair.client = noted;
        assert_eq!(pair.state(), before.state());
        // A forger's answer to another SYN, and a challenge, change nothing.
        assert!(matches!(pair.step(true, &segment(SYN | ACK, 7000, 99, 0)), Step::Passes));
        pair.server(SYN | ACK, 7000, (1 << 30) + 1, 0);
        assert_eq!(pair.client(ACK, (1 << 30) + 1, 7001, 0), TcpState::Established);
        pair.client(ACK, (1 << 30) + 1, 7001, 100);
        pair.server(ACK, 7001, (1 << 30) + 101, 100);
        pair.client(FIN | ACK, (1 << 30) + 101, 7101, 0);
    }
}

#[test]
fn a_noted_syn_is_forgotten_with_the_next_segment_of_the_connection() {
    let mut pair = Pair::established();
    let Step::PassesNoted(noted) = pair.step(false, &segment(SYN, 1 << 30, 0, 0)) else { panic!("let through") };
    pair.client = noted;
    pair.client(ACK, 0, 5001, 100);
    assert_eq!(pair.step(true, &segment(SYN | ACK, 7000, (1 << 30) + 1, 0)), Step::Passes);
}

#[test]
fn a_client_that_calls_again_from_a_lower_number_is_heard_when_it_is_answered() {
    let mut pair = Pair::begun_by(segment(SYN, 500_000, 0, 0));
    let Step::PassesNoted(noted) = pair.step(false, &segment(SYN, 1000, 0, 0)) else { panic!("let through") };
    pair.client = noted;
    pair.server(SYN | ACK, 5000, 1001, 0);
    assert_eq!(pair.client(ACK, 1001, 5001, 0), TcpState::Established);
    pair.client(ACK, 1001, 5001, 100);
    pair.server(ACK, 5001, 1101, 0);
}

#[test]
fn the_latest_answer_counts_until_one_is_acknowledged() {
    let mut pair = Pair::begun_by(segment(SYN, 500, 0, 0));
    pair.server(SYN | ACK, 1 << 30, 501, 0);
    pair.server(SYN | ACK, 5000, 501, 0);
    assert_eq!(pair.step(true, &segment(SYN | ACK, 5000, 501, 0)), Step::Passes, "repeated");
    pair.server(SYN | ACK, 900_000, 501, 0);
    assert_eq!(pair.client(ACK, 501, 900_001, 0), TcpState::Established);
    assert_eq!(pair.step(true, &segment(SYN | ACK, 1_000_000, 501, 0)), Step::Passes);
}

#[test]
fn an_acknowledgment_belongs_though_its_sender_is_ahead_of_a_window_that_shrank() {
    let mut pair = Pair::established();
    pair.server(FIN | ACK, 5001 + WINDOW - 10, 0, 5);
    let mut narrow = segment(ACK, 0, 5001, 50);
    narrow.window = 1;
    pair.follows(false, narrow);
    pair.server(ACK, 5001, 50, 0);
}
