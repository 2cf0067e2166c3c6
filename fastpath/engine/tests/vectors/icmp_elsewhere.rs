//! ICMP errors about flows that another node tracks: they come here because several nodes serve the Service's address.

use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::affinity::Affinity;
use atalho_engine::flow::Protocol;
use atalho_engine::service::{Backends, Endpoint, Route, Vip, VipKey, VipKind};
use atalho_engine::verdict::{DropReason, PuntReason, Verdict};

use crate::icmp_errors::translates;
use crate::lab::node::Node;
use crate::lab::packet::{Layer4, Packet, SYN, SYN_ACK, macs, verify};
use crate::lab::sctp::{INIT, INIT_ACK};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 5508 section 4.2", "another node's flow, the same endpoint on every node: translated", to_the_endpoint),
    vector("RFC 5927 section 4.1", "to an endpoint here only if its flow is known here", to_an_endpoint_here),
    vector("RFC 5508 section 4.2", "about an answer as the pod sent it", about_own_answer),
    vector("RFC 1191 section 3", "another node's flow, an endpoint of its own choice: to every other node", handed_on),
    vector(
        "RFC 1191 section 3",
        "from another node: by the quoted packet, whatever the destination",
        from_another_node,
    ),
    vector("RFC 5927 section 4.1", "about no flow that another node could track", tracked_by_nobody),
    vector(
        "RFC 1191 section 3",
        "another node's flow of an endpoint to itself: it is masqueraded",
        handed_on_for_itself,
    ),
];

/// What the client of a Service at port 38412 (SCTP), 53 (UDP) or 80 (TCP) gets.
fn answers(vip: IpAddr, client: IpAddr) -> [Packet; 3] {
    [(Layer4::Udp, 53), (SYN_ACK, 80), (Layer4::Sctp(INIT_ACK), 38412)]
        .map(|(layer4, port)| Packet::new((vip, port), layer4, (client, 50_000)).ttl(57))
}

/// The same as `endpoint` sent it.
fn sent_by(endpoint: IpAddr, answer: &Packet) -> Packet {
    let port = [(53, 5353), (80, 8080), (38412, 3868)].into_iter().find(|(port, _)| *port == answer.src.1).unwrap().1;
    Packet { src: (endpoint, port), ..answer.clone() }
}

/// The request that `answer` answers.
fn asked(answer: &Packet) -> Packet {
    let layer4 = match answer.layer4 {
        SYN_ACK => SYN,
        Layer4::Sctp(_) => Layer4::Sctp(INIT),
        other => other,
    };
    Packet::new(answer.dst, layer4, answer.src)
}

fn to_the_endpoint() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        for answer in answers(f.vip_remote(), f.far()) {
            let sent = sent_by(f.remote_pod(), &answer);
            for from in [f.gateway(), f.far()] {
                translates(&mut lab, "endpoint elsewhere", UPLINK, from, &answer, HOP_OTHER_NODE, from, &sent);
            }
        }
        // A process of this node is in nobody's table but the one of its stack.
        let answer = Packet::new((f.vip_node(), 80), SYN_ACK, (f.far(), 50_000)).ttl(57);
        let sent = Packet { src: (f.node(), 6443), ..answer.clone() };
        translates(&mut lab, "the node itself", UPLINK, f.gateway(), &answer, HOP_NODE, f.gateway(), &sent);
        assert_eq!(lab.books().admitted, 0, "it makes no flow");
    }
}

fn to_an_endpoint_here() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        for answer in answers(f.vip_local(), f.far()) {
            let sent = sent_by(f.web(), &answer);
            lab.drops("unknown", UPLINK, &answer.unreachable(f.gateway()), DropReason::IcmpUnknownFlow);
            // As the other node, which translates, sends it.
            lab.forwarded("request", UPLINK, &asked(&sent), HOP_WEB);
            translates(&mut lab, "known", UPLINK, f.gateway(), &answer, HOP_WEB, f.gateway(), &sent);
            let other = Packet { dst: (f.far(), 50_001), ..answer };
            lab.drops("about another", UPLINK, &other.unreachable(f.gateway()), DropReason::IcmpUnknownFlow);
        }
    }
}

