//! TCP connections: beginnings, middles and ends, what belongs to them and what does not, and a tuple used again.

use std::collections::HashSet;

use atalho_engine::conntrack::ConnectionState;
use atalho_engine::conntrack::TcpState::{self, *};
use atalho_engine::pipeline::Slot;
use atalho_engine::tables::Settings;
use atalho_engine::verdict::{DropReason, Verdict};

use crate::lab::packet::{Layer4, Packet, SYN, SYN_ACK, verify};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 9293 section 3.10.7", "a connection is picked up in its middle, or not, as configured", middles),
    vector("RFC 9293 section 3.10.7", "a batch that begins and continues a flow makes one connection", one_batch),
    vector("RFC 9293 section 3.6", "a connection closes in the usual order", usual_close),
    vector("RFC 9293 section 3.6", "both sides close at once", simultaneous_close),
    vector("RFC 9293 section 3.5", "both sides open at once", simultaneous_open),
    vector("RFC 9293 section 3.5.1", "a client that has forgotten its connection", half_open_client),
    vector("RFC 9293 section 3.5.1", "a server that has forgotten its connection", half_open_server),
    vector("RFC 9293 section 3.5", "an old duplicate of a SYN, and what answers it", old_duplicate_syn),
    vector("RFC 9293 section 3.6.1", "a tuple is used again beyond its old sequence", time_wait),
    vector("RFC 9293 section 3.6.1", "and within one batch", reuse_in_one_batch),
    vector("RFC 9293 section 3.4", "a segment outside the window, before it and behind it", outside_the_window),
    vector("RFC 7323 section 2.2", "windows scaled, and not scaled", scaled_windows),
    vector("RFC 9293 section 3.8.6.1", "a window that is closed, and probed", closed_window),
    vector("RFC 9293 section 3.8.4", "a keep-alive", keep_alive),
    vector("RFC 5961 section 3", "a reset in the window, outside of it, and where it must stand", resets),
    vector("RFC 5961 section 4", "a SYN in the window and outside of it", blind_syns),
    vector("RFC 5961 section 5", "an acknowledgment of what was not sent, and of what is long gone", blind_data),
    vector("RFC 9293 section 3.10.7.3", "a refused connection, and a refusal that is none", refused),
    vector("RFC 5382 section 5", "each state lives as long as it is set to", timeouts),
    vector("RFC 5382 section 5", "what is refused keeps nothing alive", refused_packets_keep_nothing_alive),
    vector("RFC 5382 section 5", "liberal: only resets are refused", liberal),
];

const FIN_ACK: Layer4 = Layer4::Tcp(17);
const ACK: Layer4 = Layer4::Tcp(16);
const RST: Layer4 = Layer4::Tcp(4);
const RST_ACK: Layer4 = Layer4::Tcp(20);
const WINDOW: u32 = 1000 << 7;

/// A connection of a pod to a Service, on the wire. Both sides count from 0; the client's numbers wrap soon.
struct Talk {
    f: Family,
    lab: Lab,
}

const CLIENT_ISN: u32 = u32::MAX - 20;
const SERVER_ISN: u32 = 7_000_000;

impl Talk {
    fn new(f: Family) -> Self {
        Self { f, lab: Lab::new() }
    }

    fn client(&self, flags: Layer4, seq: u32, ack: u32, bytes: usize) -> Packet {
        let (seq, ack) = (CLIENT_ISN.wrapping_add(seq), SERVER_ISN.wrapping_add(ack));
        Packet::new((self.f.client(), 40_000), flags, (self.f.vip_local(), 80))
            .sequence(seq)
            .acknowledges(ack)
            .window(1000)
            .payload(&vec![0x55; bytes])
    }

    fn server(&self, flags: Layer4, seq: u32, ack: u32, bytes: usize) -> Packet {
        let (seq, ack) = (SERVER_ISN.wrapping_add(seq), CLIENT_ISN.wrapping_add(ack));
        Packet::new((self.f.web(), 8080), flags, (self.f.client(), 40_000))
            .sequence(seq)
            .acknowledges(ack)
            .window(1000)
            .payload(&vec![0x55; bytes])
    }

