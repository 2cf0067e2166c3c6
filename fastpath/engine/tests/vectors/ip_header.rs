//! The fixed headers of both families: versions, lengths, the header checksum, protocols.

use atalho_engine::verdict::DropReason::*;
use atalho_engine::verdict::Verdict;

use crate::lab::damage::{changed, mended};
use crate::lab::packet::Packet;
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 1812 section 5.2.2", "IPv4: version, lengths and checksum", ipv4),
    vector("RFC 8200 section 3", "IPv6: version and length", ipv6),
    vector("RFC 2675 section 3", "a jumbogram, whose length stands in an option", jumbogram),
    vector("RFC 2474 section 3", "DSCP and ECN of every value are kept", dscp_and_ecn),
    vector("RFC 791 section 3.1", "identification, reserved bit and DF are kept", identification),
    vector("RFC 6437 section 2", "the flow label is kept", flow_label),
    vector("RFC 791 section 3.1", "transport protocols that are not supported", protocols),
];

fn ipv4() {
    let v4 = Packet::udp((Family::V4.client(), 1), (Family::V4.web(), 2)).build();
    let mut lab = Lab::new();
    for (what, frame, reason) in [
        ("a header cut off", v4[..33].to_vec(), TooShort),
        ("version 5", changed(&v4, &[(14, 0x55)]), BadVersion),
        ("version 6 in an IPv4 frame", changed(&v4, &[(14, 0x65)]), BadVersion),
        ("a header of 16 bytes", changed(&v4, &[(14, 0x44)]), BadHeaderLength),
        ("a header beyond the frame", changed(&v4, &[(14, 0x4f)])[..60].to_vec(), BadHeaderLength),
        ("a total length beyond the frame", mended(&v4, &[(16, 0x10)]), BadTotalLength),
        ("a total length within the header", mended(&v4, &[(16, 0), (17, 19)]), BadTotalLength),
        ("a wrong header checksum", changed(&v4, &[(24, v4[24] ^ 1)]), BadChecksum),
    ] {
        lab.drops(what, CLIENT, &frame, reason);
    }
}

fn ipv6() {
    let v6 = Packet::udp((Family::V6.client(), 1), (Family::V6.web(), 2)).build();
    let mut lab = Lab::new();
    for (what, frame, reason) in [
        ("a header cut off", v6[..53].to_vec(), TooShort),
        ("version 4 in an IPv6 frame", changed(&v6, &[(14, 0x45)]), BadVersion),
        ("a payload length beyond the frame", changed(&v6, &[(18, 0x10)]), BadTotalLength),
    ] {
        lab.drops(what, CLIENT, &frame, reason);
    }
}

/// No port takes one; its payload length of 0 leaves nothing for the option.
fn jumbogram() {
    let v6 = Packet::udp((Family::V6.client(), 1), (Family::V6.web(), 2)).build();
    let option = [17, 0, 0xc2, 4, 0, 1, 0, 0];
    let frame = [&changed(&v6, &[(18, 0), (19, 0), (20, 0)])[..54], &option, &v6[54..]].concat();
    Lab::new().drops("a jumbogram", CLIENT, &frame, TooShort);
}

fn protocols() {
    let v4 = Packet::udp((Family::V4.client(), 1), (Family::V4.web(), 2)).build();
    let mut lab = Lab::new();
    for (what, protocol) in [("IGMP", 2), ("IPv4 in IPv4", 4), ("GRE", 47), ("ESP", 50), ("ICMPv6 in IPv4", 58)] {
        lab.drops(what, CLIENT, &mended(&v4, &[(23, protocol)]), UnknownProtocol);
    }
}

/// What leaves when `frame`, sent by the client to the VIP here, goes in.
fn through_a_service(lab: &mut Lab, frame: &[u8]) -> Vec<u8> {
    let sent = lab.send(CLIENT, frame);
    assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_WEB });
    sent.frame
}

fn dscp_and_ecn() {
    for f in FAMILIES {
        let frame = Packet::udp((f.client(), 1), (f.vip_local(), 53)).build();
        let mut lab = Lab::new();
        for class in 0..=u8::MAX {
            let frame = match f {
                Family::V4 => mended(&frame, &[(15, class)]),
                Family::V6 => changed(&frame, &[(14, 0x60 | class >> 4), (15, class << 4 | 5)]),
            };
            let left = through_a_service(&mut lab, &frame);
            assert_eq!(left[14..16], frame[14..16]);
        }
    }
}

fn identification() {
    let f = Family::V4;
    let frame = Packet::udp((f.client(), 1), (f.vip_local(), 53)).build();
    // The reserved bit means nothing (RFC 3514), so it is nobody's to change.
    for bits in [0x00, 0x40, 0x80, 0xc0] {
        let frame = mended(&frame, &[(18, 0xab), (19, 0xcd), (20, bits)]);
        let left = through_a_service(&mut Lab::new(), &frame);
        assert_eq!(left[18..22], [0xab, 0xcd, bits, 0]);
    }
}

fn flow_label() {
    let f = Family::V6;
    let frame = Packet::udp((f.client(), 1), (f.vip_local(), 53)).build();
    let left = through_a_service(&mut Lab::new(), &frame);
    assert_eq!(left[15..18], frame[15..18]);
}
