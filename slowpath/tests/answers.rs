//! A packet in, an answer out, in both families. Answers are built by one library and verified by another (etherparse), every
//! length and checksum of them.

mod node;

use std::net::IpAddr;

use atalho_engine::handoff::Task;
use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_layout::tag_mac;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use node::*;

/// Where the packets of these tests come from.
const POD: [&str; 2] = ["10.244.0.7", "fd00:244::7"];
const OUTSIDE: [&str; 2] = ["203.0.113.5", "2001:db8:5::5"];
const VIP: [&str; 2] = ["172.30.0.41", "fd00:30::41"];
const PRIMARY: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const FAMILIES: [usize; 2] = [0, 1];

/// What stands above IP.
enum Above {
    Udp(u16, u16),
    Tcp(TcpHeader),
    Echo(u16, u16),
    /// A packet with this chunk.
    Sctp(Vec<u8>),
}

fn frame(src: &str, dst: &str, above: &Above, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(FAR_MAC, NODE_MAC);
    let builder = match (ip(src), ip(dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 9),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 9),
        _ => panic!("one family"),
    };
    let mut out = Vec::new();
    match above {
        Above::Udp(from, to) => builder.udp(*from, *to).write(&mut out, payload).unwrap(),
        Above::Tcp(header) => builder.tcp_header(header.clone()).write(&mut out, payload).unwrap(),
        Above::Echo(id, seq) if ip(src).is_ipv4() => {
            builder.icmpv4_echo_request(*id, *seq).write(&mut out, payload).unwrap();
        }
        Above::Sctp(chunk) => {
            let mut packet = [&[0, 7, 0, 9, 1, 2, 3, 4, 0, 0, 0, 0][..], chunk, payload].concat();
            let checksum = atalho_engine::wire::sctp::checksum(&packet);
            packet[8..12].copy_from_slice(&checksum);
            builder.write(&mut out, etherparse::IpNumber::SCTP, &packet).unwrap();
        }
        Above::Echo(id, seq) => builder.icmpv6_echo_request(*id, *seq).write(&mut out, payload).unwrap(),
    }
    out
}

fn tcp(seq: u32, set: impl FnOnce(&mut TcpHeader)) -> Above {
    let mut header = TcpHeader::new(34_567, 80, seq, 64_000);
    set(&mut header);
    Above::Tcp(header)
}

/// An answer that has been verified down to its last checksum.
struct Answer<'a> {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    src: IpAddr,
    dst: IpAddr,
    traffic_class: u8,
    transport: TransportSlice<'a>,
    ip_len: usize,
}

fn verified(frame: &[u8]) -> Answer<'_> {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a parsable frame");
    let Some(etherparse::LinkSlice::Ethernet2(ethernet)) = &sliced.link else { panic!("no Ethernet") };
    let transport = sliced.transport.clone().expect("a transport header");
    let (src, dst, traffic_class) = match sliced.net.as_ref().expect("an IP header") {
        NetSlice::Ipv4(v4) => {
            let header = v4.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), frame.len() - 14);
            assert_eq!(header.time_to_live, 64);
            let class = header.dscp.value() << 2 | header.ecn.value();
            (IpAddr::from(header.source), IpAddr::from(header.destination), class)
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header().to_header();
            assert_eq!(usize::from(header.payload_length), frame.len() - 54);
            assert_eq!(header.hop_limit, 64);
            (IpAddr::from(header.source), IpAddr::from(header.destination), header.traffic_class)
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    match (&transport, src, dst) {
        (TransportSlice::Icmpv4(icmp), ..) => {
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
        }
        (TransportSlice::Icmpv6(icmp), IpAddr::V6(src), IpAddr::V6(dst)) => {
            assert!(icmp.is_checksum_valid(src.octets(), dst.octets()));
        }
        (TransportSlice::Tcp(tcp), IpAddr::V4(src), IpAddr::V4(dst)) => {
            let expected = tcp.to_header().calc_checksum_ipv4_raw(src.octets(), dst.octets(), tcp.payload());
            assert_eq!(tcp.checksum(), expected.unwrap());
        }
        (TransportSlice::Tcp(tcp), IpAddr::V6(src), IpAddr::V6(dst)) => {
            let expected = tcp.to_header().calc_checksum_ipv6_raw(src.octets(), dst.octets(), tcp.payload());
            assert_eq!(tcp.checksum(), expected.unwrap());
        }
        _ => panic!("an answer of another kind"),
    }
    let (destination_mac, source_mac) = (ethernet.destination(), ethernet.source());
    Answer { destination_mac, source_mac, src, dst, traffic_class, transport, ip_len: frame.len() - 14 }
}

