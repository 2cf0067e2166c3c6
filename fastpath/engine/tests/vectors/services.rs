//! Services: who is asked, who answers, and what each of them sees.

use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::flow::Protocol;
use atalho_engine::service::{Endpoint, Route, Vip, VipKey, VipKind};
use atalho_engine::verdict::{DropReason, PuntReason};

use ipnet::IpNet;

use crate::lab::packet::{ACK, Layer4, Packet, SYN, SYN_ACK};
use crate::lab::*;
use crate::{Vector, vector};

type End = (IpAddr, u16);

pub const VECTORS: &[Vector] = &[
    vector("Kubernetes, network model", "pods reach pods without translation", pod_to_pod_without_translation),
    vector(
        "Service v1, clusterIPs",
        "a ClusterIP leads to an endpoint here, behind the uplink, or of the node itself",
        cluster_ip,
    ),
    vector("RFC 4787 section 6", "hairpin: a pod reaches itself through its Service", hairpin),
    vector(
        "Service v1, nodePort",
        "a node port leads to an endpoint here, on another node, or of the node itself",
        node_port,
    ),
    vector(
        "Service v1, nodePort",
        "a process of the node asks its own node port; another one answers it, and whom the node forwards for, by way of us",
        own_node_port,
    ),
    vector(
        "Service v1, endpoints",
        "no endpoint, no port, no Service: each refused as it must be",
        refusals_of_services,
    ),
    vector("RFC 9293 section 3.5.2", "the middle of an unknown connection is given to no endpoint", middles),
    vector(
        "Service v1, loadBalancerSourceRanges",
        "who is in no range is dropped, also where nobody serves",
        source_ranges,
    ),
    vector(
        "Service v1, externalTrafficPolicy",
        "the node keeps its address and port, those whom it serves get its address",
        node_and_those_it_serves,
    ),
];

/// A request and its answer through a fresh table: (in, out) and (answer in, answer out), each with ingress and next hop.
struct Exchange<'a> {
    what: &'a str,
    from: u32,
    client: End,
    asked: End,
    to: u32,
    /// What the server sees.
    seen_client: Option<End>,
    server: End,
    answers_from: u32,
    answers_to: u32,
    /// TTL that is taken on the way there and on the way back.
    hops: [u8; 2],
}

impl Exchange<'_> {
    /// Runs the exchange with TCP (SYN, SYN-ACK, ACK) or UDP.
    fn run(&self, lab: &mut Lab, protocol: Layer4) {
        let what = &format!("{} ({protocol:?})", self.what);
        let (first, second) = if protocol == SYN { (SYN, SYN_ACK) } else { (Layer4::Udp, Layer4::Udp) };
        let asked = Packet::new(self.client, first, self.asked);
        let seen = lab.forwarded(what, self.from, &asked, self.to);
        let seen_client = self.seen_client.unwrap_or(seen.src);
        assert_eq!(seen.src, seen_client, "{what}: source that the server sees");
        assert_eq!(seen.dst, self.server, "{what}: destination that the server sees");
        assert_eq!(seen.ttl, 64 - self.hops[0], "{what}: TTL");
        assert_eq!(seen.payload, asked.payload, "{what}");

        let answer = Packet::new(self.server, second, seen_client);
        let expected = Packet::new(self.asked, second, self.client).ttl(64 - self.hops[1]);
        lab.forwards(what, self.answers_from, &answer, self.answers_to, &expected);

        let flags = if protocol == SYN { ACK } else { Layer4::Udp };
        let again = Packet::new(self.client, flags, self.asked).payload(b"the rest");
        let expected = Packet::new(seen_client, flags, self.server).payload(b"the rest").ttl(64 - self.hops[0]);
        lab.forwards(what, self.from, &again, self.to, &expected);
        assert_eq!(lab.books().admitted, 1, "{what}: one connection");
    }

    fn both(&self) {
        for protocol in [SYN, Layer4::Udp] {
            self.run(&mut Lab::new(), protocol);
        }
    }
}

