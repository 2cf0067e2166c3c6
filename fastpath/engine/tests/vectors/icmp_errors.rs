//! ICMP errors about packets of flows: translated outside and inside, whoever sends them, whichever way.

use std::net::IpAddr;

use atalho_engine::verdict::{DropReason, PuntReason, Verdict};

use crate::lab::icmp;
use crate::lab::packet::{ACK, Layer4, Packet, SYN, SYN_ACK, verify};
use crate::lab::sctp::{INIT, INIT_ACK};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector(
        "RFC 5508 section 4.2",
        "about requests: to pods, far hosts and the node, by every kind of translation",
        about_requests,
    ),
    vector("RFC 5508 section 4.2", "about answers, to the endpoint that gave them", about_answers),
    vector("RFC 5508 section 4.2", "about an echo", about_echoes),
    vector("RFC 792", "every type and code, with what stands behind the checksum", every_kind),
    vector("RFC 5508 section 4.1", "a wrong ICMP checksum", wrong_checksum),
    vector("RFC 5927 section 4.1", "a connection goes on after an error about it", connection_goes_on),
    vector("RFC 1122 section 3.2.2", "nobody answers an error: out of hops, or longer than the link", not_answered),
];

type End = (IpAddr, u16);

/// A flow, and who may send errors about it. Routers stand where a packet has left us.
struct Case {
    what: &'static str,
    from: u32,
    client: End,
    asked: End,
    layer4: Layer4,
    to: u32,
    answers_from: u32,
    answers_to: u32,
    /// Who sends an error about the request, besides the server.
    router: Option<IpAddr>,
    /// Who sends one about the answer, besides the client.
    router_back: Option<IpAddr>,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for f in FAMILIES {
        for (layer4, port) in [(Layer4::Udp, 53), (SYN, 80), (Layer4::Sctp(INIT), 38412)] {
            let pod = Case {
                what: "a pod to a ClusterIP, endpoint here",
                from: CLIENT,
                client: (f.client(), 40_000),
                asked: (f.vip_local(), port),
                layer4,
                to: HOP_WEB,
                answers_from: WEB,
                answers_to: HOP_CLIENT,
                router: None,
                router_back: None,
            };
            let outside = Case {
                from: UPLINK,
                client: (f.far(), 50_000),
                answers_to: HOP_GATEWAY,
                router_back: Some(f.gateway()),
                ..pod
            };
            let node = Case { from: FUNNEL, client: (f.node(), 45_000), answers_to: HOP_NODE, ..pod };
            let beyond =
                |case: &Case| Case { to: HOP_OTHER_NODE, answers_from: UPLINK, router: Some(f.other_node()), ..*case };
            cases.extend([
                Case {
                    what: "a pod to a ClusterIP, endpoint beyond the uplink",
                    asked: (f.vip_remote(), port),
                    ..beyond(&pod)
                },
                Case {
                    what: "a pod to a far host, masqueraded",
                    asked: (f.far(), 443),
                    to: HOP_GATEWAY,
                    router: Some(f.gateway()),
                    ..beyond(&pod)
                },
                Case {
                    what: "a pod to itself through its Service",
                    from: WEB,
                    client: (f.web(), 40_000),
                    answers_to: HOP_WEB,
                    ..pod
                },
                Case { what: "a far host to a node port, endpoint here", asked: (f.node(), NODE_PORT_WEB), ..outside },
                Case {
                    what: "a far host to a node port, endpoint beyond the uplink",
                    asked: (f.node(), NODE_PORT_REMOTE),
                    ..beyond(&outside)
                },
                Case {
                    what: "a pod of another node to a pod, nothing translated",
                    client: (f.remote_pod(), 50_000),
                    asked: (f.web(), 8080),
                    answers_to: HOP_OTHER_NODE,
                    router_back: Some(f.other_node()),
                    ..outside
                },
                Case {
                    what: "the node to a ClusterIP, endpoint beyond the uplink",
                    asked: (f.vip_remote(), port),
                    ..beyond(&node)
                },
                Case { what: "the node to a ClusterIP, endpoint here", ..node },
                Case {
                    what: "a far host to a node port, endpoint the node itself",
                    asked: (f.node(), NODE_PORT_NODE),
                    to: HOP_NODE,
                    answers_from: FUNNEL,
                    ..outside
                },
                pod,
            ]);
        }
    }
    cases
}

impl Case {
    /// The request, and how the server sees it.
    fn begin(&self, lab: &mut Lab) -> (Packet, Packet) {
        let request = Packet::new(self.client, self.layer4, self.asked);
        let seen = lab.forwarded(self.what, self.from, &request, self.to);
        let delivered = Packet { src: seen.src, dst: seen.dst, ttl: seen.ttl, ..request.clone() };
        (request, delivered)
    }

    fn answer_layer4(&self) -> Layer4 {
        match self.layer4 {
            Layer4::Tcp(_) => SYN_ACK,
            Layer4::Sctp(_) => Layer4::Sctp(INIT_ACK),
            other => other,
        }
    }
}

/// Sends an error about `delivered` by `ingress`; it must leave by `hop` as one about `original`, from `shown`.
#[track_caller]
pub fn translates(
    lab: &mut Lab,
    what: &str,
    ingress: u32,
    from: IpAddr,
    delivered: &Packet,
    hop: u32,
    shown: IpAddr,
    original: &Packet,
) {
    let kind = icmp::port_unreachable(from.is_ipv4());
    let error = icmp::error(from, delivered.src.0, kind, [0; 4], &delivered.build()[14..]);
    let sent = lab.send(ingress, &error);
    assert_eq!(sent.verdict, Verdict::Forward { next_hop: hop }, "{what}: {from}");
    let seen = verify(&sent.frame);
    assert_eq!((seen.src.0, seen.dst.0), (shown, original.src.0), "{what}: {from}");
    let quoted = Packet { ttl: delivered.ttl, ..original.clone() };
    assert_eq!(seen.payload, quoted.build()[14..], "{what}: {from}: its own packet, but for the TTL");
}

