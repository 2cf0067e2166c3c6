//! Packets to send and what was sent, through etherparse.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice, ip_number};

const ANY_MAC: [u8; 6] = [0x0a, 0, 0, 0, 0, 9];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address with a port"))
}

fn ip(src: IpAddr, dst: IpAddr, ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(ANY_MAC, ANY_MAC);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), ttl),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), ttl),
        _ => panic!("two families"),
    }
}

pub fn udp(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (at(src), at(dst));
    let builder = ip(src.ip(), dst.ip(), 64).udp(src.port(), dst.port());
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).expect("a packet");
    bytes
}

pub fn udp_ttl(src: &str, dst: &str, ttl: u8) -> Vec<u8> {
    let (src, dst) = (at(src), at(dst));
    let builder = ip(src.ip(), dst.ip(), ttl).udp(src.port(), dst.port());
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"hop").expect("a packet");
    bytes
}

/// The first segment of a connection.
pub fn syn(src: &str, dst: &str) -> Vec<u8> {
    let (src, dst) = (at(src), at(dst));
    let builder = ip(src.ip(), dst.ip(), 64).tcp(src.port(), dst.port(), 1000, 64_240).syn();
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[]).expect("a packet");
    bytes
}

pub fn syn_ack(src: &str, dst: &str) -> Vec<u8> {
    let (src, dst) = (at(src), at(dst));
    let builder = ip(src.ip(), dst.ip(), 64).tcp(src.port(), dst.port(), 5000, 64_240).syn().ack(1001);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[]).expect("a packet");
    bytes
}

pub fn ack(src: &str, dst: &str, seq: u32, ack: u32) -> Vec<u8> {
    let (src, dst) = (at(src), at(dst));
    let builder = ip(src.ip(), dst.ip(), 64).tcp(src.port(), dst.port(), seq, 64_240).ack(ack);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[]).expect("a packet");
    bytes
}

pub fn echo_request(src: &str, dst: &str) -> Vec<u8> {
    let (src, dst) = (src.parse().expect("an address"), dst.parse().expect("an address"));
    let mut bytes = Vec::new();
    match src {
        IpAddr::V4(_) => ip(src, dst, 64).icmpv4_echo_request(7, 1).write(&mut bytes, b"ping"),
        IpAddr::V6(_) => ip(src, dst, 64).icmpv6_echo_request(7, 1).write(&mut bytes, b"ping"),
    }
    .expect("a packet");
    bytes
}

pub fn arp(sender: [u8; 4]) -> Vec<u8> {
    let mut bytes = [[0xff; 6].as_slice(), &ANY_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &ANY_MAC, &sender].concat();
    bytes.resize(60, 0);
    bytes
}

/// Source and destination of a packet; every checksum in it is found right.
pub fn tuple(bytes: &[u8]) -> (String, String) {
    let packet = SlicedPacket::from_ethernet(bytes).expect("a packet");
    let (src, dst): (IpAddr, IpAddr) = match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(v4) => {
            let header = v4.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header checksum");
            (v4.header().source_addr().into(), v4.header().destination_addr().into())
        }
        NetSlice::Ipv6(v6) => (v6.header().source_addr().into(), v6.header().destination_addr().into()),
        NetSlice::Arp(_) => panic!("ARP"),
    };
    let ports = match packet.transport.as_ref() {
        Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
        _ => None,
    };
    if let Some(NetSlice::Ipv4(_) | NetSlice::Ipv6(_)) = packet.net {
        assert_eq!(transport_sum(src, dst, &packet), 0xffff, "transport checksum");
    }
    match ports {
        Some((from, to)) => (SocketAddr::new(src, from).to_string(), SocketAddr::new(dst, to).to_string()),
        None => (src.to_string(), dst.to_string()),
    }
}

