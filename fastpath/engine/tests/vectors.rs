//! Vectors: a description, a packet in, a verdict, a packet out, in both families.

mod lab;

use std::net::IpAddr;

use atalho_engine::verdict::{DropReason, PuntReason, Verdict};
use lab::packet::{ACK, ACKNOWLEDGED, Layer4, Packet, SYN, SYN_ACK, read_quoted, verify};
use lab::*;

type End = (IpAddr, u16);

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

#[test]
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

#[test]
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

#[test]
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

#[test]
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

#[test]
fn a_pods_way_out_is_masqueraded_and_its_answers_return() {
    for f in FAMILIES {
        for protocol in [SYN, Layer4::Udp] {
            let mut lab = Lab::new();
            let asked = Packet::new((f.client(), 40_000), protocol, (f.far(), 443));
            let seen = lab.forwarded("pod to far host", CLIENT, &asked, HOP_GATEWAY);
            assert_eq!((seen.src.0, seen.dst), (f.node(), (f.far(), 443)));
            assert!(seen.src.1 >= 61_000);
            let back = if protocol == SYN { SYN_ACK } else { Layer4::Udp };
            let expected = Packet::new((f.far(), 443), back, (f.client(), 40_000)).ttl(63);
            lab.forwards("its answer", UPLINK, &Packet::new((f.far(), 443), back, seen.src), HOP_CLIENT, &expected);
        }
        let mut lab = Lab::new();
        lab.tables.cluster = Default::default();
        let asked = Packet::new((f.client(), 40_000), SYN, (f.far(), 443));
        let seen = lab.forwarded("nobody says what a pod is", CLIENT, &asked, HOP_GATEWAY);
        assert_eq!(seen.src, (f.client(), 40_000), "not masqueraded");
    }
}

#[test]
fn many_flows_to_one_destination_get_ports_of_their_own() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let mut taken = std::collections::HashSet::new();
        for port in 1000..1500 {
            let asked = Packet::new((f.client(), port), SYN, (f.far(), 443));
            let seen = lab.forwarded("pod to far host", CLIENT, &asked, HOP_GATEWAY);
            assert!(taken.insert(seen.src.1), "port {} twice", seen.src.1);
        }
    }
}

#[test]
fn source_ports_run_out_by_name() {
    let f = Family::V4;
    let mut lab = Lab::new();
    lab.tables.settings = atalho_engine::tables::Settings { snat_ports: 61_000..=61_003, ..Default::default() }.into();
    for port in 1..=4 {
        let asked = Packet::new((f.client(), port), SYN, (f.far(), 443));
        lab.forwarded("within the range", CLIENT, &asked, HOP_GATEWAY);
    }
    let fifth = Packet::new((f.client(), 5), SYN, (f.far(), 443));
    lab.drops("beyond the range", CLIENT, &fifth.build(), DropReason::SnatPortsExhausted);
    let elsewhere = Packet::new((f.client(), 5), SYN, (f.far(), 444));
    lab.forwarded("another destination has its own ports", CLIENT, &elsewhere, HOP_GATEWAY);
}

#[test]
fn two_flows_that_meet_on_one_translated_tuple_are_kept_apart() {
    for f in FAMILIES {
        for (ingress, client, hop_back) in [(CLIENT, f.client(), HOP_CLIENT), (FUNNEL, f.node(), HOP_NODE)] {
            let mut lab = Lab::new();
            let first = Packet::new((client, 40_000), SYN, (f.vip_remote(), 80));
            let second = Packet::new((client, 40_000), SYN, (f.vip_remote_twin(), 80));
            let one = lab.forwarded("first", ingress, &first, HOP_OTHER_NODE);
            let two = lab.forwarded("second", ingress, &second, HOP_OTHER_NODE);
            assert_eq!(one.src, (client, 40_000));
            assert_eq!(two.src.0, client);
            assert_ne!(two.src.1, 40_000);
            let ttl = if ingress == FUNNEL { 64 } else { 63 };
            for (seen, vip) in [(one, f.vip_remote()), (two, f.vip_remote_twin())] {
                let answer = Packet::new(seen.dst, SYN_ACK, seen.src);
                let expected = Packet::new((vip, 80), SYN_ACK, (client, 40_000)).ttl(ttl);
                lab.forwards("each answer finds its own", UPLINK, &answer, hop_back, &expected);
            }
        }
    }
}