    fn state(&self) -> Option<TcpState> {
        let connection = self.lab.table.connections().next()?;
        match connection.state {
            ConnectionState::Tcp(state) => Some(state),
            other => panic!("{other:?}"),
        }
    }

    /// The client sends, the packet goes on, and the connection is in this state.
    #[track_caller]
    fn asks(&mut self, flags: Layer4, seq: u32, ack: u32, bytes: usize, state: TcpState) {
        self.lab.forwarded("client", CLIENT, &self.client(flags, seq, ack, bytes), HOP_WEB);
        assert_eq!(self.state(), Some(state));
    }

    #[track_caller]
    fn answers(&mut self, flags: Layer4, seq: u32, ack: u32, bytes: usize, state: TcpState) {
        self.lab.forwarded("server", WEB, &self.server(flags, seq, ack, bytes), HOP_CLIENT);
        assert_eq!(self.state(), Some(state));
    }

    #[track_caller]
    fn client_is_refused(&mut self, flags: Layer4, seq: u32, ack: u32, bytes: usize, reason: DropReason) {
        let before = self.state();
        self.lab.drops("client", CLIENT, &self.client(flags, seq, ack, bytes).build(), reason);
        assert_eq!(self.state(), before);
    }

    #[track_caller]
    fn server_is_refused(&mut self, flags: Layer4, seq: u32, ack: u32, bytes: usize, reason: DropReason) {
        let before = self.state();
        self.lab.drops("server", WEB, &self.server(flags, seq, ack, bytes).build(), reason);
        assert_eq!(self.state(), before);
    }

    /// Next bytes: 1 of either side.
    fn established(f: Family) -> Self {
        let mut talk = Self::new(f);
        talk.asks(SYN, 0, 0, 0, SynSent);
        talk.answers(SYN_ACK, 0, 1, 0, SynRecv);
        talk.asks(ACK, 1, 1, 0, Established);
        talk.answers(ACK, 1, 1, 0, Established);
        talk
    }

    /// Closed by both; next bytes: 2.
    fn closed(f: Family) -> Self {
        let mut talk = Self::established(f);
        talk.asks(FIN_ACK, 1, 1, 0, FinWait);
        talk.answers(FIN_ACK, 1, 2, 0, LastAck);
        talk.asks(ACK, 2, 2, 0, TimeWait);
        talk
    }

    /// Time passes, and what is idle goes.
    fn wait(&mut self, seconds: u32) {
        self.lab.now_s += seconds;
        let timeouts = self.lab.tables.settings.timeouts;
        self.lab.expire(&timeouts);
    }
}

fn middles() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let middle = Packet::new((f.client(), 40_000), ACK, (f.web(), 8080));
        lab.forwarded("picked up", CLIENT, &middle, HOP_WEB);
        lab.forwarded("goes on", CLIENT, &middle.clone().sequence(0x0102_0404), HOP_WEB);
        let answer = Packet::new((f.web(), 8080), ACK, (f.client(), 40_000));
        lab.forwarded("answered", WEB, &answer, HOP_CLIENT);
        let false_answer = answer.acknowledges(0x4102_0404).build();
        lab.drops("acknowledges what was not sent", WEB, &false_answer, DropReason::TcpOutOfWindow);
        let reset = Packet::new((f.client(), 40_001), RST, (f.web(), 8080));
        lab.drops("a reset of nothing", CLIENT, &reset.build(), DropReason::TcpNotSyn);
        lab.tables.settings = Settings { tcp_loose: false, ..Default::default() }.into();
        let middle = Packet::new((f.client(), 40_002), ACK, (f.web(), 8080));
        lab.drops("not picked up", CLIENT, &middle.build(), DropReason::TcpNotSyn);
    }
}

