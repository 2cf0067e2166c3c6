//! The way out: hops that run out, links that are too short, neighbours that are not known.

use atalho_engine::verdict::{DropReason, PuntReason};

use crate::lab::packet::{Packet, SYN};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector(
        "RFC 1812 section 5.3.1",
        "TTL and hop limit: one taken, none left, none taken from the node itself",
        hops_run_out,
    ),
    vector("RFC 1191 section 4", "longer than the next link", longer_than_the_way_out),
    vector("RFC 4861 section 7.2", "neighbours that are not known yet, or no longer", neighbours_that_are_not_known),
];

fn hops_run_out() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let asked = |ttl| Packet::new((f.client(), 40_000), SYN, (f.vip_local(), 80)).ttl(ttl);
        lab.punts("TTL 1", CLIENT, &asked(1).build(), PuntReason::TtlExceeded);
        assert_eq!(lab.table.count(), 0, "a packet that cannot leave makes no flow");
        lab.forwards("TTL 2", CLIENT, &asked(2), HOP_WEB, &Packet { dst: (f.web(), 8080), ..asked(1) });
        lab.punts("TTL 1 of a flow", CLIENT, &asked(1).build(), PuntReason::TtlExceeded);
        lab.punts("TTL 0", CLIENT, &asked(0).build(), PuntReason::TtlExceeded);
        let to_node = Packet::new((f.far(), 50_000), SYN, (f.node(), NODE_PORT_NODE)).ttl(1);
        lab.forwards(
            "TTL 1 that ends here",
            UPLINK,
            &to_node,
            HOP_NODE,
            &Packet { dst: (f.node(), 6443), ..to_node.clone() },
        );
        let from_node = Packet::new((f.node(), 50_000), SYN, (f.vip_local(), 80)).ttl(1);
        lab.forwarded("TTL 1 that begins here", FUNNEL, &from_node, HOP_WEB);
    }
}

fn longer_than_the_way_out() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        lab.set_mtu(HOP_WEB, 1280);
        let header_bytes = if f == Family::V4 { 28 } else { 48 };
        let of = |bytes: usize| Packet::udp((f.client(), 1), (f.web(), 2)).payload(&vec![7; bytes - header_bytes]);
        lab.forwarded("as long as it may be", CLIENT, &of(1280), HOP_WEB);
        let sent = lab.punts("a byte longer", CLIENT, &of(1281).build(), PuntReason::TooBig);
        assert_eq!(sent.mtu, 1280);
    }
}

fn neighbours_that_are_not_known() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let asked = Packet::new((f.client(), 40_000), SYN, (f.stranger(), 80));
        let sent = lab.punts("no next hop yet", CLIENT, &asked.build(), PuntReason::NeighbourUnresolved);
        assert_eq!(sent.neighbour, Some(f.stranger()));

        let asked = Packet::new((f.client(), 40_000), SYN, (f.far(), 80));
        let gateway = lab.hops.get(HOP_GATEWAY).unwrap();
        lab.hops.set(HOP_GATEWAY, &atalho_engine::next_hops::NextHop { destination: None, ..gateway });
        let sent = lab.punts("a next hop without a MAC", CLIENT, &asked.build(), PuntReason::NeighbourUnresolved);
        assert_eq!(sent.neighbour, Some(f.gateway()), "the gateway is the neighbour, not the far host");
        assert_eq!(lab.table.count(), 0);
        lab.hops.set(HOP_GATEWAY, &gateway);
        lab.forwarded("resolved", CLIENT, &asked, HOP_GATEWAY);

        let from_stranger = Packet::new((f.stranger(), 5), SYN, (f.node(), NODE_PORT_WEB));
        let sent =
            lab.punts("a client that is not known", UPLINK, &from_stranger.build(), PuntReason::NeighbourUnresolved);
        assert_eq!(sent.neighbour, Some(f.stranger()));

        lab.hops.clear(HOP_GATEWAY);
        lab.drops("a next hop that is gone", CLIENT, &asked.build(), DropReason::NextHopGone);
    }
}