impl Answer<'_> {
    /// Type, code, the four bytes after the checksum, the rest.
    fn icmp(&self) -> (u8, u8, [u8; 4], &[u8]) {
        match &self.transport {
            TransportSlice::Icmpv4(icmp) => (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), icmp.payload()),
            TransportSlice::Icmpv6(icmp) => (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), icmp.payload()),
            _ => panic!("no ICMP"),
        }
    }

    fn assert_between(&self, src: &str, dst: &str) {
        assert_eq!((self.src, self.dst), (ip(src), ip(dst)));
    }
}

fn reply(node: &mut TestNode, reason: PuntReason, ingress: u32, mtu: u16, frame: &[u8]) -> Vec<u8> {
    let buffer = node.punt(0, reason, ingress, mtu, frame).expect("an answer waits for nothing");
    assert_eq!(buffer.task, Task::Reply);
    assert_eq!(buffer.ingress, ingress);
    buffer.bytes().to_vec()
}

fn drop_reason(node: &mut TestNode, reason: PuntReason, mtu: u16, frame: &[u8]) -> DropReason {
    let buffer = node.punt(0, reason, UPLINK, mtu, frame).expect("a drop waits for nothing");
    let Task::Drop(reason) = buffer.task else { panic!("{:?} is no drop", buffer.task) };
    reason
}

#[test]
fn a_vip_answers_an_echo_with_the_same_content() {
    for family in FAMILIES {
        let mut request = frame(OUTSIDE[family], VIP[family], &Above::Echo(0x1234, 7), b"odd content");
        request.extend_from_slice(&[0; 9]); // Ethernet's padding is not answered
        let out = reply(&mut TestNode::new(), PuntReason::EchoToVip, UPLINK, 0, &request);
        let answer = verified(&out);
        answer.assert_between(VIP[family], OUTSIDE[family]);
        let (kind, code, rest, content) = answer.icmp();
        assert_eq!((kind, code), ([0, 129][family], 0));
        assert_eq!((rest, content), ([0x12, 0x34, 0, 7], &b"odd content"[..]));
    }
}

#[test]
fn an_echo_reply_has_the_class_of_the_request() {
    let mut request = frame(OUTSIDE[1], VIP[1], &Above::Echo(1, 1), b"");
    request[14] = 0x6b; // DSCP 46 with a congestion mark, which is not echoed
    request[15] = 0xb0;
    let out = reply(&mut TestNode::new(), PuntReason::EchoToVip, UPLINK, 0, &request);
    assert_eq!(verified(&out).traffic_class, 0xb8);
}

#[test]
fn a_damaged_echo_or_segment_gets_no_answer() {
    for family in FAMILIES {
        for (above, reason) in [
            (Above::Echo(1, 1), PuntReason::EchoToVip),
            (tcp(1, |tcp| tcp.syn = true), PuntReason::NoEndpoint),
            (Above::Udp(1, 2), PuntReason::NoEndpoint),
        ] {
            let mut damaged = frame(OUTSIDE[family], VIP[family], &above, b"content");
            *damaged.last_mut().unwrap() ^= 1;
            assert_eq!(drop_reason(&mut TestNode::new(), reason, 0, &damaged), DropReason::BadChecksum);
        }
    }
}