fn one_batch() {
    // In the middle of the batch the rest of a connection to a Service is nothing without its beginning.
    let asked = |f: Family| [(f.far(), HOP_GATEWAY), (f.vip_remote(), HOP_OTHER_NODE)];
    for (asked, next_hop) in FAMILIES.into_iter().flat_map(asked) {
        let mut lab = Lab::new();
        let client = if asked.is_ipv4() { Family::V4.client() } else { Family::V6.client() };
        let packet = Packet::new((client, 40_000), SYN, (asked, 80)).build();
        let mut frames = vec![packet; 200];
        let mut batch: Vec<Slot<'_>> = frames.iter_mut().map(|frame| Slot::new(frame, CLIENT)).collect();
        lab.engine.process(&lab.tables, lab.now_s, &mut batch);
        for slot in &batch {
            assert_eq!(slot.verdict, Verdict::Forward { next_hop });
        }
        let sources: HashSet<_> = frames.iter().map(|frame| verify(frame).src).collect();
        assert_eq!(sources.len(), 1, "one masqueraded source for all");
        assert_eq!(lab.table.count(), 1);
        assert_eq!(lab.books().received, 200);
    }
}

fn usual_close() {
    for f in FAMILIES {
        let mut talk = Talk::established(f);
        talk.asks(ACK, 1, 1, 100, Established);
        talk.answers(ACK, 1, 101, 500, Established);
        talk.answers(FIN_ACK, 501, 101, 0, FinWait);
        talk.asks(ACK, 101, 502, 50, CloseWait);
        talk.answers(ACK, 502, 151, 0, CloseWait);
        talk.asks(FIN_ACK, 151, 502, 0, LastAck);
        talk.asks(FIN_ACK, 151, 502, 0, LastAck);
        talk.answers(ACK, 502, 152, 0, TimeWait);
    }
}

fn simultaneous_close() {
    for f in FAMILIES {
        let mut talk = Talk::established(f);
        talk.asks(FIN_ACK, 1, 1, 0, FinWait);
        talk.answers(FIN_ACK, 1, 1, 0, LastAck);
        talk.asks(ACK, 2, 2, 0, LastAck);
        talk.answers(ACK, 2, 2, 0, TimeWait);
    }
}

fn simultaneous_open() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let (one, other) = ((f.client(), 5000), (f.web(), 6000));
        let from_one = |flags| Packet::new(one, flags, other).payload(b"");
        let from_other = |flags| Packet::new(other, flags, one).payload(b"");
        for flags in [SYN, SYN_ACK] {
            lab.forwarded("one", CLIENT, &from_one(flags), HOP_WEB);
            lab.forwarded("the other", WEB, &from_other(flags), HOP_CLIENT);
        }
        assert_eq!(lab.table.count(), 1);
        assert_eq!(lab.table.connections().next().unwrap().state, ConnectionState::Tcp(Established));
        let next = 0x0102_0305;
        lab.forwarded("data", WEB, &from_other(ACK).sequence(next).payload(b"data"), HOP_CLIENT);
    }
}

/// RFC 9293 section 3.5.1, figure 9: SYN, challenge, reset, SYN.
fn half_open_client() {
    for f in FAMILIES {
        let mut talk = Talk::established(f);
        talk.asks(ACK, 1, 1, 100, Established);
        talk.answers(ACK, 1, 101, 0, Established);
        talk.asks(SYN, 9_000_000, 0, 0, Established);
        talk.answers(ACK, 1, 101, 0, Established);
        talk.asks(RST, 101, 0, 0, Close);
        talk.asks(SYN, 9_000_000, 0, 0, SynSent);
        talk.answers(SYN_ACK, 0, 9_000_001, 0, SynRecv);
        assert_eq!(talk.lab.books().admitted, 2);
        assert_eq!(talk.lab.table.count(), 1);
    }
}

fn half_open_server() {
    for f in FAMILIES {
        let mut talk = Talk::established(f);
        talk.answers(ACK, 1, 1, 300, Established);
        talk.asks(ACK, 1, 301, 100, Established);
        // It answers with the number that it is said to expect.
        talk.answers(RST, 301, 0, 0, Close);
        talk.asks(SYN, 4, 0, 0, SynSent);
    }
}