fn pod_to_pod_without_translation() {
    for f in FAMILIES {
        let (client, web) = ((f.client(), 40_000), (f.web(), 8080));
        Exchange {
            what: "pod to pod on this node",
            from: CLIENT,
            client,
            asked: web,
            to: HOP_WEB,
            seen_client: Some(client),
            server: web,
            answers_from: WEB,
            answers_to: HOP_CLIENT,
            hops: [1, 1],
        }
        .both();
        let remote = (f.remote_pod(), 8080);
        Exchange {
            what: "pod to pod on another node, address kept",
            from: CLIENT,
            client,
            asked: remote,
            to: HOP_OTHER_NODE,
            seen_client: Some(client),
            server: remote,
            answers_from: UPLINK,
            answers_to: HOP_CLIENT,
            hops: [1, 1],
        }
        .both();
        let far = (f.remote_pod(), 50_000);
        Exchange {
            what: "pod of another node to a pod here",
            from: UPLINK,
            client: far,
            asked: web,
            to: HOP_WEB,
            seen_client: Some(far),
            server: web,
            answers_from: WEB,
            answers_to: HOP_OTHER_NODE,
            hops: [1, 1],
        }
        .both();
    }
}

fn cluster_ip() {
    for f in FAMILIES {
        let client = (f.client(), 40_000);
        for (protocol, port, target) in [(SYN, 80, 8080), (Layer4::Udp, 53, 5353)] {
            let local = Exchange {
                what: "pod to a ClusterIP with a backend on this node",
                from: CLIENT,
                client,
                asked: (f.vip_local(), port),
                to: HOP_WEB,
                seen_client: Some(client),
                server: (f.web(), target),
                answers_from: WEB,
                answers_to: HOP_CLIENT,
                hops: [1, 1],
            };
            local.run(&mut Lab::new(), protocol);
            let remote = Exchange {
                what: "pod to a ClusterIP with a backend behind the uplink",
                asked: (f.vip_remote(), port),
                to: HOP_OTHER_NODE,
                server: (f.remote_pod(), target),
                answers_from: UPLINK,
                ..local
            };
            remote.run(&mut Lab::new(), protocol);
            let node = (f.node(), 45_000);
            Exchange {
                what: "node process to a ClusterIP with a backend on this node: no hop is counted for the node",
                from: FUNNEL,
                client: node,
                seen_client: Some(node),
                answers_to: HOP_NODE,
                hops: [0, 0],
                ..local
            }
            .run(&mut Lab::new(), protocol);
            Exchange {
                what: "node process to a ClusterIP with a backend behind the uplink: the node's own address and port stay",
                from: FUNNEL,
                client: node,
                seen_client: Some(node),
                answers_to: HOP_NODE,
                hops: [0, 0],
                ..remote
            }
            .run(&mut Lab::new(), protocol);
        }
        Exchange {
            what: "pod to a ClusterIP whose endpoint is a process of this node",
            from: CLIENT,
            client,
            asked: (f.vip_node(), 80),
            to: HOP_NODE,
            seen_client: Some(client),
            server: (f.node(), 6443),
            answers_from: FUNNEL,
            answers_to: HOP_CLIENT,
            hops: [0, 0],
        }
        .run(&mut Lab::new(), SYN);
    }
}

fn hairpin() {
    for f in FAMILIES {
        for (protocol, port, target) in [(SYN, 80, 8080), (Layer4::Udp, 53, 5353)] {
            let mut lab = Lab::new();
            let asked = Packet::new((f.web(), 40_000), protocol, (f.vip_local(), port));
            let seen = lab.forwarded("a pod to itself through its Service", WEB, &asked, HOP_WEB);
            assert_eq!(seen.src.0, f.node(), "the source is the node, so that the answer comes back");
            assert_eq!(seen.dst, (f.web(), target));
            let back = if protocol == SYN { SYN_ACK } else { Layer4::Udp };
            let answer = Packet::new(seen.dst, back, seen.src);
            let expected = Packet::new((f.vip_local(), port), back, (f.web(), 40_000)).ttl(63);
            lab.forwards("its answer", WEB, &answer, HOP_WEB, &expected);
        }
    }
}