fn about_requests() {
    for case in cases() {
        let mut lab = Lab::new();
        let (request, delivered) = case.begin(&mut lab);
        let server = delivered.dst.0;
        let mut error_from = |from, shown| {
            translates(&mut lab, case.what, case.answers_from, from, &delivered, case.answers_to, shown, &request);
        };
        // The server hides behind what was asked; a router shows itself.
        error_from(server, case.asked.0);
        if let Some(router) = case.router {
            error_from(router, router);
        }
    }
}

fn about_answers() {
    for case in cases() {
        let mut lab = Lab::new();
        let (_, delivered) = case.begin(&mut lab);
        let answer = Packet::new(delivered.dst, case.answer_layer4(), delivered.src);
        let seen = lab.forwarded(case.what, case.answers_from, &answer, case.answers_to);
        let received = Packet { src: seen.src, dst: seen.dst, ttl: seen.ttl, ..answer.clone() };
        let mut error_from = |from, shown| {
            translates(&mut lab, case.what, case.from, from, &received, case.to, shown, &answer);
        };
        error_from(case.client.0, delivered.src.0);
        if let Some(router) = case.router_back {
            error_from(router, router);
        }
    }
}

fn about_echoes() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let request = Packet::echo(f.client(), Layer4::EchoRequest(77), f.far());
        let seen = lab.forwarded("a pod pings a far host", CLIENT, &request, HOP_GATEWAY);
        let delivered =
            Packet { layer4: seen.layer4.unwrap(), ttl: seen.ttl, ..Packet::echo(seen.src.0, request.layer4, f.far()) };
        translates(&mut lab, "router", UPLINK, f.gateway(), &delivered, HOP_CLIENT, f.gateway(), &request);
        translates(&mut lab, "host", UPLINK, f.far(), &delivered, HOP_CLIENT, f.far(), &request);
    }
}

fn every_kind() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let request = Packet::udp((f.client(), 40_000), (f.far(), 9));
        let seen = lab.forwarded("request", CLIENT, &request, HOP_GATEWAY);
        let quote = &Packet { src: seen.src, ..request }.build()[14..];
        for kind in icmp::kinds(f == Family::V4) {
            // An MTU, a pointer, the length of a quotation: whatever it means.
            let rest = [0x12, 0x34, 0x05, 0x78];
            let sent = lab.send(UPLINK, &icmp::error(f.gateway(), f.node(), kind, rest, quote));
            assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_CLIENT }, "{kind:?}");
            let at = if f == Family::V4 { 34 } else { 54 };
            assert_eq!(sent.frame[at..at + 2], kind);
            assert_eq!(sent.frame[at + 4..at + 8], rest);
        }
    }
}

fn wrong_checksum() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let request = Packet::udp((f.client(), 40_000), (f.far(), 9));
        let seen = lab.forwarded("request", CLIENT, &request, HOP_GATEWAY);
        let mut damaged = Packet { src: seen.src, ..request }.unreachable(f.gateway());
        *damaged.last_mut().unwrap() ^= 1;
        lab.drops("damaged", UPLINK, &damaged, DropReason::BadChecksum);
    }
}

fn connection_goes_on() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let (client, vip, web) = ((f.client(), 40_000), (f.vip_local(), 80), (f.web(), 8080));
        lab.forwarded("SYN", CLIENT, &Packet::new(client, SYN, vip), HOP_WEB);
        let delivered = Packet::new(client, SYN, web).ttl(63);
        for kind in icmp::kinds(f == Family::V4) {
            let error = icmp::error(f.web(), f.client(), kind, [0; 4], &delivered.build()[14..]);
            assert_eq!(lab.send(WEB, &error).verdict, Verdict::Forward { next_hop: HOP_CLIENT });
        }
        let answer = Packet::new(web, SYN_ACK, client);
        lab.forwards("answer", WEB, &answer, HOP_CLIENT, &Packet::new(vip, SYN_ACK, client).ttl(63));
        lab.forwarded("acknowledgement", CLIENT, &Packet::new(client, ACK, vip).sequence(0x0102_0305), HOP_WEB);
        assert_eq!(lab.books().admitted, 1);
    }
}

fn not_answered() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let header_bytes = if f == Family::V4 { 28 } else { 48 };
        let request = Packet::udp((f.client(), 40_000), (f.far(), 9)).payload(&vec![7; 1300 - header_bytes]);
        let seen = lab.forwarded("request", CLIENT, &request, HOP_GATEWAY);
        let mut error = Packet { src: seen.src, ..request.clone() }.unreachable(f.gateway());
        if f == Family::V4 {
            error = damage::mended(&error, &[(22, 1)]);
        } else {
            error[21] = 1;
        }
        lab.drops("out of hops", UPLINK, &error, DropReason::TtlExceededSilently);
        lab.set_mtu(HOP_CLIENT, 500);
        let error = Packet { src: seen.src, ..request.clone() }.unreachable(f.gateway());
        lab.drops("longer than the link", UPLINK, &error, DropReason::TooBig);
        // What it is about would be.
        lab.set_mtu(HOP_GATEWAY, 1280);
        lab.punts("the packet itself", CLIENT, &request.build(), PuntReason::TooBig);
    }
}