fn old_duplicate_syn() {
    for f in FAMILIES {
        let mut talk = Talk::new(f);
        talk.asks(SYN, 1000, 0, 0, SynSent);
        // Whether it is that or a client that begins anew, the answer tells.
        talk.asks(SYN, 10, 0, 0, SynSent);
        talk.client_is_refused(ACK, 1001, 1, 10, DropReason::TcpBadState);
        // Something left on the server answers.
        talk.answers(ACK, 70_000, 80_000, 0, SynSent);
        talk.server_is_refused(SYN_ACK, 0, 1002, 0, DropReason::TcpOutOfWindow);
        talk.answers(SYN_ACK, 0, 11, 0, SynRecv);
        talk.asks(RST, 11, 0, 0, Close);
        talk.asks(SYN, 1000, 0, 0, SynSent);
        talk.server_is_refused(FIN_ACK, 0, 1001, 0, DropReason::TcpBadState);
        talk.answers(SYN_ACK, 0, 1001, 0, SynRecv);
    }
}

fn time_wait() {
    for f in FAMILIES {
        let mut talk = Talk::closed(f);
        let old = talk.lab.table.connections().next().unwrap().at;
        talk.asks(SYN, 1, 0, 0, TimeWait);
        talk.asks(SYN, (1 << 31) + 10, 0, 0, TimeWait);
        assert_eq!(talk.lab.table.connections().next().unwrap().at, old);
        talk.asks(SYN, 3, 0, 0, SynSent);
        assert_ne!(talk.lab.table.connections().next().unwrap().at, old);
        assert_eq!(talk.lab.table.count(), 1);
        // What the old connection still says is for the client to reset, and begins nothing.
        talk.answers(ACK, 2, 2, 10, SynSent);
    }
}

fn reuse_in_one_batch() {
    for f in FAMILIES {
        let mut talk = Talk::closed(f);
        let reused = [(SYN, 100, 0), (SYN, 100, 0)].map(|(flags, seq, ack)| talk.client(flags, seq, ack, 0).build());
        let late = talk.client(ACK, 2, 2, 0).build();
        let mut frames = [late, reused[0].clone(), reused[1].clone()];
        let mut batch: Vec<Slot<'_>> = frames.iter_mut().map(|frame| Slot::new(frame, CLIENT)).collect();
        talk.lab.engine.process(&talk.lab.tables, talk.lab.now_s, &mut batch);
        assert!(batch.iter().all(|slot| slot.verdict == Verdict::Forward { next_hop: HOP_WEB }));
        assert_eq!((talk.state(), talk.lab.table.count()), (Some(SynSent), 1));
    }
}

fn outside_the_window() {
    for f in FAMILIES {
        let mut talk = Talk::established(f);
        for seq in [2 + WINDOW, 1 << 30, 1 << 31, 1u32.wrapping_sub(WINDOW).wrapping_sub(12)] {
            talk.client_is_refused(ACK, seq, 1, 10, DropReason::TcpOutOfWindow);
            talk.client_is_refused(FIN_ACK, seq, 1, 10, DropReason::TcpOutOfWindow);
            talk.server_is_refused(ACK, seq, 1, 10, DropReason::TcpOutOfWindow);
        }
        // The refused ones have moved nothing: the right ones still are.
        talk.asks(ACK, 1, 1, 1400, Established);
        talk.answers(ACK, 1, 1401, 1400, Established);
        talk.asks(ACK, 1401 + WINDOW - 10, 1401, 1400, Established);
        talk.asks(ACK, 1, 1401, 1400, Established);
    }
}