#[test]
fn a_syn_without_endpoint_is_reset_with_its_sequence_acknowledged() {
    for family in FAMILIES {
        for reason in [PuntReason::NoEndpoint, PuntReason::UnknownServicePort] {
            let syn = frame(OUTSIDE[family], VIP[family], &tcp(u32::MAX, |tcp| tcp.syn = true), b"");
            let out = reply(&mut TestNode::new(), reason, UPLINK, 0, &syn);
            let answer = verified(&out);
            answer.assert_between(VIP[family], OUTSIDE[family]);
            let TransportSlice::Tcp(tcp) = &answer.transport else { panic!("no TCP") };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 34_567));
            assert!(tcp.rst() && tcp.ack() && !tcp.syn());
            assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (0, 0), "the SYN takes one, and it wraps");
            assert_eq!(answer.ip_len, [40, 60][family], "neither options nor content");
        }
    }
}

#[test]
fn data_and_fin_count_in_what_a_reset_acknowledges() {
    let segment = frame(OUTSIDE[0], VIP[0], &tcp(1000, |tcp| tcp.fin = true), b"12345");
    let out = reply(&mut TestNode::new(), PuntReason::NoEndpoint, UPLINK, 0, &segment);
    let TransportSlice::Tcp(tcp) = verified(&out).transport else { panic!("no TCP") };
    assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number(), tcp.ack()), (0, 1006, true));
}

#[test]
fn a_segment_with_ack_is_reset_at_that_place() {
    for family in FAMILIES {
        let ack = |tcp: &mut TcpHeader| {
            tcp.ack = true;
            tcp.acknowledgment_number = 77_777;
        };
        let segment = frame(OUTSIDE[family], VIP[family], &tcp(5, ack), b"data");
        let out = reply(&mut TestNode::new(), PuntReason::NoEndpoint, UPLINK, 0, &segment);
        let TransportSlice::Tcp(tcp) = verified(&out).transport else { panic!("no TCP") };
        assert_eq!((tcp.sequence_number(), tcp.ack(), tcp.rst()), (77_777, false, true));
    }
}

#[test]
fn a_reset_is_never_answered() {
    for family in FAMILIES {
        let segment = frame(OUTSIDE[family], VIP[family], &tcp(1, |tcp| tcp.rst = true), b"");
        for why in [PuntReason::NoEndpoint, PuntReason::NoConnection] {
            let reason = drop_reason(&mut TestNode::new(), why, 0, &segment);
            assert_eq!(reason, DropReason::SlowPathMalformed);
        }
    }
}

#[test]
fn a_segment_of_no_connection_is_reset_at_the_place_that_its_sender_expects() {
    for family in FAMILIES {
        let ack = |tcp: &mut TcpHeader| {
            (tcp.ack, tcp.fin, tcp.acknowledgment_number) = (true, true, 77_777);
        };
        let segment = frame(OUTSIDE[family], VIP[family], &tcp(5, ack), b"data");
        let out = reply(&mut TestNode::new(), PuntReason::NoConnection, UPLINK, 0, &segment);
        let answer = verified(&out);
        answer.assert_between(VIP[family], OUTSIDE[family]);
        let TransportSlice::Tcp(tcp) = &answer.transport else { panic!("no TCP") };
        assert_eq!((tcp.sequence_number(), tcp.ack(), tcp.rst()), (77_777, false, true));
        let mut damaged = segment.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let reason = drop_reason(&mut TestNode::new(), PuntReason::NoConnection, 0, &damaged);
        assert_eq!(reason, DropReason::BadChecksum);
    }
}