fn about_own_answer() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        for answer in answers(f.vip_local(), f.far()) {
            let sent = sent_by(f.web(), &answer);
            lab.drops("unknown", UPLINK, &sent.unreachable(f.gateway()), DropReason::IcmpUnknownFlow);
            lab.forwarded("request", UPLINK, &asked(&answer), HOP_WEB);
            translates(&mut lab, "as sent", UPLINK, f.gateway(), &sent, HOP_WEB, f.gateway(), &sent);
            translates(&mut lab, "as received", UPLINK, f.gateway(), &answer, HOP_WEB, f.gateway(), &sent);
            let error = sent.unreachable(f.client());
            lab.drops("from a pod, which never saw it", CLIENT, &error, DropReason::IcmpUnknownFlow);
        }
        // Nobody out there sees a pod's packet before it is masqueraded.
        let request = Packet::udp((f.client(), 40_000), (f.far(), 53));
        lab.forwarded("masqueraded", CLIENT, &request, HOP_GATEWAY);
        lab.drops("before", UPLINK, &request.unreachable(f.gateway()), DropReason::IcmpUnknownFlow);
    }
}

/// Services at `vip_remote` that do not choose alike on every node.
fn own_choices(f: Family) -> Vec<(&'static str, Vip)> {
    let endpoint = |address| Endpoint { address, port: 5353, weight: 1, node: None, local: false };
    let two = vec![endpoint(f.remote_pod()), endpoint(f.web())];
    let service = |route: Route, affinity| Vip {
        affinity,
        ..Vip::new("default/far:dns".into(), VipKind::ClusterIP, route.clone(), route)
    };
    let masqueraded = Route { masquerade: true, ..side(vec![endpoint(f.remote_pod())]) };
    let local = |endpoints| Route { drop_without_backend: true, ..side(endpoints) };
    let random = Route { backends: Arc::new(Backends::random(two.clone())), ..side(vec![]) };
    let nearby =
        Route { backends: Arc::new(Backends { is_nearby: true, ..Backends::maglev(two.clone()) }), ..side(vec![]) };
    vec![
        ("masqueraded", service(masqueraded, None)),
        ("endpoints near each node", service(nearby, None)),
        ("policy Local, endpoints here too", service(local(two.clone()), None)),
        ("policy Local, none here", service(local(vec![]), None)),
        ("session affinity", service(side(two), Some(Affinity { service: 7, timeout_s: 60 }))),
        ("scheduler random", service(random, None)),
    ]
}

fn serve(lab: &mut Lab, f: Family, vip: Vip) {
    let key = VipKey { address: f.vip_remote(), protocol: Protocol::Udp, port: 53 };
    lab.tables.services = lab.tables.services.with_changes([(key, Some(Arc::new(vip)))]);
}

fn handed_on() {
    for f in FAMILIES {
        for (what, vip) in own_choices(f) {
            let mut node = Node::new();
            serve(&mut node.lab, f, vip);
            let [answer, ..] = answers(f.vip_remote(), f.far());
            let error = answer.unreachable(f.gateway());
            let out = node.send(UPLINK, &error);
            let [copy] = &out[..] else { panic!("{what}: {} copies for one other node", out.len()) };
            let (came, left) = (verify(&error), verify(copy));
            assert_eq!((left.src.0, left.dst.0), (f.gateway(), f.other_node()), "{what}");
            assert_eq!((left.ttl, left.payload), (came.ttl - 1, came.payload), "{what}: the quotation as it came");
            assert_eq!(macs(copy), (OTHER_NODE_MAC, UPLINK_MAC), "{what}");
            assert_eq!(node.admitted(), 0, "{what}");
            // There it is a node's affair, and goes no further.
            let mut there = Lab::new();
            there.tables.node = Arc::new(atalho_engine::tables::Node {
                addresses: vec![f.other_node()],
                ..(*there.tables.node).clone()
            });
            there.drops("its flow is gone", UPLINK, copy, DropReason::IcmpUnknownFlow);
        }
    }
}

fn handed_on_for_itself() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let [answer, ..] = answers(f.vip_remote(), f.remote_pod());
        let error = answer.unreachable(f.other_node());
        lab.punts("an endpoint that asked itself", UPLINK, &error, PuntReason::TrackedElsewhere);
    }
}

