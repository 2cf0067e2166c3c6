//! Fragments: translated by the first one's flow, in any order, at any worker; what is refused, and what is bounded.

use atalho_engine::verdict::DropReason::*;
use atalho_engine::wire::checksum;
use atalho_slowpath::Limits;

use crate::lab::damage::{changed, mended};
use crate::lab::node::{BUFFERS, Node};
use crate::lab::packet::{Layer4, Packet, SYN, verify};
use crate::lab::pieces::{self, IDENTIFICATION, cut, fragment, join, payload_bytes};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 791 section 3.2", "in order: UDP, TCP and echo, translated at both ends", in_order),
    vector("RFC 791 section 3.2", "in any order, at two workers: they wait for the first one", any_order),
    vector("RFC 8200 section 4.5", "given up after 30 s in IPv4 and 60 s in IPv6", given_up),
    vector("RFC 5722 section 4", "overlaps refuse the datagram, whatever comes after", overlaps),
    vector("RFC 8200 section 4.5", "exact duplicates are dropped and nothing else", duplicates),
    vector("RFC 1858 section 2", "first fragments without the whole transport header", tiny),
    vector("RFC 7112 section 5", "first fragments without all extension headers", headers_in_two),
    vector("RFC 3128 section 2", "later fragments that reach into the transport header", into_the_header),
    vector("RFC 8200 section 4.5", "beyond 65,535 bytes", beyond_the_end),
    vector("RFC 8200 section 4.5", "empty, or cut at no multiple of 8 bytes", unaligned),
    vector("RFC 6946 section 4", "atomic fragments are whole packets", atomic),
    vector("RFC 6864 section 4", "an identification is used again after its datagram has passed", used_again),
    vector(
        "RFC 791 section 3.2",
        "datagrams differ by source, destination, protocol, identification and port",
        told_apart,
    ),
    vector("RFC 768", "no checksum stays none in IPv4 and is refused in IPv6", no_checksum),
    vector("RFC 791 section 3.1", "fragments of protocols that are not supported", other_protocols),
    vector("RFC 5508 section 4", "an ICMP error in fragments", error_in_fragments),
    vector(
        "RFC 5508 section 4.2",
        "an ICMP error about a first fragment is translated, about a later one dropped",
        errors_about,
    ),
    vector("RFC 1122 section 3.2.2.1", "refused by its first one, and silent about the others", refused),
    vector("RFC 9260 section 6.8", "SCTP in fragments: addresses only, ports are refused", sctp_in_fragments),
    vector("RFC 4963 section 5", "a flood of datagrams takes nothing from other ports", floods),
];

/// A datagram to a Service: UDP with `bytes` of payload.
fn asked(f: Family, bytes: usize) -> Packet {
    let payload: Vec<u8> = (0..bytes).map(|at| (at * 7) as u8).collect();
    Packet { dont_fragment: false, ..Packet::udp((f.client(), 40_000), (f.vip_local(), 53)).payload(&payload) }
}

/// What the endpoint gets instead of [`asked`].
fn delivered(f: Family, bytes: usize) -> Packet {
    Packet { dst: (f.web(), 5353), ttl: 63, ..asked(f, bytes) }
}