#[test]
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
        for flags in [ACK, SYN_ACK, Layer4::Tcp(1 | 16), Layer4::Tcp(4)] {
            let middle = Packet::new(client, flags, (f.vip_local(), 80));
            lab.drops("the middle of an unknown connection", CLIENT, &middle.build(), DropReason::TcpNotSyn);
        }
        assert_eq!(lab.books().admitted, 0);
        assert_eq!(lab.table.count(), 0);
    }
}

#[test]
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

#[test]
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
    lab.drops("an unreachable route", CLIENT, &blackhole.build(), DropReason::NoRoute);
}

#[test]
fn hops_run_out() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let asked = |ttl| Packet::new((f.client(), 40_000), SYN, (f.vip_local(), 80)).ttl(ttl);
        lab.punts("TTL 1", CLIENT, &asked(1).build(), PuntReason::TtlExceeded);
        assert_eq!(lab.table.count(), 0, "a packet that cannot leave makes no flow");
        lab.forwards("TTL 2", CLIENT, &asked(2), HOP_WEB, &Packet { dst: (f.web(), 8080), ..asked(1) });
        lab.punts("TTL 1 of a flow", CLIENT, &asked(1).build(), PuntReason::TtlExceeded);
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

#[test]
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

#[test]
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

#[test]
fn echo() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let request = Packet::echo(f.client(), Layer4::EchoRequest(77), f.web());
        lab.forwards("pod pings pod", CLIENT, &request, HOP_WEB, &request.clone().ttl(63));
        let reply = Packet::echo(f.web(), Layer4::EchoReply(77), f.client());
        lab.forwards("its reply", WEB, &reply, HOP_CLIENT, &reply.clone().ttl(63));

        for id in [1234, 0] {
            let request = Packet::echo(f.client(), Layer4::EchoRequest(id), f.far());
            let seen = lab.forwarded("pod pings far host", CLIENT, &request, HOP_GATEWAY);
            assert_eq!(seen.src.0, f.node());
            let Some(Layer4::EchoRequest(new_id)) = seen.layer4 else { panic!("{seen:?}") };
            assert_ne!(new_id, id, "the identifier is translated like a port");
            let reply = Packet::echo(f.far(), Layer4::EchoReply(new_id), f.node());
            let expected = Packet::echo(f.far(), Layer4::EchoReply(id), f.client()).ttl(63);
            lab.forwards("its reply", UPLINK, &reply, HOP_CLIENT, &expected);
        }
        let stray = Packet::echo(f.far(), Layer4::EchoReply(5), f.client());
        lab.drops("a reply that nobody asked for", UPLINK, &stray.build(), DropReason::IcmpType);
    }
}

#[test]
fn icmp_errors_are_translated_outside_and_inside() {
    for f in FAMILIES {
        for (layer4, port, target) in [(Layer4::Udp, 53, 5353), (SYN, 80, 8080)] {
            let mut lab = Lab::new();
            let asked = Packet::new((f.client(), 40_000), layer4, (f.vip_local(), port));
            lab.forwarded("request", CLIENT, &asked, HOP_WEB);
            let delivered = Packet::new((f.client(), 40_000), layer4, (f.web(), target)).ttl(63);
            let sent = lab.send(WEB, &delivered.unreachable(f.web()));
            assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_CLIENT });
            let seen = verify(&sent.frame);
            assert_eq!((seen.src.0, seen.dst.0), (f.vip_local(), f.client()), "the endpoint hides behind the VIP");
            let quoted = read_quoted(&seen.payload);
            assert_eq!(quoted, ((f.client(), 40_000), (f.vip_local(), port)), "the client sees its own packet");
            verify_quoted_whole(&seen.payload);
        }

        let mut lab = Lab::new();
        let asked = Packet::udp((f.client(), 40_000), (f.far(), 9));
        let out = lab.forwarded("pod to far host", CLIENT, &asked, HOP_GATEWAY);
        let on_the_wire = Packet::udp(out.src, out.dst).ttl(60);
        let sent = lab.send(UPLINK, &on_the_wire.unreachable(f.gateway()));
        assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_CLIENT });
        let seen = verify(&sent.frame);
        assert_eq!((seen.src.0, seen.dst.0), (f.gateway(), f.client()), "a router on the way shows itself");
        assert_eq!(read_quoted(&seen.payload), (asked.src, asked.dst));
        verify_quoted_whole(&seen.payload);

        let other = Packet::udp((f.node(), 61_001), (f.far(), 10));
        lab.drops("about no flow of ours", UPLINK, &other.unreachable(f.far()), DropReason::IcmpType);
        let mut damaged = on_the_wire.unreachable(f.gateway());
        *damaged.last_mut().unwrap() ^= 1;
        lab.drops("damaged", UPLINK, &damaged, DropReason::BadChecksum);
    }
}