fn from_another_node() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let (_, masqueraded) = own_choices(f).remove(0);
        serve(&mut lab, f, masqueraded);
        let [answer, ..] = answers(f.vip_remote(), f.far());
        let seen = lab.forwarded("request", UPLINK, &asked(&answer), HOP_OTHER_NODE);
        assert_eq!((seen.src.0, seen.dst), (f.node(), (f.remote_pod(), 5353)), "masqueraded");
        let sent = Packet { src: seen.dst, dst: seen.src, ..answer.clone() };
        let error = |to, about: &Packet| {
            let kind = icmp::port_unreachable(f == Family::V4);
            icmp::error(f.gateway(), to, kind, [0; 4], &about.build()[14..])
        };
        for to in [answer.src.0, f.node()] {
            let out = lab.send(UPLINK, &error(to, &answer));
            assert_eq!(out.verdict, Verdict::Forward { next_hop: HOP_OTHER_NODE }, "{to}");
            let told = verify(&out.frame);
            assert_eq!((told.src.0, told.dst.0), (f.gateway(), f.remote_pod()), "{to}");
            assert_eq!(told.payload, sent.build()[14..], "{to}: as the endpoint had sent it");
        }
        // Only a node hands on, and only what is about a Service.
        lab.drops("to another host", UPLINK, &error(f.other_node(), &answer), DropReason::IcmpQuote);
        lab.drops("to a pod", UPLINK, &error(f.web(), &answer), DropReason::IcmpQuote);
        let from_pod = icmp::error(f.client(), f.node(), [3, 1], [0; 4], &answer.build()[14..]);
        lab.drops("by a pod", CLIENT, &from_pod, DropReason::IcmpQuote);
        let plain = Packet::udp((f.web(), 5353), (f.far(), 50_000));
        lab.forwarded("plain", UPLINK, &asked(&plain), HOP_WEB);
        lab.drops("about a plain flow", UPLINK, &error(f.node(), &plain), DropReason::IcmpQuote);
    }
}

fn tracked_by_nobody() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let (_, masqueraded) = own_choices(f).remove(0);
        serve(&mut lab, f, masqueraded);
        let answer = |vip, client| Packet::udp((vip, 53), (client, 50_000));
        let about = |answer: Packet| answer.unreachable(f.gateway());
        const UNKNOWN: DropReason = DropReason::IcmpUnknownFlow;
        for client in [f.client(), f.node()] {
            lab.drops("clients of this node", UPLINK, &about(answer(f.vip_remote(), client)), UNKNOWN);
        }
        let own = answer(f.vip_remote(), f.client()).unreachable(f.client());
        lab.drops("a pod's own", CLIENT, &own, UNKNOWN);
        lab.drops(
            "no such port",
            UPLINK,
            &about(Packet { src: (f.vip_remote(), 54), ..answer(f.vip_remote(), f.far()) }),
            UNKNOWN,
        );
        lab.drops("no such Service", UPLINK, &about(answer(f.vip_unallocated(), f.far())), UNKNOWN);
        let nobody = Packet { layer4: SYN_ACK, src: (f.vip_empty(), 80), ..answer(f.vip_empty(), f.far()) };
        lab.drops("no endpoint", UPLINK, &about(nobody), UNKNOWN);
        let nodes_own = Packet { src: (f.node(), NODE_PORT_WEB), ..answer(f.node(), f.far()) };
        lab.drops("a node port is its node's", UPLINK, &about(nodes_own), DropReason::NotForUs);

        let mut last_hop = about(answer(f.vip_remote(), f.far()));
        lab.punts("another node's", UPLINK, &last_hop, PuntReason::TrackedElsewhere);
        if f == Family::V4 {
            last_hop = damage::mended(&last_hop, &[(22, 1)]);
        } else {
            last_hop[21] = 1;
        }
        lab.drops("out of hops", UPLINK, &last_hop, DropReason::TtlExceededSilently);
        lab.tables.other_nodes = Arc::default();
        lab.drops("there is no other node", UPLINK, &about(answer(f.vip_remote(), f.far())), UNKNOWN);
    }
}
