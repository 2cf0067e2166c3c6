//! The parsed view of one frame: its flow key, and the offsets that the rewrite needs.

use std::net::{IpAddr, Ipv4Addr};

use super::ethernet::{self, EtherType};
use super::icmp::{self, Icmp};
use super::quoted::{self, Quoted};
use super::sctp::{self, SctpSegment};
use super::{checksum, ipv4, ipv6, tcp, udp};
use crate::conntrack::{Segment, TcpSegment};
use crate::flow::{FlowKey, Opening, Protocol};
use crate::verdict::DropReason;

/// What is behind the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A packet of a flow.
    Flow,
    /// The start of a packet of a flow, its transport header included.
    FirstFragment,
    /// A part of a packet of a flow without its transport header.
    LaterFragment,
    /// An ICMP error about a packet of a flow.
    Error(Quoted),
}

/// A frame that passed every check. Offsets count from the start of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// The key to look up. Of an ICMP error: the direction in which the error travels, opposite to the quoted packet.
    pub key: FlowKey,
    pub content: Content,
    /// How it would start a flow.
    pub opening: Opening,
    /// All zero unless it is TCP.
    pub tcp: TcpSegment,
    /// All zero unless it is SCTP.
    pub sctp: SctpSegment,
    /// The IP source; differs from the key's where a router sends an ICMP error.
    pub src: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// A router may cut it where it does not fit: IPv4 without "don't fragment".
    pub may_be_cut: bool,
    /// UDP without a checksum, which IPv4 allows.
    pub no_checksum: bool,
    /// Where the transport header starts; in a later fragment, its part of the datagram.
    pub transport: u16,
    /// Where the IP packet ends; the rest of the frame is padding.
    pub end: u16,
}

impl Packet {
    /// Nothing, to be overwritten: fills arrays that are reused.
    pub(crate) const BLANK: Self = Self {
        key: FlowKey {
            src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            dst: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            src_port: 0,
            dst_port: 0,
            protocol: Protocol::Udp,
        },
        content: Content::Flow,
        opening: Opening::Datagram,
        tcp: TcpSegment { seq: 0, ack: 0, window: 0, payload_len: 0, flags: 0, window_scale: None },
        sctp: SctpSegment { verification_tag: 0, chunk: 0, initiate_tag: 0 },
        src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ttl: 0,
        may_be_cut: false,
        no_checksum: false,
        transport: 0,
        end: 0,
    };

    /// Bytes of the IP packet.
    pub fn ip_bytes(&self) -> usize {
        usize::from(self.end) - ethernet::HEADER_BYTES
    }

    /// What its connection looks at.
    #[inline]
    pub fn segment(&self) -> Segment {
        match self.key.protocol {
            Protocol::Tcp => Segment::Tcp(self.tcp),
            Protocol::Sctp => Segment::Sctp(self.sctp),
            Protocol::Udp | Protocol::Icmp | Protocol::Icmpv6 => Segment::Other,
        }
    }

    pub fn is_error(&self) -> bool {
        matches!(self.content, Content::Error(_))
    }

    pub fn is_fragment(&self) -> bool {
        matches!(self.content, Content::FirstFragment | Content::LaterFragment)
    }
}