/// A short packet is quoted whole, so its checksums can be verified like those of any other.
fn verify_quoted_whole(quoted: &[u8]) {
    let ether_type: &[u8] = if quoted[0] >> 4 == 4 { &[0x08, 0x00] } else { &[0x86, 0xdd] };
    verify(&[&[2; 12], ether_type, quoted].concat());
}

#[test]
fn padding_is_trimmed_and_options_are_kept() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let short = Packet::udp((f.client(), 1), (f.web(), 2)).payload(b"x");
        let mut padded = short.build();
        let len = padded.len();
        padded.resize(len + 40, 0xee);
        let sent = lab.send(CLIENT, &padded);
        assert_eq!(sent.frame.len(), len, "the frame ends with the packet");
    }
    let f = Family::V4;
    let record_route = [7, 7, 4, 0, 0, 0, 0, 1];
    let with_options = Packet::udp((f.client(), 1), (f.vip_local(), 53)).options(&record_route);
    let expected = Packet::udp((f.client(), 1), (f.web(), 5353)).options(&record_route).ttl(63);
    Lab::new().forwards("options", CLIENT, &with_options, HOP_WEB, &expected);
}

#[test]
fn checksums_at_their_edges() {
    let f = Family::V4;
    let mut lab = Lab::new();
    let asked = Packet::udp((f.client(), 1), (f.vip_local(), 53));
    let mut frame = asked.build();
    frame[40..42].fill(0);
    let sent = lab.send(CLIENT, &frame);
    assert_eq!(sent.frame[40..42], [0, 0], "UDP without a checksum stays without one");

    let f = Family::V6;
    let mut frame = Packet::udp((f.client(), 1), (f.vip_local(), 53)).build();
    frame[60..62].fill(0);
    lab.drops("which IPv6 does not allow", CLIENT, &frame, DropReason::BadChecksum);

    // Every payload of two bytes: some translated checksum is 0 and must be written 0xffff.
    let mut seen_ffff = 0;
    for f in FAMILIES {
        let mut lab = Lab::new();
        let at = if f == Family::V4 { 40 } else { 60 };
        for word in 0..=u16::MAX {
            let asked = Packet::udp((f.client(), 1), (f.vip_local(), 53)).payload(&word.to_be_bytes());
            let sent = lab.send(CLIENT, &asked.build());
            assert_ne!(sent.frame[at..at + 2], [0, 0]);
            seen_ffff += u32::from(sent.frame[at..at + 2] == [0xff, 0xff]);
        }
    }
    assert_eq!(seen_ffff, 2);
}

