//! What tcx does on lo, with what the node sends to its own addresses.

use atalho_layout::{ClaimKind, KernelCounter, tag_mac};

use super::claims::{Entry, LIVE, insert, key};
use super::frames::{Frame, TCP, UDP};
use super::lab::{Lab, skipped};
use super::pods::{DROP, NEXT, REDIRECT, expect};
use crate::check;

const LO: (&str, u32) = ("loopback_egress", 1);
const CLAIM: (i32, KernelCounter) = (REDIRECT, KernelCounter::EgressClaim);
const PASS: (i32, KernelCounter) = (NEXT, KernelCounter::EgressPass);

#[test]
fn of_what_the_node_sends_to_itself_node_ports_and_answers_of_endpoints_are_ours() {
    if skipped("of_what_the_node_sends_to_itself_node_ports_and_answers_of_endpoints_are_ours") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let f1 = check::by_name("f1").unwrap().ifindex;
    for (node, loopback) in [("192.0.2.2", "127.0.0.1"), ("2001:db8::2", "::1")] {
        kernel.claim(&key(node, 0, 0), ClaimKind::Node).unwrap();
        kernel.claim(&key(node, TCP, 30080), ClaimKind::NodePort).unwrap();
        let send =
            |to: &str, protocol, ports: (u16, u16)| Frame::ports(to, to, protocol, ports.0, ports.1).with_mac([0; 6]);
        let frame = send(node, TCP, (4000, 30080));
        let out = expect(&mut kernel, "a node port", LO, &frame.bytes(), CLAIM);
        assert_eq!(
            out,
            frame.clone().with_mac(tag_mac(f1)).bytes(),
            "tagged as the node's port, and nothing else changed"
        );
        expect(&mut kernel, "its number, another protocol", LO, &send(node, UDP, (4000, 30080)).bytes(), PASS);
        expect(&mut kernel, "its number on loopback", LO, &send(loopback, TCP, (4000, 30080)).bytes(), PASS);
        let answer = send(node, TCP, (8080, 61_000)).bytes();
        expect(&mut kernel, "a plain flow", LO, &answer, PASS);
        insert(&kernel, node, node, TCP, (8080, 61_000), Entry { ingress: f1, ..LIVE });
        expect(&mut kernel, "an endpoint's answer", LO, &answer, CLAIM);
        let error =
            Frame::icmp_error(node, node, if node.contains(':') { 1 } else { 3 }, &send(node, TCP, (61_000, 8080)));
        expect(&mut kernel, "its ICMP error", LO, &error.with_mac([0; 6]).bytes(), CLAIM);
    }
}

/// A SYN that says how long segments may be, or another packet that looks so.
fn offers(node: &str, flags: u8, mss: u16) -> Frame {
    let mut tcp = vec![0; 24];
    tcp[..4].copy_from_slice(&[4000_u16.to_be_bytes(), 30080_u16.to_be_bytes()].concat());
    (tcp[12], tcp[13]) = (6 << 4, flags);
    tcp[20..22].copy_from_slice(&[2, 4]);
    tcp[22..].copy_from_slice(&mss.to_be_bytes());
    Frame::new(node, node, TCP, tcp).with_mac([0; 6])
}

#[test]
fn who_sends_by_loopback_is_told_how_long_the_funnel_lets_segments_be() {
    if skipped("who_sends_by_loopback_is_told_how_long_the_funnel_lets_segments_be") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    for (node, most) in [("192.0.2.2", 1460_u16), ("2001:db8::2", 1440)] {
        kernel.claim(&key(node, 0, 0), ClaimKind::Node).unwrap();
        kernel.claim(&key(node, TCP, 30080), ClaimKind::NodePort).unwrap();
        for (what, flags, offered, told) in [
            ("a SYN", 2, 65_483, most),
            ("a SYN-ACK", 18, 65_483, most),
            ("a SYN that offers less", 2, 536, 536),
            ("no SYN", 16, 65_483, 65_483),
        ] {
            let frame = offers(node, flags, offered).bytes();
            let out = expect(&mut kernel, what, LO, &frame, CLAIM);
            let at = frame.len() - 24;
            assert_eq!(out[at + 22..at + 24], told.to_be_bytes(), "{what} to {node}");
            // RFC 1071: what the sum gains in one place it loses in the other.
            let sum = |bytes: &[u8]| {
                let words = bytes[at..].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
                words.sum::<u32>() % 0xffff
            };
            assert_eq!(sum(&out), sum(&frame), "{what} to {node}: checksum");
        }
        let mut long = Frame::ports(node, node, TCP, 4000, 30080).with_mac([0; 6]);
        long.payload.resize(1600, 0);
        expect(&mut kernel, "longer than the funnel", LO, &long.bytes(), (DROP, KernelCounter::EgressTooBig));
    }
}