/// Reads a frame from its Ethernet header to its ports. `frame` is the first piece of `frame_bytes`, or all of it: headers
/// have to lie in it, and what is checked as a whole.
///
/// # Errors
/// What is wrong with it; [`DropReason::Fragment`] if that is only that it is part of a datagram: see [`super::fragment`].
#[inline]
pub fn parse(frame: &[u8], frame_bytes: usize) -> Result<Packet, DropReason> {
    let family = ethernet::check(frame)?;
    let packet = &frame[ethernet::HEADER_BYTES..];
    let packet_bytes = frame_bytes - ethernet::HEADER_BYTES;
    let (src, dst, protocol, ttl, header_bytes, total_bytes, may_be_cut): (IpAddr, IpAddr, _, _, _, _, _) = match family
    {
        EtherType::Ipv4 => {
            let ip = ipv4::check(packet, packet_bytes)?;
            ipv4::check_addresses(ip.src, ip.dst)?;
            if ip.is_fragment() {
                return Err(DropReason::Fragment);
            }
            (ip.src.into(), ip.dst.into(), ip.protocol, ip.ttl, ip.header_bytes, ip.total_bytes, !ip.dont_fragment)
        }
        EtherType::Ipv6 => {
            let ip = ipv6::check(packet, packet_bytes)?;
            ipv6::check_addresses(ip.src, ip.dst)?;
            (ip.src.into(), ip.dst.into(), ip.protocol, ip.hop_limit, ip.header_bytes, ip.total_bytes, false)
        }
    };
    let transport = ethernet::HEADER_BYTES + header_bytes;
    let end = ethernet::HEADER_BYTES + total_bytes;
    // Offsets are 16 bits wide; no port takes a frame as long as that.
    let end = u16::try_from(end).map_err(|_| DropReason::BadTotalLength)?;
    let payload = &packet[header_bytes..total_bytes.min(packet.len())];
    let payload_bytes = total_bytes - header_bytes;
    let mut parsed = Packet {
        key: FlowKey { src, dst, src_port: 0, dst_port: 0, protocol: Protocol::Udp },
        src,
        ttl,
        may_be_cut,
        transport: transport as u16,
        end,
        ..Packet::BLANK
    };
    match (protocol, family) {
        (6, _) => {
            let tcp = tcp::check(payload, payload_bytes)?;
            parsed.key = FlowKey { src, dst, src_port: tcp.src_port, dst_port: tcp.dst_port, protocol: Protocol::Tcp };
            parsed.opening = Opening::of_tcp(tcp.segment.flags);
            parsed.tcp = tcp.segment;
        }
        (17, _) => {
            let udp = udp::check(payload, payload_bytes)?;
            // IPv6 has no header checksum, so this one must be there (RFC 8200 section 8.1).
            if udp.checksum == 0 && family == EtherType::Ipv6 {
                return Err(DropReason::BadChecksum);
            }
            parsed.key.src_port = udp.src_port;
            parsed.key.dst_port = udp.dst_port;
            parsed.no_checksum = udp.checksum == 0;
        }
        // Its CRC32c is verified over all of it.
        (132, _) if payload.len() < payload_bytes => return Err(DropReason::RxMultiPiece),
        (132, _) => {
            let sctp = sctp::check(payload)?;
            parsed.key =
                FlowKey { src, dst, src_port: sctp.src_port, dst_port: sctp.dst_port, protocol: Protocol::Sctp };
            parsed.opening = Opening::of_sctp(sctp.segment.chunk);
            parsed.sctp = sctp.segment;
        }
        (1, EtherType::Ipv4) => read_icmp(&mut parsed, payload, payload_bytes, family, Protocol::Icmp)?,
        (ipv6::FRAGMENT, EtherType::Ipv6) => return Err(DropReason::Fragment),
        (58, EtherType::Ipv6) => read_icmp(&mut parsed, payload, payload_bytes, family, Protocol::Icmpv6)?,
        _ => return Err(DropReason::UnknownProtocol),
    }
    Ok(parsed)
}

/// The IP destination of a frame that [`parse`] has read.
pub fn destination(frame: &[u8]) -> Option<IpAddr> {
    let packet = frame.get(ethernet::HEADER_BYTES..)?;
    Some(match ethernet::check(frame).ok()? {
        EtherType::Ipv4 => IpAddr::from(*packet.get(ipv4::DESTINATION)?.first_chunk::<4>()?),
        EtherType::Ipv6 => IpAddr::from(*packet.get(ipv6::DESTINATION)?.first_chunk::<16>()?),
    })
}

fn read_icmp(
    parsed: &mut Packet,
    message: &[u8],
    message_bytes: usize,
    family: EtherType,
    protocol: Protocol,
) -> Result<(), DropReason> {
    parsed.key.protocol = protocol;
    match icmp::check(message, family)? {
        Icmp::EchoRequest { identifier } => {
            parsed.key.src_port = identifier;
            parsed.opening = Opening::EchoRequest;
        }
        Icmp::EchoReply { identifier } => {
            parsed.key.dst_port = identifier;
            parsed.opening = Opening::EchoReply;
        }
        // Its checksum is written anew over all of it. Errors have 1,280 bytes at most (RFC 1812 section 4.3.2.3, RFC 4443
        // section 2.4), and every first piece is longer.
        Icmp::Error if message.len() < message_bytes => return Err(DropReason::RxMultiPiece),
        Icmp::Error => {
            // The rewrite writes a new checksum over the whole message, so a wrong one must not get that far.
            let pseudo = if family == EtherType::Ipv6 { pseudo_sum_v6(&parsed.key, message.len()) } else { 0 };
            if checksum::fold(u64::from(checksum::sum(message)) + pseudo) != 0xffff {
                return Err(DropReason::BadChecksum);
            }
            let quoted = quoted::read(message, family, parsed.key.dst)?;
            parsed.key = quoted.key.reversed();
            parsed.content = Content::Error(quoted);
            parsed.opening = Opening::Error;
        }
    }
    Ok(())
}

/// The pseudo-header's part of an ICMPv6 checksum (RFC 8200 section 8.1).
fn pseudo_sum_v6(key: &FlowKey, message_bytes: usize) -> u64 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(v4) => u64::from(checksum::sum(&v4.octets())),
        IpAddr::V6(v6) => u64::from(checksum::sum(&v6.octets())),
    };
    address(key.src) + address(key.dst) + message_bytes as u64 + Protocol::Icmpv6 as u64
}