#[test]
fn frames_that_do_not_parse() {
    use DropReason::*;
    let v4 = Packet::udp((Family::V4.client(), 1), (Family::V4.web(), 2)).build();
    let v6 = Packet::udp((Family::V6.client(), 1), (Family::V6.web(), 2)).build();
    let tcp = Packet::tcp((Family::V4.client(), 1), SYN, (Family::V4.web(), 2)).build();
    let changed = |frame: &[u8], changes: &[(usize, u8)]| {
        let mut frame = frame.to_vec();
        for (at, byte) in changes {
            frame[*at] = *byte;
        }
        frame
    };
    // The same with a right IPv4 header checksum.
    let mended = |frame: &[u8], changes: &[(usize, u8)]| {
        let mut frame = changed(frame, changes);
        frame[24..26].fill(0);
        let header_bytes = usize::from(frame[14] & 15) * 4;
        let sum = !atalho_engine::wire::checksum::sum(&frame[14..14 + header_bytes]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let mut lab = Lab::new();
    for (what, frame, reason) in [
        ("nothing", vec![], TooShort),
        ("half an Ethernet header", v4[..13].to_vec(), TooShort),
        ("an IPv4 header cut off", v4[..33].to_vec(), TooShort),
        ("an IPv6 header cut off", v6[..53].to_vec(), TooShort),
        ("ARP", changed(&v4, &[(12, 8), (13, 6)]), NotIp),
        ("VLAN", changed(&v4, &[(12, 0x81), (13, 0)]), VlanTagged),
        ("a frame to everyone", changed(&v4, &[(0, 0xff)]), Multicast),
        ("version 5", changed(&v4, &[(14, 0x55)]), BadVersion),
        ("version 4 in an IPv6 frame", changed(&v6, &[(14, 0x45)]), BadVersion),
        ("a header of 16 bytes", changed(&v4, &[(14, 0x44)]), BadHeaderLength),
        ("a total length beyond the frame", mended(&v4, &[(16, 0x10)]), BadTotalLength),
        ("a payload length beyond the frame", changed(&v6, &[(18, 0x10)]), BadTotalLength),
        ("a total length within the header", mended(&v4, &[(16, 0), (17, 19)]), BadTotalLength),
        ("a wrong header checksum", changed(&v4, &[(24, v4[24] ^ 1)]), BadChecksum),
        ("more fragments", mended(&v4, &[(20, 0x20)]), Fragment),
        ("a later fragment", mended(&v4, &[(20, 0), (21, 9)]), Fragment),
        ("an IPv6 fragment", changed(&v6, &[(20, 44)]), Fragment),
        ("a routing header", changed(&v6, &[(20, 43)]), ExtensionHeaders),
        ("GRE", mended(&v4, &[(23, 47)]), UnknownProtocol),
        ("SCTP", mended(&v4, &[(23, 132)]), UnknownProtocol),
        ("ICMPv6 in IPv4", mended(&v4, &[(23, 58)]), UnknownProtocol),
        ("from loopback", mended(&v4, &[(26, 127)]), Martian),
        ("from everybody", mended(&v4, &[(26, 255)]), Martian),
        ("from this network", mended(&v4, &[(26, 0)]), Martian),
        ("to loopback", mended(&v4, &[(30, 127)]), Martian),
        ("to class E", mended(&v4, &[(30, 241)]), Martian),
        ("to a group", mended(&v4, &[(30, 224)]), Multicast),
        ("to all", mended(&v4, &[(30, 255), (31, 255), (32, 255), (33, 255)]), Multicast),
        ("link-local", mended(&v4, &[(30, 169), (31, 254)]), LinkLocal),
        ("an IPv6 group", changed(&v6, &[(38, 0xff)]), Multicast),
        ("IPv6 link-local", changed(&v6, &[(22, 0xfe), (23, 0x80)]), LinkLocal),
        ("UDP shorter than its header", changed(&v4, &[(38, 0), (39, 7)]), BadHeaderLength),
        ("UDP longer than its packet", changed(&v4, &[(38, 9)]), BadTotalLength),
        ("a TCP header of 16 bytes", changed(&tcp, &[(46, 0x40)]), BadHeaderLength),
        ("a TCP header beyond the packet", changed(&tcp, &[(46, 0xf0)]), BadHeaderLength),
        ("a total length that cuts TCP off", mended(&tcp, &[(16, 0), (17, 39)]), TooShort),
        ("ICMP redirect", mended(&v4, &[(23, 1), (34, 5)]), IcmpType),
    ] {
        lab.drops(what, CLIENT, &frame, reason);
    }

    let options = |bytes: &[u8]| Packet::udp((Family::V4.client(), 1), (Family::V4.web(), 2)).options(bytes).build();
    lab.drops("a loose source route", CLIENT, &options(&[131, 3, 4, 0]), SourceRouted);
    lab.drops("a strict source route behind padding", CLIENT, &options(&[1, 137, 3, 4]), SourceRouted);
    lab.drops("an option without a length", CLIENT, &options(&[1, 1, 1, 7]), BadHeaderLength);
    lab.drops("an option beyond the header", CLIENT, &options(&[7, 9, 4, 0]), BadHeaderLength);
    for f in FAMILIES {
        let land = Packet::tcp((f.node(), 80), SYN, (f.node(), 80)).build();
        lab.drops("LAND", UPLINK, &land, Martian);
    }
    let mapped: IpAddr = "::ffff:10.244.0.12".parse().unwrap();
    let disguised = Packet::udp((mapped, 1), (Family::V6.web(), 2)).build();
    lab.drops("an IPv4 address in IPv6 disguise", CLIENT, &disguised, Martian);
}

#[test]
fn ipv6_extension_headers_are_walked_within_bounds() {
    let f = Family::V6;
    let plain = Packet::udp((f.client(), 1), (f.vip_local(), 53)).build();
    // Inserts headers of eight bytes (six bytes of padding option) of these types behind the IPv6 header.
    let with = |types: &[u8]| {
        let mut headers = Vec::new();
        for i in 0..types.len() {
            let next = types.get(i + 1).copied().unwrap_or(17);
            headers.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        let mut frame = [&plain[..54], &headers, &plain[54..]].concat();
        frame[20] = types[0];
        let payload = (frame.len() - 54) as u16;
        frame[18..20].copy_from_slice(&payload.to_be_bytes());
        frame
    };
    for types in [&[0][..], &[60], &[0, 60], &[0, 60, 60, 60]] {
        let mut lab = Lab::new();
        let frame = with(types);
        let sent = lab.send(CLIENT, &frame);
        assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_WEB }, "{types:?}");
        let seen = verify(&sent.frame);
        assert_eq!((seen.src, seen.dst), ((f.client(), 1), (f.web(), 5353)));
        assert_eq!(sent.frame.len(), frame.len());
    }
    let mut lab = Lab::new();
    for types in [&[60, 0][..], &[0, 60, 60, 60, 60], &[0, 43]] {
        lab.drops("refused", CLIENT, &with(types), DropReason::ExtensionHeaders);
    }
    let mut long = with(&[60]);
    long[55] = 200;
    lab.drops("a header beyond the packet", CLIENT, &long, DropReason::BadHeaderLength);
}

#[test]
fn middles_of_connections() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let middle = Packet::new((f.client(), 40_000), ACK, (f.web(), 8080));
        lab.forwarded("picked up", CLIENT, &middle, HOP_WEB);
        let reset = Packet::new((f.client(), 40_001), Layer4::Tcp(4), (f.web(), 8080));
        lab.drops("a reset of nothing", CLIENT, &reset.build(), DropReason::TcpNotSyn);
        lab.tables.settings = atalho_engine::tables::Settings { tcp_loose: false, ..Default::default() }.into();
        let middle = Packet::new((f.client(), 40_002), ACK, (f.web(), 8080));
        lab.drops("not picked up", CLIENT, &middle.build(), DropReason::TcpNotSyn);
    }
}