fn scaled_windows() {
    for f in FAMILIES {
        // The answer offers no scaling, so neither is scaled. (Its options are taken away: the data offset is 5 words.)
        let mut talk = Talk::new(f);
        talk.asks(SYN, 0, 0, 0, SynSent);
        let mut unscaled = talk.server(SYN_ACK, 0, 1, 0).build();
        let options = unscaled.len() - 4;
        unscaled[options..].copy_from_slice(&[1, 1, 1, 1]);
        mend_tcp(f, &mut unscaled);
        assert_eq!(talk.lab.send(WEB, &unscaled).verdict, Verdict::Forward { next_hop: HOP_CLIENT });
        talk.asks(ACK, 1, 1, 0, Established);
        talk.answers(ACK, 1, 1, 0, Established);
        talk.client_is_refused(ACK, 1002, 1, 10, DropReason::TcpOutOfWindow);
        talk.asks(ACK, 1001, 1, 10, Established);
    }
}

/// The checksum of the TCP segment in a frame, anew.
fn mend_tcp(f: Family, frame: &mut [u8]) {
    let at = if f == Family::V4 { 34 } else { 54 };
    let segment = etherparse::TcpSlice::from_slice(&frame[at..]).unwrap();
    let sum = match f {
        Family::V4 => {
            let ip = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap();
            segment.calc_checksum_ipv4(ip.source(), ip.destination()).unwrap()
        }
        Family::V6 => {
            let ip = etherparse::Ipv6HeaderSlice::from_slice(&frame[14..]).unwrap();
            segment.calc_checksum_ipv6(ip.source(), ip.destination()).unwrap()
        }
    };
    frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
}

fn closed_window() {
    for f in FAMILIES {
        let mut talk = Talk::new(f);
        talk.asks(SYN, 0, 0, 0, SynSent);
        talk.answers(SYN_ACK, 0, 1, 0, SynRecv);
        talk.asks(ACK, 1, 1, 0, Established);
        let closed = talk.server(ACK, 1, 1, 0).window(0);
        talk.lab.forwarded("a window of zero", WEB, &closed, HOP_CLIENT);
        talk.asks(ACK, 1, 1, 1, Established);
        talk.client_is_refused(ACK, 3, 1, 10, DropReason::TcpOutOfWindow);
    }
}

fn keep_alive() {
    for f in FAMILIES {
        for garbage in [0, 1] {
            let mut talk = Talk::established(f);
            talk.asks(ACK, 1, 1, 100, Established);
            talk.answers(ACK, 1, 101, 0, Established);
            talk.asks(ACK, 100, 1, garbage, Established);
            talk.answers(ACK, 1, 101, 0, Established);
        }
    }
}

fn resets() {
    for f in FAMILIES {
        let mut talk = Talk::established(f);
        talk.asks(ACK, 1, 1, 100, Established);
        talk.answers(ACK, 1, 101, 50, Established);
        for seq in [0, 100, 102 + WINDOW, 1 << 31, u32::MAX] {
            talk.client_is_refused(RST, seq, 0, 0, DropReason::TcpOutOfWindow);
        }
        for seq in [102, 5000, 101 + WINDOW] {
            talk.asks(RST, seq, 0, 0, Established);
        }
        talk.client_is_refused(RST_ACK, 101, 52, 0, DropReason::TcpOutOfWindow);
        for (flags, seq) in [(RST, 101), (RST_ACK, 101)] {
            let mut talk = Talk::established(f);
            talk.asks(ACK, 1, 1, 100, Established);
            talk.answers(ACK, 1, 101, 50, Established);
            talk.asks(flags, seq, 51, 0, Close);
        }
    }
}

fn blind_syns() {
    for f in FAMILIES {
        let mut talk = Talk::established(f);
        for seq in [0, 1, 5000, 1 << 31] {
            talk.asks(SYN, seq, 0, 0, Established);
            talk.answers(SYN_ACK, seq, 1, 0, Established);
            talk.server_is_refused(SYN, seq, 0, 0, DropReason::TcpBadState);
        }
        talk.asks(ACK, 1, 1, 100, Established);
        assert_eq!(talk.lab.books().admitted, 1);
    }
}