/// What is on the wire from the IP header on.
fn ip(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

#[track_caller]
fn joins_to(frames: &[Vec<u8>], expected: &Packet, what: &str) {
    let joined = join(frames).unwrap_or_else(|| panic!("{what}: no whole datagram in {} frames", frames.len()));
    verify(&joined);
    let mut expected = expected.build();
    if expected[14] >> 4 == 4 {
        expected = mended(&expected, &[(18, joined[18]), (19, joined[19])]);
    }
    assert_eq!(ip(&joined), ip(&expected), "{what}");
    trace::keep(&frames[0], &joined);
}

fn in_order() {
    for f in FAMILIES {
        let client = (f.client(), 40_000);
        for (layer4, asked, server, dst_hop) in [
            (Layer4::Udp, (f.vip_local(), 53), (f.web(), 5353), "DNAT"),
            (SYN, (f.vip_local(), 80), (f.web(), 8080), "DNAT"),
            (Layer4::Udp, (f.web(), 9), (f.web(), 9), "none"),
        ] {
            let what = format!("{f:?} {layer4:?} {dst_hop}");
            let mut node = Node::new();
            let packet = Packet { dont_fragment: false, ..Packet::new(client, layer4, asked).payload(&[0x5a; 3001]) };
            let out = node.send_all(CLIENT, &cut(&packet.build(), IDENTIFICATION, &[1440, 2880]));
            assert_eq!(out.len(), 3, "{what}");
            joins_to(&out, &Packet { dst: server, ttl: 63, ..packet.clone() }, &what);
            let back = Packet { src: server, dst: client, ..packet.clone() };
            if layer4 == Layer4::Udp {
                let out = node.send_all(WEB, &cut(&back.build(), IDENTIFICATION, &[1440, 2880]));
                joins_to(&out, &Packet { src: asked, ttl: 63, ..back }, &format!("{what}, answer"));
            }
            assert_eq!((node.admitted(), node.dropped_in_all()), (1, 0), "{what}");
        }
        // A way out of the cluster: the identifier changes with the source.
        let mut node = Node::new();
        let echo = Packet::echo(f.client(), Layer4::EchoRequest(77), f.far()).payload(&[1; 2000]);
        let echo = Packet { dont_fragment: false, ..echo };
        let out = node.send_all(CLIENT, &cut(&echo.build(), IDENTIFICATION, &[800, 1600]));
        let seen = verify(&join(&out).expect("a whole datagram"));
        let Some(Layer4::EchoRequest(identifier)) = seen.layer4 else { panic!("{seen:?}") };
        assert_eq!((seen.src.0, seen.dst.0, seen.payload), (f.node(), f.far(), echo.payload.clone()));
        let reply = Packet::echo(f.far(), Layer4::EchoReply(identifier), f.node()).payload(&[1; 2000]);
        let reply = Packet { dont_fragment: false, ..reply };
        let out = node.send_all(UPLINK, &cut(&reply.build(), 9, &[800, 1600]));
        let seen = verify(&join(&out).expect("a whole datagram"));
        assert_eq!((seen.dst.0, seen.layer4), (f.client(), Some(Layer4::EchoReply(77))));
    }
}

fn any_order() {
    for f in FAMILIES {
        let parts = cut(&asked(f, 2500).build(), IDENTIFICATION, &[800, 1600]);
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut node = Node::new();
            let mut out = Vec::new();
            for (worker, at) in order.into_iter().enumerate() {
                let has_first = order[..=worker].contains(&0);
                let left = node.send_by(worker % 2, CLIENT, &parts[at]);
                assert_eq!(left.is_empty(), !has_first, "{order:?}: nothing leaves before the first one");
                out.extend(left);
            }
            assert_eq!(pieces::read(&out[0]).offset, 0, "{order:?}");
            joins_to(&out, &delivered(f, 2500), &format!("{order:?}"));
            assert_eq!((node.admitted(), node.dropped_in_all()), (1, 0), "{order:?}");
            assert!(!node.slow.has_waiting());
        }
    }
}

fn given_up() {
    for (f, life_ms) in [(Family::V4, 30_000), (Family::V6, 60_000)] {
        let parts = cut(&asked(f, 2500).build(), IDENTIFICATION, &[800, 1600]);
        let mut node = Node::new();
        assert!(node.send(CLIENT, &parts[1]).is_empty());
        assert!(node.wait_ms(life_ms - 1).is_empty());
        assert_eq!(node.dropped(FragmentTimeout), 0);
        assert!(node.wait_ms(1).is_empty());
        assert_eq!(node.dropped(FragmentTimeout), 1);
        // The first one, too late for that and the first of what is now another datagram.
        assert_eq!(node.send(CLIENT, &parts[0]).len(), 1);
        assert_eq!(node.send(CLIENT, &parts[1]).len(), 1);
        node.now_ms += life_ms;
        assert!(node.send(CLIENT, &parts[2]).is_empty(), "nobody looked in between");
        assert_eq!(node.dropped(FragmentTimeout), 1);
        assert!(node.slow.has_waiting());
    }
}

