//! What we say ourselves: echo replies and resets of Services, errors as a router. Through engine and slow path.

use std::net::IpAddr;

use atalho_engine::verdict::DropReason;

use crate::lab::damage::mended;
use crate::lab::icmp;
use crate::lab::node::Node;
use crate::lab::packet::{ACK, Layer4, Packet, SYN, SYN_ACK, verify};
use crate::lab::sctp::{ABORT, COOKIE_ECHO, DATA, HEARTBEAT, INIT, INIT_ACK, SHUTDOWN_ACK, SHUTDOWN_COMPLETE};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 1812 section 4.3.2.4", "time exceeded comes from the node's primary address", time_exceeded),
    vector("RFC 1191 section 4", "too big says the next link's MTU", too_big),
    vector("RFC 1812 section 5.2.7.1", "network unreachable where there is no route", network_unreachable),
    vector("RFC 1812 section 5.2.7.1", "host unreachable where the neighbour stays silent", host_unreachable),
    vector("Service v1, endpoints", "without endpoint: TCP is reset, the rest is told port unreachable", refused),
    vector("RFC 9293 section 3.10.7.1", "a reset is never answered, a segment with ACK at its place", resets),
    vector(
        "RFC 9293 section 3.5.2",
        "the middle of no connection to a Service is reset at its place",
        unknown_connection,
    ),
    vector(
        "RFC 9260 section 8.4",
        "a packet of no association with a Service is answered with its own tag",
        unknown_association,
    ),
    vector("RFC 1122 section 3.2.2.6", "a Service's address answers an echo", echo),
    vector("RFC 1812 section 4.3.2.3", "an error quotes as much as fits 576 bytes, in IPv6 1,280", quotes),
    vector("RFC 1812 section 4.3.2.7", "no error about errors, fragments and damaged packets", silent),
    vector("RFC 1812 section 4.3.2.8", "errors are limited in rate, for each sender", limited),
];

/// The one frame that leaves, by the port of `ingress`.
#[track_caller]
fn answer(node: &mut Node, ingress: u32, frame: &[u8]) -> Vec<u8> {
    let mut out = node.send(ingress, frame);
    assert_eq!(out.len(), 1, "one answer");
    out.remove(0)
}

/// Type and code of an ICMP error, after its addresses are as they should be, its class, and its quotation `about`'s start.
#[track_caller]
fn error(frame: &[u8], from: IpAddr, to: IpAddr, about: &[u8]) -> [u8; 2] {
    let seen = verify(frame);
    assert_eq!((seen.src.0, seen.dst.0, seen.ttl), (from, to, 64));
    assert!(about[14..].starts_with(&seen.payload), "as it was sent");
    let at = if from.is_ipv4() { 34 } else { 54 };
    let class = if from.is_ipv4() { frame[15] } else { frame[14] << 4 | frame[15] >> 4 };
    assert_eq!(class, if from.is_ipv4() { 0xc0 } else { 0 }, "internetwork control");
    [frame[at], frame[at + 1]]
}

fn time_exceeded() {
    for f in FAMILIES {
        for layer4 in [Layer4::Udp, SYN, Layer4::EchoRequest(7)] {
            let probe = Packet::new((f.client(), 40_000), layer4, (f.far(), 33_434)).ttl(1).build();
            let sent = answer(&mut Node::new(), CLIENT, &probe);
            assert_eq!(sent[..6], atalho_layout::tag_mac(CLIENT));
            assert_eq!(error(&sent, f.node(), f.client(), &probe), if f == Family::V4 { [11, 0] } else { [3, 0] });
        }
        let probe = Packet::udp((f.far(), 40_000), (f.web(), 33_434)).ttl(1).build();
        let sent = answer(&mut Node::new(), UPLINK, &probe);
        assert_eq!(sent[..12], [&probe[6..12], &probe[..6]].concat(), "back to where it came from");
        error(&sent, f.node(), f.far(), &probe);
    }
}

fn too_big() {
    for f in FAMILIES {
        let mut node = Node::new();
        node.lab.set_mtu(HOP_WEB, 1300);
        let long = Packet::udp((f.client(), 40_000), (f.web(), 9)).payload(&[7; 1400]).build();
        let sent = answer(&mut node, CLIENT, &long);
        assert_eq!(error(&sent, f.node(), f.client(), &long), if f == Family::V4 { [3, 4] } else { [2, 0] });
        let at = if f == Family::V4 { 40 } else { 60 };
        assert_eq!(sent[at..at + 2], 1300u16.to_be_bytes());
        // To the node itself the Service answers: its stack refuses its own address from a port.
        let long = Packet::udp((f.node(), 45_000), (f.vip_local(), 53)).payload(&[7; 1400]).build();
        error(&answer(&mut node, FUNNEL, &long), f.vip_local(), f.node(), &long);
    }
}