fn node_port() {
    for f in FAMILIES {
        let far = (f.far(), 50_000);
        let local = Exchange {
            what: "far host to a node port with a backend on this node",
            from: UPLINK,
            client: far,
            asked: (f.node(), NODE_PORT_WEB),
            to: HOP_WEB,
            seen_client: None,
            server: (f.web(), 8080),
            answers_from: WEB,
            answers_to: HOP_GATEWAY,
            hops: [1, 1],
        };
        local.both();
        Exchange {
            what: "far host to a node port with a backend on another node",
            asked: (f.node(), NODE_PORT_REMOTE),
            to: HOP_OTHER_NODE,
            server: (f.remote_pod(), 8080),
            answers_from: UPLINK,
            ..local
        }
        .both();
        Exchange {
            what: "far host to a node port whose backend is a process of this node: the client's address stays",
            asked: (f.node(), NODE_PORT_NODE),
            to: HOP_NODE,
            seen_client: Some(far),
            server: (f.node(), 6443),
            answers_from: FUNNEL,
            hops: [0, 0],
            ..local
        }
        .both();
        let mut lab = Lab::new();
        let asked = Packet::new(far, SYN, (f.node(), NODE_PORT_REMOTE));
        let seen = lab.forwarded("node port", UPLINK, &asked, HOP_OTHER_NODE);
        assert_eq!(seen.src.0, f.node(), "masqueraded");
        assert!(seen.src.1 >= 61_000, "from the range of its own: {}", seen.src.1);
    }
}

fn own_node_port() {
    for f in FAMILIES {
        let own = (f.node(), 45_000);
        let to_a_pod = Exchange {
            what: "the node to its own node port with a backend on this node",
            from: FUNNEL,
            client: own,
            asked: (f.node(), NODE_PORT_WEB),
            to: HOP_WEB,
            seen_client: Some(own),
            server: (f.web(), 8080),
            answers_from: WEB,
            answers_to: HOP_NODE,
            hops: [0, 0],
        };
        to_a_pod.both();
        let to_a_process = Exchange {
            what: "the node to its own node port whose backend is a process of it",
            asked: (f.node(), NODE_PORT_NODE),
            to: HOP_NODE,
            seen_client: None,
            server: (f.node(), 6443),
            answers_from: FUNNEL,
            hops: [0, 0],
            ..to_a_pod
        };
        to_a_process.both();
        let container: IpAddr = if f == Family::V4 { "172.17.0.2" } else { "fd00:172::2" }.parse().unwrap();
        Exchange { what: "somebody whom the node forwards for", client: (container, 45_000), ..to_a_process }.both();

        // Told apart from what the same client sends there without a Service.
        let mut lab = Lab::new();
        let seen = lab.forwarded("a process", FUNNEL, &Packet::new(own, SYN, (f.node(), NODE_PORT_NODE)), HOP_NODE);
        assert!(seen.src.0 == f.node() && seen.src.1 >= 61_000, "{:?}", seen.src);
    }
}

fn source_ranges() {
    for f in FAMILIES {
        let endpoint = Endpoint { address: f.web(), port: 8080, weight: 1, node: None, local: true };
        for endpoints in [vec![endpoint], vec![]] {
            let mut lab = Lab::new();
            let is_served = !endpoints.is_empty();
            let route = || side(endpoints.clone());
            let vip = Vip::new("default/web:http".into(), VipKind::LoadBalancer, route(), route());
            let vip = Vip { sources: Some([IpNet::from(f.far())].into()), ..vip };
            let asked = (f.vip_unallocated(), 80);
            let key = VipKey { address: asked.0, protocol: Protocol::Tcp, port: asked.1 };
            lab.tables.services = lab.tables.services.with_changes([(key, Some(Arc::new(vip)))]);
            let from_pod = Packet::new((f.client(), 40_000), SYN, asked).build();
            lab.drops("a pod in no range", CLIENT, &from_pod, DropReason::SourceRange);
            let middle = Packet::new((f.client(), 40_000), ACK, asked).build();
            lab.drops("in the middle of a connection", CLIENT, &middle, DropReason::SourceRange);
            let from_far = Packet::new((f.far(), 40_000), SYN, asked);
            if is_served {
                let seen = lab.forwarded("who is in the range", UPLINK, &from_far, HOP_WEB);
                assert_eq!(seen.dst, (f.web(), 8080));
            } else {
                lab.punts("who is in the range", UPLINK, &from_far.build(), PuntReason::NoEndpoint);
            }
        }
    }
}

