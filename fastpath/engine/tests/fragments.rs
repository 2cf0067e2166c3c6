//! Random datagrams, cut at random, shuffled, repeated and overlapped, through every kind of translation and two workers: what
//! their receiver joins is what the same datagram becomes in one piece, or nothing.

mod lab;

use std::collections::BTreeSet;

use atalho_engine::verdict::DropReason;
use atalho_slowpath::Limits;
use lab::node::{Node, WORKERS};
use lab::packet::{ACK, Layer4, Packet, SYN, verify};
use lab::pieces::{cut, fragment, join, payload_bytes, read};
use lab::*;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A datagram, and the port by which it comes in.
fn datagram() -> impl Strategy<Value = (u32, Packet)> {
    const WAYS: &[&str] = &["pod to pod", "DNAT", "DNAT to another node", "DNAT and SNAT", "SNAT", "the node's own"];
    let layer4 = select(vec![Layer4::Udp, SYN, ACK, Layer4::EchoRequest(77)]);
    let port = 1024..60_000_u16;
    (select(&FAMILIES[..]), select(WAYS), layer4, port, prop::collection::vec(any::<u8>(), 48..3000)).prop_map(
        |(f, way, layer4, port, payload)| {
            let service = if layer4 == Layer4::Udp { 53 } else { 80 };
            let (ingress, src, dst, dst_port) = match way {
                "pod to pod" => (CLIENT, f.client(), f.web(), 4711),
                "DNAT" => (CLIENT, f.client(), f.vip_local(), service),
                "DNAT to another node" => (CLIENT, f.client(), f.vip_remote(), service),
                "DNAT and SNAT" => (UPLINK, f.far(), f.node(), NODE_PORT_REMOTE),
                "SNAT" => (CLIENT, f.client(), f.far(), 4711),
                _ => (FUNNEL, f.node(), f.vip_local(), service),
            };
            let is_echo = matches!(layer4, Layer4::EchoRequest(_));
            // An echo has no Service, the middle of a connection neither.
            let (ingress, src, dst, dst_port) = if (is_echo || layer4 == ACK) && !matches!(way, "pod to pod" | "SNAT") {
                (CLIENT, f.client(), f.far(), 4711)
            } else {
                (ingress, src, dst, dst_port)
            };
            let ports = if is_echo { (0, 0) } else { (port, dst_port) };
            let packet = Packet::new((src, ports.0), layer4, (dst, ports.1)).payload(&payload);
            (ingress, Packet { dont_fragment: false, ..packet })
        },
    )
}

/// The datagram as its receiver gets it in one piece.
fn whole(ingress: u32, packet: &Packet) -> Vec<u8> {
    let mut node = Node::new();
    for hop in [HOP_NODE, HOP_WEB, HOP_CLIENT, HOP_GATEWAY, HOP_OTHER_NODE] {
        node.lab.set_mtu(hop, 9000);
    }
    let out = node.send(ingress, &packet.build());
    assert_eq!(out.len(), 1, "{packet:?}");
    out.into_iter().next().unwrap()
}

/// Places at which a datagram may be cut: behind its transport header, at multiples of 8, never too long for a link.
fn places(frame: &[u8], at: &[Index]) -> Vec<usize> {
    let bytes = payload_bytes(frame);
    let mut places: BTreeSet<usize> = at.iter().map(|at| at.index(bytes / 8) * 8).collect();
    places.extend((1440..bytes).step_by(1440));
    // TCP's options end here.
    places.insert(24);
    places.into_iter().filter(|at| *at >= 24 && *at < bytes).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn cut_and_joined_is_what_it_is_in_one_piece(
        (ingress, packet) in datagram(),
        at in prop::collection::vec(any::<Index>(), 0..12),
        order in prop::collection::vec(any::<u32>(), 40),
        repeated in prop::collection::vec(any::<Index>(), 0..4),
        workers in prop::collection::vec(0..WORKERS, 60),
        identification in any::<u16>(),
    ) {
        let frame = packet.build();
        let mut frames = cut(&frame, identification.into(), &places(&frame, &at));
        let parts = frames.len();
        frames.extend(repeated.iter().map(|at| frames[at.index(parts)].clone()).collect::<Vec<_>>());
        let mut shuffled: Vec<_> = order.iter().cycle().zip(frames).collect();
        shuffled.sort_by_key(|(order, _)| **order);
        let mut node = Node::new();
        let mut out = Vec::new();
        for ((_, frame), worker) in shuffled.iter().zip(workers.iter().cycle()) {
            out.extend(node.send_by(*worker, ingress, frame));
        }
        let expected = whole(ingress, &packet);
        // What comes again after all has passed is another datagram, and its first fragment may be among it.
        let mut firsts = out.iter().filter(|frame| read(frame).offset == 0);
        prop_assert!(firsts.next().is_some());
        out.truncate(parts);
        let joined = join(&out).expect("the whole datagram");
        verify(&joined);
        let identified = |frame: &[u8]| {
            let mut bytes = frame[14..].to_vec();
            if bytes[0] >> 4 == 4 {
                bytes[4..6].fill(0);
                bytes[10..12].fill(0);
            }
            bytes
        };
        prop_assert_eq!(identified(&joined), identified(&expected));
        prop_assert_eq!(node.admitted(), 1);
        prop_assert_eq!(node.dropped_in_all(), node.dropped(DropReason::FragmentDuplicate));
    }

    /// Whatever comes, no two fragments of a datagram that leave overlap, and a receiver joins nothing that was not sent.
    #[test]
    fn overlaps_never_leave(
        (ingress, packet) in datagram(),
        at in prop::collection::vec(any::<Index>(), 0..8),
        order in prop::collection::vec(any::<u32>(), 40),
        forged in prop::collection::vec((any::<Index>(), 1..400_usize, any::<bool>()), 1..5),
        workers in prop::collection::vec(0..WORKERS, 60),
    ) {
        let frame = packet.build();
        let bytes = payload_bytes(&frame);
        let mut frames = cut(&frame, 7, &places(&frame, &at));
        let parts = frames.len();
        for (start, len, more) in forged {
            // One at 0 without more to come would be no fragment.
            let start = start.index(bytes / 8 + 1) * 8 + 8;
            let len = if more { len.next_multiple_of(8) } else { len };
            frames.push(fragment(&frame, 7, start, more, &vec![0xaa; len]));
        }
        let mut shuffled: Vec<_> = order.iter().cycle().zip(frames).collect();
        shuffled.sort_by_key(|(order, _)| **order);
        // Where a datagram passes whole, what comes later is another one: the receiver has forgotten this one too.
        let mut node = Node::with(Limits::default());
        let mut left: Vec<(usize, usize)> = Vec::new();
        let mut end = None;
        for ((_, frame), worker) in shuffled.iter().zip(workers.iter().cycle()) {
            for frame in node.send_by(*worker, ingress, frame) {
                let piece = read(&frame);
                let (start, stop) = (piece.offset, piece.offset + piece.bytes.len());
                prop_assert!(left.iter().all(|(s, e)| stop <= *s || start >= *e), "{start}..{stop} over {left:?}");
                prop_assert!(end.is_none_or(|end| stop <= end), "{start}..{stop} behind the end");
                left.push((start, stop));
                if !piece.more {
                    end = Some(stop);
                }
                if end == Some(left.iter().map(|(start, stop)| stop - start).sum()) {
                    (left, end) = (Vec::new(), None);
                }
            }
        }
        prop_assert!(parts > 0);
    }
}
