//! A flood of SYNs against a table that it fills many times over: whoever is connected stays so, and who comes meanwhile
//! gets in.

mod lab;

use std::net::Ipv4Addr;

use atalho_engine::conntrack::{ConnectionState, Evictable, TcpState};
use atalho_engine::pipeline::{BATCH, Slot};
use atalho_engine::verdict::{DropReason, Verdict};
use lab::packet::{ACK, Packet, SYN, SYN_ACK};
use lab::*;

const ESTABLISHED: u32 = 10_000;
const FLOOD: u32 = 2_000_000;
/// SYNs a second, and until control has moved the epochs.
const FLOOD_PER_S: u32 = 500_000;
const FLOOD_PER_EPOCH: u32 = 25_000;

/// A host somewhere, by its number.
fn host(n: u32) -> Ipv4Addr {
    // Clear of the lab's own addresses and of what must not be a source.
    Ipv4Addr::from(0x0b00_0000 | n & 0x00ff_ffff)
}

/// Writes a source into a TCP frame over IPv4 whose checksums are not read: the header's is.
fn set_source(frame: &mut [u8], host: Ipv4Addr, port: u16, sequence: u32) {
    frame[26..30].copy_from_slice(&host.octets());
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[38..42].copy_from_slice(&sequence.to_be_bytes());
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

fn established(n: u32) -> (Ipv4Addr, u16) {
    (host(n / 50), 2000 + (n % 50) as u16)
}

struct Flood {
    template: Vec<u8>,
    random: u64,
    sent: u32,
}

impl Flood {
    /// Some SYNs from anywhere; how many got an entry.
    fn pour(&mut self, lab: &mut Lab, syns: u32) -> u32 {
        let mut frames = vec![self.template.clone(); BATCH];
        let mut admitted = 0;
        for _ in 0..syns / BATCH as u32 {
            for frame in &mut frames {
                frame.copy_from_slice(&self.template);
                self.random =
                    self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let drawn = self.random >> 16;
                // Never the host or the port of an established one.
                let source = Ipv4Addr::from(0x2c00_0000 | (drawn as u32 & 0x00ff_ffff));
                set_source(frame, source, (drawn >> 24) as u16 | 0x8000, drawn as u32);
            }
            let mut batch: Vec<Slot<'_>> = frames.iter_mut().map(|frame| Slot::new(frame, UPLINK)).collect();
            lab.engine.process(&lab.tables, lab.now_s, &mut batch);
            for slot in &batch {
                match slot.verdict {
                    Verdict::Forward { next_hop: HOP_WEB } => admitted += 1,
                    Verdict::Drop(DropReason::TableFull) => {}
                    other => panic!("{other:?}"),
                }
                lab.engine.counters().settle(slot.verdict, slot.send_len);
            }
            self.sent += BATCH as u32;
            if self.sent.is_multiple_of(FLOOD_PER_EPOCH / BATCH as u32 * BATCH as u32) {
                lab.let_epochs_pass();
            }
        }
        admitted
    }
}

#[test]
fn two_million_syns_leave_ten_thousand_connections_untouched() {
    let f = Family::V4;
    let mut lab = Lab::with_flows(65_536);
    let web = (f.web(), 8080);
    for n in 0..ESTABLISHED {
        let (address, port) = established(n);
        let client = (address.into(), port);
        lab.forwarded("SYN", UPLINK, &Packet::new(client, SYN, web).payload(b""), HOP_WEB);
        lab.forwarded("SYN-ACK", WEB, &Packet::new(web, SYN_ACK, client).payload(b""), HOP_GATEWAY);
        lab.forwarded("ACK", UPLINK, &Packet::new(client, ACK, web).payload(b""), HOP_WEB);
    }
    let template = Packet::new((host(0).into(), 1), SYN, web).payload(b"").build();
    let mut flood = Flood { template, random: 1, sent: 0 };
    let (mut admitted, mut tries, mut newcomers) = (0, 0, 0);
    while flood.sent < FLOOD {
        admitted += flood.pour(&mut lab, FLOOD_PER_S / 10);
        if flood.sent % FLOOD_PER_S < FLOOD_PER_S / 10 {
            lab.now_s += 1;
        }
        // Somebody honest, who repeats his SYN until there is an answer, as all do.
        newcomers += 1;
        let client = (host(0x00f0_0000 + newcomers).into(), 7777);
        let syn = Packet::new(client, SYN, web).payload(b"").build();
        let syn_ack = Packet::new(web, SYN_ACK, client).payload(b"").build();
        let goes_on = |sent: Sent| matches!(sent.verdict, Verdict::Forward { .. });
        while !goes_on(lab.send(UPLINK, &syn)) || {
            // A round trip later.
            admitted += flood.pour(&mut lab, FLOOD_PER_S / 100);
            !goes_on(lab.send(WEB, &syn_ack))
        } {
            tries += 1;
            // At another time of the epoch.
            admitted += flood.pour(&mut lab, FLOOD_PER_EPOCH * 13 / 10);
        }
        lab.forwarded("ACK", UPLINK, &Packet::new(client, ACK, web).payload(b""), HOP_WEB);
    }
    println!("{admitted} of {} SYNs got an entry; {newcomers} newcomers needed {tries} repetitions", flood.sent);
    assert!(tries <= 4 * newcomers, "{newcomers} newcomers needed {tries} repetitions");
    assert!(lab.books().is_even());

    let up = |state| state == ConnectionState::Tcp(TcpState::Established);
    let connected = lab.table.connections().filter(|connection| up(connection.state)).count() as u32;
    assert_eq!(connected, ESTABLISHED + newcomers);
    for n in 0..ESTABLISHED {
        let (address, port) = established(n);
        let client = (address.into(), port);
        lab.forwarded("more", UPLINK, &Packet::new(client, ACK, web).sequence(0x0102_0305), HOP_WEB);
        lab.forwarded("and back", WEB, &Packet::new(web, ACK, client).sequence(0x0102_0305), HOP_GATEWAY);
    }
    assert_eq!(lab.table.evicted(), lab.table.evicted_as(Evictable::Unanswered));
    assert!(lab.table.evicted() > u64::from(admitted) / 2);
    assert!(lab.table.check().is_clean(), "{}", lab.table.check());
}