fn node_and_those_it_serves() {
    for f in FAMILIES {
        let asked = (f.vip_unallocated(), 80);
        let endpoint = Endpoint { address: f.remote_pod(), port: 8080, weight: 1, node: None, local: false };
        // From inside no source is rewritten, but for what the node sends; whom it forwards for is outside.
        let route = |masquerade| Route { masquerade, ..side(vec![endpoint.clone()]) };
        let vip = Vip::new("default/far:http".into(), VipKind::LoadBalancer, route(false), route(true));
        let vip = Some(Arc::new(Vip { masquerade_node: true, ..vip }));
        let key = VipKey { address: asked.0, protocol: Protocol::Tcp, port: asked.1 };
        let container: IpAddr = match f {
            Family::V4 => [172, 17, 0, 2].into(),
            Family::V6 => [0xfd00, 0x172, 0, 0, 0, 0, 0, 2].into(),
        };
        for (what, client, kept) in [("the node", f.node(), true), ("another runtime's container", container, false)] {
            let mut lab = Lab::new();
            lab.tables.services = lab.tables.services.with_changes([(key, vip.clone())]);
            let packet = Packet::new((client, 45_000), SYN, asked);
            let seen = lab.forwarded(what, FUNNEL, &packet, HOP_OTHER_NODE);
            assert_eq!((seen.src.0, seen.dst), (f.node(), (f.remote_pod(), 8080)), "{what}");
            assert_eq!(seen.src.1 == 45_000, kept, "{what}: {}", seen.src.1);
            let answer = Packet::new(seen.dst, SYN_ACK, seen.src);
            let expected = Packet::new(asked, SYN_ACK, (client, 45_000));
            lab.forwards("its answer", UPLINK, &answer, HOP_NODE, &expected);
        }
    }
}

fn refusals_of_services() {
    for f in FAMILIES {
        let client = (f.client(), 40_000);
        let to = |dst, port| Packet::new(client, SYN, (dst, port)).build();
        let mut lab = Lab::new();
        lab.punts("no endpoint at all", CLIENT, &to(f.vip_empty(), 80), PuntReason::NoEndpoint);
        lab.drops("policy Local, none here", CLIENT, &to(f.vip_elsewhere(), 80), DropReason::NoLocalEndpoint);
        lab.punts(
            "a port that the Service does not have",
            CLIENT,
            &to(f.vip_local(), 81),
            PuntReason::UnknownServicePort,
        );
        lab.drops("an address that no Service has", CLIENT, &to(f.vip_unallocated(), 80), DropReason::NoVipPort);
        let echo = Packet::echo(f.client(), Layer4::EchoRequest(7), f.vip_local());
        lab.punts("echo to a VIP", CLIENT, &echo.build(), PuntReason::EchoToVip);
        assert_eq!(lab.books().admitted, 0);
        assert_eq!(lab.table.count(), 0);
    }
}

/// Whether there are endpoints, here or elsewhere, or none, or no such port, or no Service any more.
fn middles() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        for to in [
            (f.vip_local(), 80),
            (f.vip_empty(), 80),
            (f.vip_elsewhere(), 80),
            (f.vip_local(), 81),
            (f.vip_unallocated(), 80),
        ] {
            for flags in [ACK, SYN_ACK, Layer4::Tcp(1 | 16)] {
                let middle = Packet::new((f.client(), 40_000), flags, to);
                lab.punts("the middle of an unknown connection", CLIENT, &middle.build(), PuntReason::NoConnection);
            }
            let reset = Packet::new((f.client(), 40_000), Layer4::Tcp(4), to);
            lab.drops("a reset of an unknown connection", CLIENT, &reset.build(), DropReason::TcpNotSyn);
        }
        assert_eq!(lab.books().admitted, 0);
        assert_eq!(lab.table.count(), 0);
    }
}