fn overlaps() {
    for f in FAMILIES {
        let frame = asked(f, 2500).build();
        let whole = payload_bytes(&frame);
        let part =
            |start: usize, end: usize| fragment(&frame, IDENTIFICATION, start, end < whole, &vec![3; end - start]);
        let first = cut(&frame, IDENTIFICATION, &[800, 1600]).remove(0);
        for (what, passed, bad) in [
            ("the end of the first one", vec![first.clone()], part(792, 1600)),
            ("within the first one", vec![first.clone()], part(400, 480)),
            ("around a later one", vec![first.clone(), part(960, 1040)], part(800, 1600)),
            ("the start of a later one", vec![first.clone(), part(1600, whole)], part(800, 1608)),
            ("the end of a later one", vec![first.clone(), part(800, 1600)], part(1592, whole)),
            (
                "behind the last one",
                vec![first.clone(), part(1600, 1608).clone(), fragment(&frame, IDENTIFICATION, 1608, false, &[1; 8])],
                part(2000, 2008),
            ),
            (
                "another last one",
                vec![first.clone(), fragment(&frame, IDENTIFICATION, 1600, false, &[1; 8])],
                fragment(&frame, IDENTIFICATION, 2000, false, &[1; 8]),
            ),
            (
                "a last one before others",
                vec![first.clone(), part(1600, 2000)],
                fragment(&frame, IDENTIFICATION, 800, false, &[1; 8]),
            ),
        ] {
            let mut node = Node::new();
            assert_eq!(node.send_all(CLIENT, &passed).len(), passed.len(), "{what}");
            assert!(node.send(CLIENT, &bad).is_empty(), "{what}");
            assert_eq!(node.dropped(FragmentOverlap), 1, "{what}");
            for rest in [part(2200, 2208), part(0, 8), first.clone()] {
                assert!(node.send_by(1, CLIENT, &rest).is_empty(), "{what}: all that follows");
            }
            // Refused by itself, or with its datagram.
            assert_eq!(
                node.dropped(FragmentOverlap) + node.dropped(FragmentTiny) + node.dropped(FragmentUnaligned),
                4,
                "{what}"
            );
            let other = cut(&frame, IDENTIFICATION + 1, &[800, 1600]);
            joins_to(&node.send_all(CLIENT, &other), &delivered(f, 2500), what);
        }
        let mut node = Node::new();
        assert!(node.send_all(CLIENT, &[part(800, 1600), part(1600, whole), part(1592, 1608)]).is_empty());
        assert_eq!(node.dropped(FragmentOverlap), 3, "those that wait too");
        assert!(node.send(CLIENT, &first).is_empty());
        assert!(!node.slow.has_waiting());
    }
}

fn duplicates() {
    for f in FAMILIES {
        let parts = cut(&asked(f, 2500).build(), IDENTIFICATION, &[800, 1600]);
        let again = |order: &[usize]| {
            let mut node = Node::new();
            let frames: Vec<_> = order.iter().map(|at| parts[*at].clone()).collect();
            let out = node.send_all(CLIENT, &frames);
            joins_to(&out, &delivered(f, 2500), &format!("{order:?}"));
            node.dropped(FragmentDuplicate)
        };
        assert_eq!(again(&[0, 0, 1, 1, 0, 2]), 3);
        assert_eq!(again(&[1, 1, 2, 2, 1, 0]), 3, "waiting");
    }
}

fn tiny() {
    for f in FAMILIES {
        let tcp = Packet::new((f.client(), 40_000), SYN, (f.vip_local(), 80)).payload(&[0; 100]).build();
        let udp = asked(f, 100).build();
        let mut node = Node::new();
        // The SYN has four bytes of options.
        for (frame, at) in [(&tcp, 8), (&tcp, 16)] {
            let parts = cut(frame, IDENTIFICATION, &[at]);
            assert!(node.send(CLIENT, &parts[0]).is_empty());
        }
        assert_eq!(node.dropped(FragmentTiny), 2);
        let at_the_bound = cut(&tcp, IDENTIFICATION, &[24]);
        assert_eq!(node.send_all(CLIENT, &at_the_bound).len(), 2);
        assert_eq!(node.send_all(CLIENT, &cut(&udp, IDENTIFICATION, &[8])).len(), 2);
        assert_eq!(node.dropped_in_all(), 2);
    }
}

