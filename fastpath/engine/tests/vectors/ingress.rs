//! Ports by which packets come in: who may send what there, and what is not ours.

use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::flow::Protocol;
use atalho_engine::route::{Route, RouteTarget, Routes};
use atalho_engine::service::{Endpoint, VipKey, VipKind};
use atalho_engine::verdict::{DropReason, PuntReason};

use crate::lab::packet::{ACK, Layer4, Packet, SYN, SYN_ACK};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector(
        "RFC 2827 section 3",
        "a source that does not belong to the port is dropped, also one with the key of a flow",
        what_comes_in_by_the_wrong_port,
    ),
    vector("RFC 1812 section 5.2.1", "what is for the node or between others is left alone", what_is_not_ours),
    vector("RFC 1812 section 5.2.1", "what only the node's stack has a way to goes there", what_the_node_forwards),
];

fn what_comes_in_by_the_wrong_port() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let to_web = |src| Packet::new((src, 40_000), SYN, (f.web(), 8080)).build();
        lab.drops("another pod's address", CLIENT, &to_web(f.remote_pod()), DropReason::WrongSource);
        lab.drops("a pod's address from outside", UPLINK, &to_web(f.client()), DropReason::Martian);
        lab.drops("the node's address from outside", UPLINK, &to_web(f.node()), DropReason::Martian);
        lab.drops("a port that nobody has", 77, &to_web(f.client()), DropReason::UnknownPort);

        lab.forwarded("a true flow", CLIENT, &Packet::new((f.client(), 1), SYN, (f.web(), 2)), HOP_WEB);
        let forged = Packet::new((f.client(), 1), ACK, (f.web(), 2)).build();
        lab.drops("its key from outside", UPLINK, &forged, DropReason::Martian);
        lab.drops("its key from another pod", WEB, &forged, DropReason::WrongSource);
    }
}

fn what_is_not_ours() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let ssh = Packet::new((f.far(), 50_000), SYN, (f.node(), 22));
        lab.drops("the node's own listener", UPLINK, &ssh.build(), DropReason::NotForUs);
        let transit = Packet::new((f.far(), 50_000), SYN, (f.other_node(), 22));
        lab.drops("transit", UPLINK, &transit.build(), DropReason::NotForUs);
        let own = Packet::new((f.client(), 50_000), SYN, (f.node(), 10_250));
        lab.forwards("a pod to its node's own port, as it is", CLIENT, &own, HOP_NODE, &own);
        assert_eq!(lab.table.count(), 0);
    }
    let mut lab = Lab::new();
    let blackhole = Packet::new((Family::V4.client(), 1), SYN, ("198.51.100.1".parse().unwrap(), 80));
    lab.drops("a blackhole", CLIENT, &blackhole.build(), DropReason::NoRoute);
}

fn what_the_node_forwards() {
    for f in FAMILIES {
        let (net, container) = match f {
            Family::V4 => ("172.17.0.0/24", "172.17.0.2"),
            Family::V6 => ("fd00:172::/64", "fd00:172::2"),
        };
        let container: IpAddr = container.parse().unwrap();
        let mut lab = Lab::new();
        let elsewhere = Route { destination: net.parse().unwrap(), target: RouteTarget::Elsewhere };
        lab.tables.routes = Arc::new(Routes::new(vec![elsewhere], []));
        // Its request came past us, so the answer begins in the middle.
        for flags in [SYN, SYN_ACK, ACK] {
            let packet = Packet::new((f.web(), 8080), flags, (container, 50_000));
            lab.forwards("a pod to another runtime's container", WEB, &packet, HOP_NODE, &packet);
        }
        let reply = Packet::echo(f.web(), Layer4::EchoReply(7), container);
        lab.forwards("a pod's echo reply", WEB, &reply, HOP_NODE, &reply);
        assert_eq!(lab.table.count(), 0);

        let key = VipKey { address: f.vip_unallocated(), protocol: Protocol::Tcp, port: 80 };
        let endpoint = Endpoint { address: container, port: 8080, weight: 1, node: None, local: false };
        let service = vip("default/past:http", VipKind::ClusterIP, side(vec![endpoint.clone()]), side(vec![endpoint]));
        lab.tables.services = lab.tables.services.with_changes([(key, service)]);
        let asked = Packet::new((f.client(), 40_000), SYN, (key.address, 80)).build();
        lab.punts("an endpoint that would answer past us", CLIENT, &asked, PuntReason::Unreachable);
    }
}