#[test]
fn udp_and_sctp_without_endpoint_are_told_port_unreachable_by_the_vip() {
    let init = Above::Sctp([&[1, 0, 0, 20][..], &[1; 16]].concat());
    for (family, above) in FAMILIES.into_iter().flat_map(|f| [(f, &Above::Udp(4444, 53)), (f, &init)]) {
        let datagram = frame(OUTSIDE[family], VIP[family], above, b"question");
        let out = reply(&mut TestNode::new(), PuntReason::NoEndpoint, UPLINK, 0, &datagram);
        let answer = verified(&out);
        answer.assert_between(VIP[family], OUTSIDE[family]);
        let (kind, code, unused, quote) = answer.icmp();
        assert_eq!((kind, code), [(3, 3), (1, 4)][family]);
        assert_eq!((unused, quote), ([0; 4], &datagram[14..]), "the packet is quoted as it was sent");
        assert_eq!(answer.traffic_class, [0xc0, 0][family]);
    }
}

#[test]
fn ttl_exceeded_comes_from_the_nodes_primary_address() {
    for family in FAMILIES {
        let packet = frame(POD[family], OUTSIDE[family], &Above::Udp(4444, 33_434), b"probe");
        let out = reply(&mut TestNode::new(), PuntReason::TtlExceeded, POD_PORT, 0, &packet);
        let answer = verified(&out);
        answer.assert_between(PRIMARY[family], POD[family]);
        let (kind, code, unused, quote) = answer.icmp();
        assert_eq!((kind, code), [(11, 0), (3, 0)][family]);
        assert_eq!((unused, quote), ([0; 4], &packet[14..]));
    }
}

#[test]
fn the_node_itself_is_answered_by_whom_it_asked() {
    for family in FAMILIES {
        let packet = frame(PRIMARY[family], VIP[family], &Above::Udp(4444, 53), &[7; 1400]);
        let out = reply(&mut TestNode::new(), PuntReason::TooBig, NODE_PORT, 1399, &packet);
        verified(&out).assert_between(VIP[family], PRIMARY[family]);
    }
}

#[test]
fn too_big_names_the_mtu() {
    for family in FAMILIES {
        let packet = frame(POD[family], OUTSIDE[family], &Above::Udp(1, 2), &[7; 1400]);
        let out = reply(&mut TestNode::new(), PuntReason::TooBig, POD_PORT, 1399, &packet);
        let answer = verified(&out);
        answer.assert_between(PRIMARY[family], POD[family]);
        let (kind, code, rest, _) = answer.icmp();
        assert_eq!((kind, code), [(3, 4), (2, 0)][family]);
        assert_eq!(rest, [0, 0, 0x05, 0x77]);
        let reason = drop_reason(&mut TestNode::new(), PuntReason::TooBig, 0, &packet);
        assert_eq!(reason, DropReason::TooBig, "without an MTU there is nothing to say");
    }
}

#[test]
fn quotes_end_where_the_family_says() {
    for (family, longest) in [(0, 576), (1, 1280)] {
        let packet = frame(POD[family], OUTSIDE[family], &Above::Udp(1, 2), &[7; 3000]);
        let out = reply(&mut TestNode::new(), PuntReason::TtlExceeded, POD_PORT, 0, &packet);
        let answer = verified(&out);
        assert_eq!(answer.ip_len, longest);
        let (.., quote) = answer.icmp();
        assert_eq!(quote, &packet[14..14 + quote.len()]);
    }
}

#[test]
fn answers_leave_by_the_port_of_the_packet() {
    let packet = frame(POD[0], OUTSIDE[0], &Above::Udp(1, 2), b"");
    let cases = [
        (UPLINK, FAR_MAC, NODE_MAC),
        (POD_PORT, tag_mac(POD_PORT), POD_HOST_MAC),
        (NODE_PORT, FUNNEL_MAC, tag_mac(NODE_PORT)),
    ];
    for (ingress, destination, source) in cases {
        let out = reply(&mut TestNode::new(), PuntReason::TtlExceeded, ingress, 0, &packet);
        let answer = verified(&out);
        assert_eq!((answer.destination_mac, answer.source_mac), (destination, source));
    }
    let buffer = TestNode::new().punt(0, PuntReason::TtlExceeded, 12_345, 0, &packet).unwrap();
    assert_eq!(buffer.task, Task::Drop(DropReason::UnknownPort), "the pod went away meanwhile");
}

