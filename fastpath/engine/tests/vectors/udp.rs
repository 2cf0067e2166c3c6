//! UDP: lengths, and the checksum at its edges.

use atalho_engine::verdict::DropReason::*;
use atalho_engine::verdict::Verdict;

use crate::lab::damage::{changed, mended};
use crate::lab::packet::Packet;
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 768", "lengths that do not fit", lengths),
    vector("RFC 768", "a length shorter than the packet's: what is behind it is carried on", shorter),
    vector("RFC 768", "IPv4: no checksum stays no checksum", no_checksum),
    vector("RFC 8200 section 8.1", "IPv6: no checksum is refused", no_checksum_in_ipv6),
    vector("RFC 768", "a translated checksum of 0 is written as ffff", zero_is_written_as_ones),
];

fn lengths() {
    let v4 = Packet::udp((Family::V4.client(), 1), (Family::V4.web(), 2)).build();
    let mut lab = Lab::new();
    lab.drops("shorter than its header", CLIENT, &changed(&v4, &[(38, 0), (39, 7)]), BadHeaderLength);
    lab.drops("longer than its packet", CLIENT, &changed(&v4, &[(38, 9)]), BadTotalLength);
}

/// As netfilter has it. The checksum covers the datagram and not the rest.
fn shorter() {
    for f in FAMILIES {
        let short = Packet::udp((f.client(), 1), (f.vip_local(), 53)).payload(b"four");
        let mut frame = short.build();
        frame.extend(b"surplus");
        let frame = match f {
            Family::V4 => mended(&frame, &[(17, frame[17] + 7)]),
            Family::V6 => changed(&frame, &[(19, frame[19] + 7)]),
        };
        let sent = Lab::new().send(CLIENT, &frame);
        assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_WEB });
        assert!(sent.frame.ends_with(b"foursurplus"));
    }
}

fn no_checksum() {
    let f = Family::V4;
    let frame = changed(&Packet::udp((f.client(), 1), (f.vip_local(), 53)).build(), &[(40, 0), (41, 0)]);
    let sent = Lab::new().send(CLIENT, &frame);
    assert_eq!(sent.frame[40..42], [0, 0]);
}

fn no_checksum_in_ipv6() {
    let f = Family::V6;
    let frame = changed(&Packet::udp((f.client(), 1), (f.vip_local(), 53)).build(), &[(60, 0), (61, 0)]);
    Lab::new().drops("no checksum", CLIENT, &frame, BadChecksum);
}

/// Every payload of two bytes, so that some translated checksum is 0.
fn zero_is_written_as_ones() {
    let mut seen_ffff = 0;
    for f in FAMILIES {
        let mut lab = Lab::new();
        let at = if f == Family::V4 { 40 } else { 60 };
        for word in 0..=u16::MAX {
            let asked = Packet::udp((f.client(), 1), (f.vip_local(), 53)).payload(&word.to_be_bytes());
            let sent = lab.send(CLIENT, &asked.build());
            assert_ne!(sent.frame[at..at + 2], [0, 0]);
            seen_ffff += u32::from(sent.frame[at..at + 2] == [0xff, 0xff]);
        }
    }
    assert_eq!(seen_ffff, 2);
}