/// The ones' complement sum over pseudo-header and transport, 0xffff if the checksum in it is right (RFC 1071).
fn transport_sum(src: IpAddr, dst: IpAddr, packet: &SlicedPacket<'_>) -> u64 {
    let payload = packet.ip_payload().expect("a payload");
    let protocol = payload.ip_number;
    let mut bytes = Vec::new();
    if protocol != ip_number::ICMP {
        for address in [src, dst] {
            match address {
                IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
            }
        }
        bytes.extend_from_slice(&(payload.payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&u32::from(protocol.0).to_be_bytes());
    }
    bytes.extend_from_slice(payload.payload);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let mut sum: u64 = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// An SCTP packet of one chunk with this value. Its verification tag is 1.2.3.4, 0 in an INIT.
pub fn sctp(src: &str, dst: &str, chunk: u8, value: &[u8]) -> Vec<u8> {
    let (src, dst) = (at(src), at(dst));
    let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    let tag = if chunk == 1 { [0; 4] } else { [1, 2, 3, 4] };
    let chunk_header = [&[chunk, 0][..], &(4 + value.len() as u16).to_be_bytes()].concat();
    let mut packet = [&ports[..], &tag, &[0; 4], &chunk_header, value].concat();
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    let mut bytes = Vec::new();
    ip(src.ip(), dst.ip(), 64).write(&mut bytes, ip_number::SCTP, &packet).expect("a packet");
    bytes
}

/// Source and destination with ports of an SCTP packet whose checksum must be right.
pub fn sctp_tuple(bytes: &[u8]) -> (String, String) {
    let at = if bytes[14] >> 4 == 4 { 34 } else { 54 };
    let mut packet = bytes[at..].to_vec();
    packet[8..12].fill(0);
    assert_eq!(bytes[at + 8..at + 12], crc32c(&packet).to_le_bytes(), "CRC32c");
    let address = |range: std::ops::Range<usize>| match <[u8; 4]>::try_from(&bytes[range.clone()]) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(&bytes[range]).expect("an address")),
    };
    let (src, dst) = if at == 34 { (26..30, 30..34) } else { (22..38, 38..54) };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let end = |range, port| SocketAddr::new(address(range), port).to_string();
    (end(src, port(at)), end(dst, port(at + 2)))
}

/// Bit by bit (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// Destination and source MAC.
pub fn macs(bytes: &[u8]) -> ([u8; 6], [u8; 6]) {
    (bytes[..6].try_into().expect("6 bytes"), bytes[6..12].try_into().expect("6 bytes"))
}

/// An IPv4 packet cut after every `bytes` of its payload, a multiple of 8.
pub fn fragments(packet: &[u8], bytes: usize) -> Vec<Vec<u8>> {
    let (head, payload) = packet.split_at(34);
    let parts: Vec<&[u8]> = payload.chunks(bytes).collect();
    let fragment = |at: usize, part: &&[u8]| {
        let mut fragment = [head, part].concat();
        let more = if at + 1 == parts.len() { 0 } else { 0x2000 };
        fragment[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
        fragment[18..20].copy_from_slice(&[0x12, 0x34]);
        fragment[20..22].copy_from_slice(&((at * bytes / 8) as u16 | more).to_be_bytes());
        sum_header(&mut fragment);
        fragment
    };
    parts.iter().enumerate().map(|(at, part)| fragment(at, part)).collect()
}

/// Puts the checksum of a 20-byte IPv4 header right.
pub fn sum_header(packet: &mut [u8]) {
    packet[24..26].fill(0);
    let mut sum: u32 = packet[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    packet[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// An ICMP error of this type, code 0 or, for unreachable, port.
pub fn error(src: &str, dst: &str, kind: u8, quote: &[u8]) -> Vec<u8> {
    let (src, dst) = (src.parse().expect("an address"), dst.parse().expect("an address"));
    let code = if kind == 3 { 3 } else { 0 };
    let mut bytes = Vec::new();
    let builder = ip(src, dst, 64).icmpv4_raw(kind, code, [0; 4]);
    builder.write(&mut bytes, quote).expect("a packet");
    bytes
}

/// A message of neighbour discovery, with nothing in it.
pub fn icmpv6(src: &str, dst: &str, kind: u8) -> Vec<u8> {
    let (src, dst) = (src.parse().expect("an address"), dst.parse().expect("an address"));
    let mut bytes = Vec::new();
    ip(src, dst, 255).icmpv6_raw(kind, 0, [0; 4]).write(&mut bytes, &[0; 16]).expect("a packet");
    bytes
}