#[test]
fn no_error_about_an_icmp_error() {
    // A time-exceeded of our own, with its TTL used up in turn.
    for family in FAMILIES {
        let packet = frame(POD[family], OUTSIDE[family], &Above::Udp(1, 2), b"");
        let error = reply(&mut TestNode::new(), PuntReason::TtlExceeded, POD_PORT, 0, &packet);
        let mut node = TestNode::new();
        assert_eq!(drop_reason(&mut node, PuntReason::TtlExceeded, 0, &error), DropReason::TtlExceededSilently);
        assert_eq!(drop_reason(&mut node, PuntReason::TooBig, 1400, &error), DropReason::TooBig);
        let echo = frame(POD[family], OUTSIDE[family], &Above::Echo(1, 2), b"");
        reply(&mut node, PuntReason::TtlExceeded, POD_PORT, 0, &echo);
    }
}

#[test]
fn no_error_about_what_one_host_did_not_send_to_one_host() {
    let pairs = [
        ("0.0.0.0", OUTSIDE[0]),
        ("127.0.0.1", OUTSIDE[0]),
        ("224.0.0.5", OUTSIDE[0]),
        ("255.255.255.255", OUTSIDE[0]),
        (POD[0], "239.1.2.3"),
        (POD[0], "255.255.255.255"),
        ("::", OUTSIDE[1]),
        ("ff02::5", OUTSIDE[1]),
        (POD[1], "ff05::2"),
    ];
    for (src, dst) in pairs {
        let packet = frame(src, dst, &Above::Udp(1, 2), b"");
        let reason = drop_reason(&mut TestNode::new(), PuntReason::TtlExceeded, 0, &packet);
        assert_eq!(reason, DropReason::TtlExceededSilently, "{src} to {dst}");
        let reason = drop_reason(&mut TestNode::new(), PuntReason::NoEndpoint, 0, &packet);
        assert_eq!(reason, DropReason::SlowPathMalformed, "{src} to {dst}");
    }
    let mut group = frame(POD[0], OUTSIDE[0], &Above::Udp(1, 2), b"");
    group[0] |= 1;
    let reason = drop_reason(&mut TestNode::new(), PuntReason::TtlExceeded, 0, &group);
    assert_eq!(reason, DropReason::TtlExceededSilently, "sent to many on the link");
}

#[test]
fn no_error_about_a_later_fragment() {
    let mut packet = frame(POD[0], OUTSIDE[0], &Above::Udp(1, 2), &[0; 64]);
    let mut set_offset = |bytes: [u8; 2]| {
        packet[20..22].copy_from_slice(&bytes);
        packet.clone()
    };
    let first = set_offset([0x20, 0]);
    let later = set_offset([0, 8]);
    let mut node = TestNode::new();
    reply(&mut node, PuntReason::TtlExceeded, POD_PORT, 0, &first);
    assert_eq!(drop_reason(&mut node, PuntReason::TtlExceeded, 0, &later), DropReason::TtlExceededSilently);
    reply(&mut node, PuntReason::NoEndpoint, UPLINK, 0, &first);
    assert_eq!(drop_reason(&mut node, PuntReason::NoEndpoint, 0, &later), DropReason::Fragment);
}

#[test]
fn without_an_address_of_the_family_a_router_stays_silent() {
    let node = &mut TestNode::new();
    let mut tables = tables();
    tables.node = std::sync::Arc::new(atalho_engine::tables::Node { primary_v6: None, ..(*tables.node).clone() });
    *node.tables.lock().unwrap() = std::sync::Arc::new(tables);
    let packet = frame(POD[1], OUTSIDE[1], &Above::Udp(1, 2), b"");
    assert_eq!(drop_reason(node, PuntReason::TtlExceeded, 0, &packet), DropReason::TtlExceededSilently);
}