#[test]
fn a_batch_that_begins_and_continues_a_flow_makes_one_connection() {
    use atalho_engine::pipeline::Slot;
    // In the middle of the batch the rest of a connection to a Service is nothing without its beginning.
    let asked = |f: Family| [(f.far(), HOP_GATEWAY), (f.vip_remote(), HOP_OTHER_NODE)];
    for (asked, next_hop) in FAMILIES.into_iter().flat_map(asked) {
        let mut lab = Lab::new();
        let client = if asked.is_ipv4() { Family::V4.client() } else { Family::V6.client() };
        let packet = |flags| Packet::new((client, 40_000), flags, (asked, 80)).build();
        let mut frames: Vec<Vec<u8>> = (0..200).map(|i| packet(if i == 0 { SYN } else { ACK })).collect();
        let mut batch: Vec<Slot<'_>> = frames.iter_mut().map(|frame| Slot::new(frame, CLIENT)).collect();
        lab.engine.process(&lab.tables, lab.now_s, &mut batch);
        for slot in &batch {
            assert_eq!(slot.verdict, Verdict::Forward { next_hop });
        }
        let sources: std::collections::HashSet<_> = frames.iter().map(|frame| verify(frame).src).collect();
        assert_eq!(sources.len(), 1, "one masqueraded source for all");
        assert_eq!(lab.table.count(), 1);
        assert_eq!(lab.books().received, 200);
    }
}

#[test]
fn a_new_connection_on_the_ports_of_one_that_is_over_is_chosen_anew() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let (client, vip, web) = ((f.client(), 40_000), (f.vip_local(), 80), (f.web(), 8080));
        lab.forwarded("SYN", CLIENT, &Packet::new(client, SYN, vip), HOP_WEB);
        lab.forwarded("SYN-ACK", WEB, &Packet::new(web, SYN_ACK, client), HOP_CLIENT);
        lab.forwarded("ACK", CLIENT, &Packet::new(client, ACK, vip), HOP_WEB);
        lab.forwarded("SYN again, too early", CLIENT, &Packet::new(client, SYN, vip), HOP_WEB);
        assert_eq!(lab.books().admitted, 1);
        let reset = Packet::new(web, Layer4::Tcp(4), client).payload(b"");
        lab.forwarded("a blind reset changes nothing", WEB, &reset, HOP_CLIENT);
        lab.forwarded("SYN again, still too early", CLIENT, &Packet::new(client, SYN, vip), HOP_WEB);
        assert_eq!(lab.books().admitted, 1);
        lab.forwarded("reset", WEB, &reset.sequence(ACKNOWLEDGED), HOP_CLIENT);
        lab.forwarded("SYN again", CLIENT, &Packet::new(client, SYN, vip), HOP_WEB);
        assert_eq!(lab.books().admitted, 2);
        assert_eq!(lab.table.count(), 1);
    }
}