fn network_unreachable() {
    for (f, nowhere) in [(Family::V4, "198.19.0.9"), (Family::V6, "fd99::9")] {
        let nowhere: IpAddr = nowhere.parse().unwrap();
        for layer4 in [Layer4::Udp, SYN, Layer4::EchoRequest(7)] {
            let probe = Packet::new((f.client(), 40_000), layer4, (nowhere, 9)).build();
            let sent = answer(&mut Node::new(), CLIENT, &probe);
            assert_eq!(error(&sent, f.node(), f.client(), &probe), if f == Family::V4 { [3, 0] } else { [1, 0] });
        }
    }
}

fn host_unreachable() {
    for f in FAMILIES {
        let mut node = Node::new();
        let probe = Packet::udp((f.client(), 40_000), (f.stranger(), 9)).build();
        assert_eq!(node.send(CLIENT, &probe).len(), 0, "it waits");
        assert_eq!(node.wait_ms(2_999).len(), 0);
        let out = node.wait_ms(1);
        assert_eq!(out.len(), 1);
        assert_eq!(error(&out[0], f.node(), f.client(), &probe), if f == Family::V4 { [3, 1] } else { [1, 3] });
    }
}

fn refused() {
    for f in FAMILIES {
        let to = |layer4, dst| Packet::new((f.client(), 40_000), layer4, dst).build();
        let unreachable = icmp::port_unreachable(f == Family::V4);
        for (layer4, dst) in [
            (Layer4::Udp, (f.vip_local(), 54)),
            (Layer4::Sctp(INIT), (f.vip_empty(), 38412)),
            (Layer4::Sctp(INIT), (f.vip_local(), 80)),
        ] {
            let asked = to(layer4, dst);
            let sent = answer(&mut Node::new(), CLIENT, &asked);
            assert_eq!(error(&sent, dst.0, f.client(), &asked), unreachable);
        }
        for dst in [(f.vip_empty(), 80), (f.vip_local(), 81)] {
            let seen = verify(&answer(&mut Node::new(), CLIENT, &to(SYN, dst)));
            assert_eq!((seen.src, seen.dst, seen.layer4), (dst, (f.client(), 40_000), Some(Layer4::Tcp(4 | 16))));
        }
    }
}

fn resets() {
    for f in FAMILIES {
        let mut node = Node::new();
        let to = |flags| Packet::new((f.client(), 40_000), flags, (f.vip_local(), 81)).build();
        for flags in [ACK, SYN_ACK, Layer4::Tcp(1 | 16)] {
            let seen = verify(&answer(&mut node, CLIENT, &to(flags)));
            assert_eq!(seen.layer4, Some(Layer4::Tcp(4)), "a reset without ACK");
        }
        assert_eq!(node.send(CLIENT, &to(Layer4::Tcp(4))), Vec::<Vec<u8>>::new());
        assert_eq!(node.send(CLIENT, &to(Layer4::Tcp(4 | 16))), Vec::<Vec<u8>>::new());
    }
}

fn unknown_connection() {
    for f in FAMILIES {
        for (from, ingress, to) in [
            ((f.client(), 40_000), CLIENT, (f.vip_local(), 80)),
            ((f.client(), 40_000), CLIENT, (f.vip_unallocated(), 80)),
            ((f.far(), 40_000), UPLINK, (f.node(), NODE_PORT_REMOTE)),
            ((f.node(), 40_000), FUNNEL, (f.vip_remote(), 80)),
        ] {
            let data = Packet::new(from, ACK, to).acknowledges(0x7654_3210).build();
            let reset = answer(&mut Node::new(), ingress, &data);
            let seen = verify(&reset);
            assert_eq!((seen.src, seen.dst, seen.layer4), (to, from, Some(Layer4::Tcp(4))), "a reset without ACK");
            let at = if f == Family::V4 { 34 } else { 54 };
            assert_eq!(reset[at + 4..at + 8], 0x7654_3210_u32.to_be_bytes(), "where the client expects the next byte");
        }
    }
}