fn blind_data() {
    for f in FAMILIES {
        let mut talk = Talk::established(f);
        for n in 0..3 {
            talk.asks(ACK, 1 + n * 1400, 1, 1400, Established);
        }
        let sent = 1 + 3 * 1400;
        talk.server_is_refused(ACK, 1, sent + 1, 10, DropReason::TcpOutOfWindow);
        talk.server_is_refused(ACK, 1, 1 << 31, 10, DropReason::TcpOutOfWindow);
        talk.server_is_refused(ACK, 1, sent.wrapping_sub(WINDOW).wrapping_sub(1), 10, DropReason::TcpOutOfWindow);
        talk.answers(ACK, 1, sent.wrapping_sub(WINDOW), 10, Established);
        talk.answers(ACK, 11, sent, 10, Established);
    }
}

fn refused() {
    for f in FAMILIES {
        let mut talk = Talk::new(f);
        talk.asks(SYN, 0, 0, 0, SynSent);
        talk.server_is_refused(RST, 0, 0, 0, DropReason::TcpOutOfWindow);
        talk.server_is_refused(RST_ACK, 0, 2, 0, DropReason::TcpOutOfWindow);
        talk.answers(RST_ACK, 0, 1, 0, Close);
        talk.asks(SYN, 0, 0, 0, SynSent);
        assert_eq!(talk.lab.books().admitted, 2);
    }
}

fn timeouts() {
    let f = Family::V4;
    let half_closed = || {
        let mut talk = Talk::established(f);
        talk.asks(FIN_ACK, 1, 1, 0, FinWait);
        talk
    };
    let mut cases: Vec<(&str, Talk, u32)> = Vec::new();
    let mut talk = Talk::new(f);
    talk.asks(SYN, 0, 0, 0, SynSent);
    cases.push(("SYN_SENT", talk, 120));
    let mut talk = Talk::new(f);
    talk.asks(SYN, 0, 0, 0, SynSent);
    talk.answers(SYN_ACK, 0, 1, 0, SynRecv);
    cases.push(("SYN_RECV", talk, 60));
    cases.push(("ESTABLISHED", Talk::established(f), 432_000));
    let mut talk = Talk::established(f);
    talk.asks(ACK, 1, 1, 10, Established);
    cases.push(("something unacknowledged", talk, 300));
    cases.push(("FIN_WAIT", half_closed(), 120));
    let mut talk = half_closed();
    talk.answers(ACK, 1, 2, 0, CloseWait);
    cases.push(("CLOSE_WAIT", talk, 60));
    let mut talk = half_closed();
    talk.answers(FIN_ACK, 1, 2, 0, LastAck);
    cases.push(("LAST_ACK", talk, 30));
    cases.push(("TIME_WAIT", Talk::closed(f), 120));
    let mut talk = Talk::established(f);
    talk.asks(RST, 1, 0, 0, Close);
    cases.push(("CLOSE", talk, 10));
    for (what, mut talk, timeout_s) in cases {
        talk.wait(timeout_s - 1);
        assert_eq!(talk.lab.table.count(), 1, "{what}");
        talk.wait(1);
        assert_eq!(talk.lab.table.count(), 0, "{what}");
    }
}

fn refused_packets_keep_nothing_alive() {
    let mut talk = Talk::closed(Family::V4);
    talk.wait(100);
    talk.client_is_refused(ACK, 1 << 31, 2, 10, DropReason::TcpOutOfWindow);
    talk.asks(SYN, 1, 0, 0, TimeWait);
    talk.wait(20);
    assert_eq!(talk.lab.table.count(), 0);
}

fn liberal() {
    for f in FAMILIES {
        let mut talk = Talk::established(f);
        talk.lab.tables.settings = Settings { tcp_liberal: true, ..Default::default() }.into();
        talk.asks(ACK, 1 << 30, 1, 100, Established);
        talk.answers(ACK, 1, 1 << 29, 100, Established);
        talk.client_is_refused(RST, 1 << 30, 0, 0, DropReason::TcpOutOfWindow);
        talk.asks(ACK, 1, 1, 100, Established);
    }
}