fn headers_in_two() {
    let f = Family::V6;
    let plain = asked(f, 400).build();
    // Destination options of sixteen bytes behind the fragment header.
    let with_options = |next: u8, options: &[u8], rest: &[u8], more: bool| {
        let bytes = [options, rest].concat();
        let mut frame = fragment(&plain, IDENTIFICATION, 0, more, &bytes);
        frame[54] = next;
        frame
    };
    let options = [17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut node = Node::new();
    let split = with_options(60, &options[..8], &[], true);
    assert!(node.send(CLIENT, &split).is_empty());
    assert_eq!(node.dropped(FragmentTiny), 1, "options go on in another one");
    assert!(node.send(CLIENT, &with_options(60, &options, &[], true)).is_empty());
    assert_eq!(node.dropped(FragmentTiny), 2, "UDP stands in another one");
    assert!(node.send(CLIENT, &with_options(44, &[17, 0, 0, 1, 0, 0, 0, 9], &plain[54..62], true)).is_empty());
    assert_eq!(node.dropped(ExtensionHeaders), 1, "a fragment of a fragment");

    // All there: the ports are found, and later ones follow whatever they call the next header.
    let first = with_options(60, &options, &plain[54..78], true);
    let mut last = fragment(&plain, IDENTIFICATION, 40, false, &plain[78..]);
    last[54] = 60;
    let out = node.send_all(CLIENT, &[first, last]);
    assert_eq!(out.len(), 2);
    assert_eq!(out[0][80..82], 5353_u16.to_be_bytes(), "the port behind the options");
    let joined = [&out[0][14..54], &out[0][62..], &out[1][62..]].concat();
    assert_eq!(&joined[40..56], &options, "options stay");
    let mut udp = [&[0; 14][..], &delivered(f, 400).build()[14..54], &joined[56..]].concat();
    udp[12..14].copy_from_slice(&[0x86, 0xdd]);
    verify(&udp);
}

fn into_the_header() {
    for f in FAMILIES {
        let tcp = Packet::new((f.client(), 40_000), SYN, (f.vip_local(), 80)).payload(&[0; 100]).build();
        let mut node = Node::new();
        for offset in [8, 16] {
            assert!(node.send(CLIENT, &fragment(&tcp, IDENTIFICATION, offset, true, &[0; 8])).is_empty());
        }
        assert_eq!(node.dropped(FragmentTiny), 2);
    }
}

fn beyond_the_end() {
    for f in FAMILIES {
        let frame = asked(f, 100).build();
        let header_bytes = if f == Family::V4 { 20 } else { 0 };
        let mut node = Node::new();
        // An offset of 65,528 leaves no room for a header and as much as 7 bytes.
        for (offset, bytes, more) in [(65_528, 8, false), (65_528, 8, true), (65_000, 536 - header_bytes, true)] {
            assert!(node.send(CLIENT, &fragment(&frame, IDENTIFICATION, offset, more, &vec![0; bytes])).is_empty());
        }
        assert_eq!(node.dropped(FragmentBeyondEnd), if f == Family::V4 { 2 } else { 3 }, "{f:?}");
        node.send(CLIENT, &fragment(&frame, 99, 65_000, false, &vec![0; 535 - header_bytes]));
        assert!(node.slow.has_waiting(), "{f:?}: to the last byte");
    }
}

fn unaligned() {
    for f in FAMILIES {
        let frame = asked(f, 100).build();
        let mut node = Node::new();
        for bytes in [0, 1, 9, 15] {
            assert!(node.send(CLIENT, &fragment(&frame, IDENTIFICATION, 80, true, &vec![0; bytes])).is_empty());
        }
        assert!(node.send(CLIENT, &fragment(&frame, IDENTIFICATION, 80, false, &[])).is_empty());
        assert_eq!(node.dropped(FragmentUnaligned), 5);
        assert!(!node.slow.has_waiting());
    }
}

fn atomic() {
    let f = Family::V6;
    let mut node = Node::new();
    let frame = asked(f, 100).build();
    let out = node.send(CLIENT, &fragment(&frame, IDENTIFICATION, 0, false, &frame[54..]));
    assert_eq!(out.len(), 1);
    assert_eq!(out[0][54..62], [17, 0, 0, 0, 0, 0, 0x12, 0x34], "its header stays");
    joins_to(&out, &delivered(f, 100), "atomic");
    let books = node.slow.counters().books();
    assert_eq!(books.punted, 0, "the slow path never sees it");
}

fn used_again() {
    for f in FAMILIES {
        let mut node = Node::new();
        for client_port in [40_000, 40_001, 40_002] {
            let packet = Packet { src: (f.client(), client_port), ..asked(f, 2500) };
            let out = node.send_all(CLIENT, &cut(&packet.build(), IDENTIFICATION, &[800, 1600]));
            joins_to(&out, &Packet { src: packet.src, ..delivered(f, 2500) }, "at once again");
        }
        assert_eq!((node.admitted(), node.dropped_in_all()), (3, 0));
    }
}

fn told_apart() {
    for f in FAMILIES {
        let packet = asked(f, 2500);
        let first = |frame: &[u8], id| cut(frame, id, &[800, 1600]).remove(0);
        let mut node = Node::new();
        assert_eq!(node.send(CLIENT, &first(&packet.build(), IDENTIFICATION)).len(), 1);
        let later = |packet: &Packet, id| cut(&packet.build(), id, &[800, 1600]).remove(1);
        let strangers = [
            (CLIENT, later(&packet, IDENTIFICATION + 1)),
            (CLIENT, later(&Packet { dst: (f.vip_remote(), 53), ..packet.clone() }, IDENTIFICATION)),
            (UPLINK, later(&packet, IDENTIFICATION)),
            (UPLINK, later(&Packet { src: (f.far(), 40_000), ..packet.clone() }, IDENTIFICATION)),
        ];
        for (at, (port, stranger)) in strangers.iter().enumerate() {
            assert!(node.send(*port, stranger).is_empty(), "{f:?} {at}");
            assert_eq!(node.slow.counters().books().waiting, at as u64 + 1);
        }
        if f == Family::V4 {
            let icmp = mended(&later(&packet, IDENTIFICATION), &[(23, 1)]);
            assert!(node.send(CLIENT, &icmp).is_empty());
            assert_eq!(node.slow.counters().books().waiting, 5, "another protocol");
        }
        assert_eq!(node.send(CLIENT, &later(&packet, IDENTIFICATION)).len(), 1);
    }
}

fn no_checksum() {
    for f in FAMILIES {
        let mut frame = asked(f, 2500).build();
        let at = frame.len() - 2500 - 2;
        frame[at..at + 2].fill(0);
        let mut node = Node::new();
        let out = node.send_all(CLIENT, &cut(&frame, IDENTIFICATION, &[800, 1600]));
        if f == Family::V6 {
            assert!(out.is_empty());
            assert_eq!(node.dropped(BadChecksum), 1);
            continue;
        }
        let joined = join(&out).expect("a whole datagram");
        assert_eq!(joined[at..at + 2], [0, 0]);
        assert_eq!(verify(&joined).dst, (f.web(), 5353));
    }
}

fn error_in_fragments() {
    for f in FAMILIES {
        let mut node = Node::new();
        let about = Packet::udp((f.client(), 40_000), (f.web(), 9)).payload(&[0; 400]);
        let error = about.unreachable(f.web());
        for part in cut(&error, IDENTIFICATION, &[80]).iter().take(1) {
            assert!(node.send(WEB, part).is_empty());
        }
        assert_eq!(node.dropped(Fragment), 1);
    }
}

fn other_protocols() {
    for f in FAMILIES {
        let frame = asked(f, 400).build();
        let gre = if f == Family::V4 { mended(&frame, &[(23, 47)]) } else { changed(&frame, &[(20, 47)]) };
        let mut node = Node::new();
        assert!(node.send_all(CLIENT, &cut(&gre, IDENTIFICATION, &[80])).is_empty());
        // What an IPv6 fragment says of a later part means nothing, so that one waits in vain.
        let waits = u64::from(f == Family::V6);
        assert_eq!((node.dropped(UnknownProtocol), node.slow.counters().books().waiting), (2 - waits, waits));
    }
}

fn errors_about() {
    for f in FAMILIES {
        let mut node = Node::new();
        let parts = cut(&asked(f, 2500).build(), IDENTIFICATION, &[800, 1600]);
        let out = node.send_all(CLIENT, &parts);
        for quoted_bytes in [if f == Family::V4 { 28 } else { 56 }, 200] {
            let error = pieces::unreachable(f.web(), f.client(), &ip(&out[0])[..quoted_bytes]);
            let back = node.send(WEB, &error);
            let [back] = &back[..] else { panic!("{} frames", back.len()) };
            let seen = verify(back);
            assert_eq!((seen.src.0, seen.dst.0), (f.vip_local(), f.client()), "{f:?}");
            // As the client had sent it, but for the hop that was counted.
            let mut quoted = seen.payload.clone();
            let hops_at = if f == Family::V4 { 8 } else { 7 };
            assert_eq!(quoted[hops_at], 63);
            quoted[hops_at] = 64;
            if f == Family::V4 {
                assert!(checksum::is_valid(&seen.payload[..20]), "checksum of the quoted header");
                let sent = mended(&[&[0; 14], &quoted[..]].concat(), &[]);
                quoted[10..12].copy_from_slice(&sent[24..26]);
            }
            assert_eq!(quoted, ip(&parts[0])[..quoted_bytes], "{f:?}");
        }
        let error = pieces::unreachable(f.web(), f.client(), &ip(&out[1])[..200]);
        assert!(node.send(WEB, &error).is_empty());
        assert_eq!((node.dropped(IcmpQuote), node.dropped_in_all()), (1, 1));
    }
}

fn refused() {
    for f in FAMILIES {
        let mut node = Node::new();
        let packet = Packet { dst: (f.vip_local(), 99), ..asked(f, 2500) };
        let parts = cut(&packet.build(), IDENTIFICATION, &[800, 1600]);
        let out = node.send_all(CLIENT, &parts);
        let [answer] = &out[..] else { panic!("{} frames", out.len()) };
        let seen = verify(answer);
        assert_eq!((seen.src.0, seen.dst.0, seen.layer4), (f.vip_local(), f.client(), None));
        assert_eq!(node.dropped(Fragment), 2);
        // An echo would have to be joined to be answered.
        let echo = Packet::echo(f.client(), Layer4::EchoRequest(7), f.vip_local()).payload(&[0; 100]).build();
        assert!(node.send_all(CLIENT, &cut(&echo, IDENTIFICATION, &[80])).is_empty());
        assert_eq!(node.dropped(Fragment), 4);
    }
}

fn sctp_in_fragments() {
    for f in FAMILIES {
        let frame = |src, chunk, dst: (std::net::IpAddr, u16)| Packet {
            dont_fragment: false,
            ..Packet::new(src, Layer4::Sctp(chunk), dst).payload(&[9; 400])
        };
        let client = (f.client(), 40_000);
        let mut node = Node::new();
        for (what, dst, seen) in [("a Service", (f.vip_local(), 38412), 0), ("a pod", (f.web(), 38412), 2)] {
            let init = Packet::new(client, Layer4::Sctp(sctp::INIT), dst).build();
            assert_eq!(node.send(CLIENT, &init).len(), 1, "{what}");
            let packet = frame(client, sctp::DATA, dst);
            let out = node.send_all(CLIENT, &cut(&packet.build(), IDENTIFICATION, &[80]));
            assert_eq!(out.len(), seen, "{what}");
            if seen > 0 {
                joins_to(&out, &Packet { ttl: 63, ..packet }, what);
            }
        }
        assert_eq!(node.dropped(FragmentSctp), 2, "translated ports");
    }
}

fn floods() {
    let limits = Limits { datagrams: 64, ..Limits::default() };
    for f in FAMILIES {
        let quarter = (BUFFERS / 4) as u64;
        let mut node = Node::with(limits);
        let victim = Packet { src: (f.web(), 9), dst: (f.client(), 9), ..asked(f, 2500) };
        let parts = cut(&victim.build(), IDENTIFICATION, &[800, 1600]);
        // One that waits for its first, one whose first has passed.
        assert!(node.send(WEB, &parts[1]).is_empty());
        let other = cut(&victim.build(), IDENTIFICATION + 1, &[800, 1600]);
        assert_eq!(node.send(WEB, &other[0]).len(), 1);
        let flood = asked(f, 2500).build();
        for identification in 0..500 {
            let parts = cut(&flood, identification, &[800, 1600]);
            node.send(CLIENT, &parts[identification as usize % 2]);
        }
        let books = node.slow.counters().books();
        assert_eq!(books.waiting, quarter, "as many as may wait");
        assert_eq!(node.dropped(FragmentsFull), 251 - quarter, "the flood's own");
        let mut out = node.send(WEB, &parts[0]);
        out.extend(node.send(WEB, &parts[2]));
        joins_to(&out, &Packet { ttl: 63, ..victim.clone() }, "the other port's");
        assert_eq!(node.send_all(WEB, &other[1..]).len(), 2);
    }
}