fn unknown_association() {
    for f in FAMILIES {
        let (client, vip) = ((f.client(), 40_000), (f.vip_local(), 38412));
        for (chunk, answered) in
            [(DATA, ABORT), (HEARTBEAT, ABORT), (INIT_ACK, ABORT), (SHUTDOWN_ACK, SHUTDOWN_COMPLETE)]
        {
            let packet = Packet::new(client, Layer4::Sctp(chunk), vip).build();
            let sent = answer(&mut Node::new(), CLIENT, &packet);
            let seen = verify(&sent);
            assert_eq!((seen.src, seen.dst, seen.layer4), (vip, client, Some(Layer4::Sctp(answered))));
            let at = if f == Family::V4 { 34 } else { 54 };
            assert_eq!(sent[at + 4..at + 8], packet[at + 4..at + 8], "the tag is reflected,");
            assert_eq!(sent[at + 12..], [answered, 1, 0, 4], "and the chunk says so");
        }
        for chunk in [ABORT, COOKIE_ECHO, SHUTDOWN_COMPLETE] {
            let packet = Packet::new(client, Layer4::Sctp(chunk), vip).build();
            assert_eq!(Node::new().send(CLIENT, &packet), Vec::<Vec<u8>>::new());
        }
    }
}

fn echo() {
    for f in FAMILIES {
        let request = Packet::echo(f.client(), Layer4::EchoRequest(7), f.vip_local());
        let seen = verify(&answer(&mut Node::new(), CLIENT, &request.build()));
        let reply = Packet::echo(f.vip_local(), Layer4::EchoReply(7), f.client());
        assert_eq!(seen, packet::Seen::of(&reply));
    }
}

fn quotes() {
    for (f, longest) in [(Family::V4, 576), (Family::V6, 1280)] {
        for payload in [0, 500, 519, 520, 521, 1180, 1183, 1184, 1185, 1400] {
            let probe = Packet::udp((f.client(), 40_000), (f.far(), 9)).payload(&vec![7; payload]).ttl(1).build();
            let sent = answer(&mut Node::new(), CLIENT, &probe);
            error(&sent, f.node(), f.client(), &probe);
            let headers = if f == Family::V4 { 28 } else { 48 };
            assert_eq!(sent.len() - 14, (probe.len() - 14 + headers).min(longest), "{payload}");
        }
    }
}

fn silent() {
    for f in FAMILIES {
        let mut node = Node::new();
        let none = Vec::<Vec<u8>>::new();
        let request = Packet::udp((f.client(), 40_000), (f.far(), 9));
        let seen = verify(&answer(&mut node, CLIENT, &request.build()));
        let error = Packet { src: seen.src, ..request }.unreachable(f.gateway());
        let error = if f == Family::V4 { mended(&error, &[(22, 1)]) } else { damage::changed(&error, &[(21, 1)]) };
        assert_eq!(node.send(UPLINK, &error), none, "an error out of hops");
        assert_eq!(node.dropped(DropReason::TtlExceededSilently), 1);
        for (layer4, dst) in [
            (Layer4::Udp, (f.vip_local(), 54)),
            (SYN, (f.vip_local(), 81)),
            (Layer4::EchoRequest(1), (f.vip_local(), 0)),
        ] {
            let mut damaged = Packet::new((f.client(), 40_000), layer4, dst).build();
            *damaged.last_mut().unwrap() ^= 1;
            assert_eq!(node.send(CLIENT, &damaged), none, "{layer4:?}");
        }
        assert_eq!(node.dropped(DropReason::BadChecksum), 3);
    }
    let f = Family::V4;
    let whole = Packet::udp((f.client(), 40_000), (f.vip_local(), 54)).build();
    let later = mended(&whole, &[(20, 0), (21, 9)]);
    assert_eq!(Node::new().send(CLIENT, &later), Vec::<Vec<u8>>::new(), "a later fragment alone");
}

fn limited() {
    for f in FAMILIES {
        let mut node = Node::new();
        let from = |src| Packet::udp((src, 40_000), (f.vip_local(), 54)).build();
        let answered = (0..400).filter(|_| !node.send(CLIENT, &from(f.client())).is_empty()).count();
        assert_eq!(answered, 250);
        assert_eq!(node.dropped(DropReason::SenderRateLimited), 150);
        assert_eq!(node.send(WEB, &from(f.web())).len(), 1, "another sender has answers of its own");
        node.wait_ms(4);
        assert_eq!(node.send(CLIENT, &from(f.client())).len(), 1, "one in 4 ms");
        assert!(node.send(CLIENT, &from(f.client())).is_empty());
    }
}
