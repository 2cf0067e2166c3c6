//! Straight packets against the parser and the rewrite, which know nothing of them.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::conntrack::Rewrite;
use crate::flow::FlowKey;
use crate::rewrite::{self, Hop};
use crate::wire::{Content, parse};

/// A packet of either family and protocol, as it should be.
fn frame(is_v6: bool, is_tcp: bool, ports: (u16, u16), hops: u8, payload: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = if is_v6 {
        let (mut src, mut dst) = ([0xfd; 16], [0xfd; 16]);
        (src[15], dst[15]) = (1, 2);
        link.ipv6(src, dst, hops)
    } else {
        link.ipv4([10, 244, 1, 7], [10, 96, 0, 10], hops)
    };
    let mut frame = Vec::new();
    if is_tcp {
        let step = ip.tcp(ports.0, ports.1, 1000, 4096).ack(77);
        let step = if payload.len() > 2 { step.psh() } else { step };
        step.write(&mut frame, payload).unwrap();
    } else {
        ip.udp(ports.0, ports.1).write(&mut frame, payload).unwrap();
    }
    frame
}

/// What the parser says of a frame that is a straight one of this family; `None` if it is not.
fn compare<F: Straight>(frame: &[u8], to: &FlowKey, hop: Hop) -> Option<()> {
    let end = F::end(frame, frame.len())?;
    let mut translated = frame.to_vec();
    let head = F::head(&mut translated).unwrap();
    let key = F::key_words(head);
    let packet = parse(frame, frame.len()).expect("the parser refuses what is straight");
    assert_eq!((packet.end, packet.content), (end, Content::Flow));
    assert_eq!(Some(key), F::key(&packet.key));
    assert_eq!(F::hops(head), packet.ttl);
    if F::is_tcp(head) {
        assert_eq!(F::segment(frame, end), Some(packet.segment()));
    } else {
        assert_eq!(F::datagram(head, end), packet);
    }

    let FlowKey { src, dst, src_port, dst_port, .. } = *to;
    let mut expected = frame.to_vec();
    rewrite::apply(&mut expected, &packet, &Rewrite { src, dst, src_port, dst_port }, hop);
    F::translate(&mut translated, &key, &F::key(to).unwrap(), u8::from(hop == Hop::Counted)).unwrap();
    assert_eq!(translated, expected);
    Some(())
}

/// The same, whatever the family.
fn compare_any(frame: &[u8], ports: (u16, u16), last: u8, hop: Hop) -> bool {
    let (src_port, dst_port, protocol) = (ports.0, ports.1, crate::flow::Protocol::Udp);
    let v4 = FlowKey { src: [10, 244, 9, last].into(), dst: [203, 0, 113, last].into(), src_port, dst_port, protocol };
    let v6 = FlowKey {
        src: [last; 16].into(),
        dst: [0xfe, last].repeat(8).first_chunk::<16>().copied().unwrap().into(),
        ..v4
    };
    let is_v4 = compare::<V4>(frame, &v4, hop).is_some();
    let is_v6 = compare::<V6>(frame, &v6, hop).is_some();
    assert!(!(is_v4 && is_v6));
    is_v4 || is_v6
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn a_packet_as_it_should_be_is_straight_and_read_and_translated_like_any(
        (is_v6, is_tcp, counted) in any::<(bool, bool, bool)>(),
        ports in any::<(u16, u16)>(),
        new_ports in any::<(u16, u16)>(),
        (hops, last) in (2u8.., any::<u8>()),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        padding in 0usize..20,
    ) {
        let mut frame = frame(is_v6, is_tcp, ports, hops, &payload);
        frame.resize(frame.len() + padding, 0);
        let hop = if counted { Hop::Counted } else { Hop::Uncounted };
        prop_assert!(compare_any(&frame, new_ports, last, hop));
    }

    #[test]
    fn a_damaged_one_is_straight_only_if_the_parser_takes_it(
        (is_v6, is_tcp) in any::<(bool, bool)>(),
        damage in proptest::collection::vec((12usize..75, any::<u8>()), 1..3),
        mends_checksum in any::<bool>(),
        length in 0usize..90,
    ) {
        let mut frame = frame(is_v6, is_tcp, (1, 2), 64, &[7; 20]);
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if mends_checksum && !is_v6 {
            frame[24..26].fill(0);
            let sum = !checksum::sum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        frame.truncate(length.max(14));
        compare_any(&frame, (3, 4), 5, Hop::Counted);
    }
}

#[test]
fn what_is_odd_is_not_straight() {
    let plain = frame(false, true, (1, 2), 64, b"x");
    let with = |at: usize, value: u8| {
        let mut frame = plain.clone();
        frame[at] = value;
        frame[24..26].fill(0);
        let sum = !checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        V4::end(&frame, frame.len())
    };
    assert!(with(15, 0xb8).is_some(), "a class of service is nothing odd");
    assert!(with(20, 0x40).is_some(), "nor is that it must not be cut");
    for (at, value, what) in [
        (0, 0x03, "to many stations"),
        (12, 0x86, "another type"),
        (14, 0x46, "options"),
        (20, 0x20, "a first fragment"),
        (21, 0x01, "a later one"),
        (23, 132, "SCTP"),
        (26, 127, "from a loopback address"),
        (47, 0x12, "a SYN"),
        (47, 0x11, "a FIN"),
        (47, 0x14, "a reset"),
        (47, 0x30, "urgent data"),
    ] {
        assert_eq!(with(at, value), None, "{what}");
    }
    let mut wrong = plain.clone();
    wrong[24] ^= 1;
    assert_eq!(V4::end(&wrong, wrong.len()), None, "a wrong checksum");
}
