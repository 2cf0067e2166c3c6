//! Packets that are longer than their way out, and may be cut: IPv4 without "don't fragment".

use std::net::IpAddr;

use atalho_engine::verdict::DropReason;

use crate::lab::node::{BUFFERS, Node};
use crate::lab::packet::{Packet, verify};
use crate::lab::pieces::{self, IDENTIFICATION, join};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 1812 section 4.2.2.7", "cut to the next link's MTU, translated and addressed", cut_to_the_mtu),
    vector("RFC 791 section 3.2", "a fragment is cut again", cut_again),
    vector("RFC 791 section 3.1", "options with the copied flag stand in every fragment, others in the first", options),
    vector("RFC 1191 section 4", "not cut: \"don't fragment\", IPv6, and links without room", not_cut),
    vector("RFC 1812 section 4.2.2.7", "all or nothing where buffers run out", without_buffers),
];

const F: Family = Family::V4;

fn asked(dst: (IpAddr, u16), bytes: usize) -> Packet {
    let payload: Vec<u8> = (0..bytes).map(|at| (at * 11) as u8).collect();
    Packet { dont_fragment: false, ..Packet::udp((F.client(), 40_000), dst).payload(&payload) }
}

/// Every frame is as long as it may be, but the last one.
#[track_caller]
fn fill_the_mtu(frames: &[Vec<u8>], mtu: usize) {
    let (last, others) = frames.split_last().unwrap();
    assert!(others.iter().all(|frame| (mtu - 7..=mtu).contains(&(frame.len() - 14))), "{others:?}");
    assert!(last.len() - 14 <= mtu);
}

fn cut_to_the_mtu() {
    for mtu in [68, 576, 1280, 1499] {
        let mut node = Node::new();
        node.lab.set_mtu(HOP_WEB, mtu);
        let packet = asked((F.vip_local(), 53), 1400.max(usize::from(mtu)));
        let out = node.send(CLIENT, &packet.build());
        fill_the_mtu(&out, usize::from(mtu));
        assert!(out.iter().all(|frame| frame[..14] == out[0][..14]), "all to the same station");
        assert_eq!(out[0][..6], atalho_layout::tag_mac(WEB));
        let seen = verify(&join(&out).expect("a whole datagram"));
        assert_eq!((seen.src, seen.dst, seen.ttl), (packet.src, (F.web(), 5353), 63), "{mtu}");
        assert_eq!(seen.payload, packet.payload);

        // The flow is there: what fits goes on by itself, and the answer is translated back.
        assert_eq!(node.send(CLIENT, &asked((F.vip_local(), 53), 8).build()).len(), 1);
        let answer = Packet::udp((F.web(), 5353), (F.client(), 40_000));
        assert_eq!(verify(&node.send(WEB, &answer.build())[0]).src, (F.vip_local(), 53));
        assert_eq!((node.admitted(), node.dropped_in_all()), (1, 0));
    }
    // Masqueraded, by the uplink.
    let mut node = Node::new();
    node.lab.set_mtu(HOP_GATEWAY, 1000);
    let packet = asked((F.far(), 9), 1400);
    let seen = verify(&join(&node.send(CLIENT, &packet.build())).expect("a whole datagram"));
    assert_eq!((seen.src.0, seen.dst, seen.payload), (F.node(), packet.dst, packet.payload));
}

fn cut_again() {
    let mut node = Node::new();
    node.lab.set_mtu(HOP_WEB, 500);
    let packet = asked((F.vip_local(), 53), 2500);
    let parts = pieces::cut(&packet.build(), IDENTIFICATION, &[800, 1600]);
    for order in [[0, 1, 2], [2, 1, 0]] {
        let frames = order.map(|at| parts[at].clone());
        let out = node.send_all(CLIENT, &frames);
        assert_eq!(out.len(), 6);
        let seen = verify(&join(&out).expect("a whole datagram"));
        assert_eq!((seen.dst, seen.payload), ((F.web(), 5353), packet.payload.clone()));
    }
    assert_eq!(node.dropped_in_all(), 0);
}

fn options() {
    // Router alert has the copied flag (RFC 2113), record route has not (RFC 791).
    let packet = asked((F.vip_local(), 53), 1000).options(&[7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0]);
    let mut node = Node::new();
    node.lab.set_mtu(HOP_WEB, 576);
    let out = node.send(CLIENT, &packet.build());
    assert_eq!(out[0][34..46], packet.options);
    for later in &out[1..] {
        assert_eq!(later[14] & 15, 6, "one word of options");
        assert_eq!(later[34..38], [148, 4, 0, 0]);
    }
    let seen = verify(&join(&out).expect("a whole datagram"));
    assert_eq!(seen.payload, packet.payload);
}

fn not_cut() {
    let mut node = Node::new();
    node.lab.set_mtu(HOP_WEB, 1000);
    for f in FAMILIES {
        let packet = Packet::udp((f.client(), 1), (f.web(), 2)).payload(&[0; 1200]);
        let out = node.send(CLIENT, &packet.build());
        let [answer] = &out[..] else { panic!("{} frames", out.len()) };
        let seen = verify(answer);
        assert_eq!((seen.src.0, seen.dst.0, seen.layer4), (f.node(), f.client(), None), "{f:?}: an error comes back");
        assert_eq!(answer[..6], atalho_layout::tag_mac(CLIENT));
        let mtu_at = if f == Family::V4 { 14 + 20 + 6 } else { 14 + 40 + 6 };
        assert_eq!(answer[mtu_at..mtu_at + 2], 1000_u16.to_be_bytes());
    }
    node.lab.set_mtu(HOP_WEB, 27);
    assert!(node.send(CLIENT, &asked((F.vip_local(), 53), 100).build()).is_empty());
    assert_eq!(node.dropped(DropReason::TooBig), 1);
}

fn without_buffers() {
    let mut node = Node::new();
    node.lab.set_mtu(HOP_WEB, 68);
    let fits = 48 * BUFFERS - 8;
    assert_eq!(node.send(CLIENT, &asked((F.vip_local(), 53), fits).build()).len(), BUFFERS);
    assert!(node.send(CLIENT, &asked((F.vip_local(), 53), fits + 1).build()).is_empty());
    assert_eq!(node.dropped(DropReason::PuntQueueFull), 1);
    assert_eq!(node.send(CLIENT, &asked((F.vip_local(), 53), fits).build()).len(), BUFFERS, "and they are back");
}
