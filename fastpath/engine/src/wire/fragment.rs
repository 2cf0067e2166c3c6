//! Fragments (RFC 791 section 3.2, RFC 8200 section 4.5), each read alone: what is wrong with it whatever the others of its
//! datagram say, which datagram it belongs to, and where in it.

use std::net::IpAddr;

use super::ethernet::{self, EtherType};
use super::icmp::{self, Icmp};
use super::ipv6::FragmentHeader;
use super::{Content, Packet, ipv4, ipv6, sctp, tcp, udp};
use crate::conntrack::TcpSegment;
use crate::flow::{FlowKey, Opening, Protocol};
use crate::verdict::DropReason;

/// Offsets count in this many bytes.
pub const UNIT_BYTES: usize = 8;
/// What an IP packet's length field can say: the IPv4 packet with its header, the IPv6 packet without.
const LENGTH_MAX: usize = 65_535;

/// A fragment that is right by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Told apart by it too in IPv4 (RFC 791 section 3.2); 0 in IPv6, where it is not.
    pub protocol: u8,
    pub identification: u32,
    /// Of its part of the datagram, bytes; a multiple of [`UNIT_BYTES`].
    pub start: usize,
    /// Behind its part of the datagram, bytes.
    pub end: usize,
    pub is_last: bool,
    /// A first fragment of a TCP segment with FIN, which comes behind all of its bytes.
    pub has_fin: bool,
    /// Read as a packet: of a first fragment everything, of a later one what its IP header tells. See [`Fragment::of_flow`].
    pub packet: Packet,
}

impl Fragment {
    pub fn is_first(&self) -> bool {
        self.start == 0
    }

    /// A later fragment as a packet of the flow that the first one shows.
    pub fn of_flow(&self, first: &Fragment) -> Packet {
        let mut tcp = first.packet.tcp;
        if first.packet.key.protocol == Protocol::Tcp {
            // Together they count as one segment that grows; the stream ends, if it does, with the last one.
            tcp.payload_len += self.end.saturating_sub(first.end) as u32;
            if self.is_last && first.has_fin {
                tcp.flags |= TcpSegment::FIN;
            }
        }
        let Packet { content, src, ttl, may_be_cut, transport, end, .. } = self.packet;
        Packet { content, src, ttl, may_be_cut, transport, end, tcp, ..first.packet }
    }
}

/// What both families say of a fragment, and the bytes that it carries.
struct Part<'a> {
    fragment: Fragment,
    /// Of its transport protocol, where it is the first.
    protocol: u8,
    /// What is at hand of it.
    payload: &'a [u8],
}

/// Reads a frame with a fragment in it, or the first piece of one of `frame_bytes`. What a whole packet would be refused for, a
/// fragment is too.
///
/// # Errors
/// What is wrong with it. The name [`DropReason::Fragment`] has what cannot be followed to a flow: ICMP errors in parts,
/// and a packet that is none.
pub fn read(frame: &[u8], frame_bytes: usize) -> Result<Fragment, DropReason> {
    let family = ethernet::check(frame)?;
    let bytes = &frame[ethernet::HEADER_BYTES..];
    let packet_bytes = frame_bytes.saturating_sub(ethernet::HEADER_BYTES);
    let Part { mut fragment, protocol, payload } = match family {
        EtherType::Ipv4 => read_v4(bytes, packet_bytes)?,
        EtherType::Ipv6 => read_v6(bytes, packet_bytes)?,
    };
    if fragment.src == fragment.dst {
        return Err(DropReason::Land);
    }
    let packet = &mut fragment.packet;
    match (Protocol::from_number(protocol), family) {
        (Some(protocol), _) => packet.key.protocol = protocol,
        // Of a later IPv6 fragment this need not be the transport protocol.
        (None, EtherType::Ipv6) if fragment.start > 0 => {}
        (None, _) => return Err(DropReason::UnknownProtocol),
    }
    if fragment.start == 0 {
        packet.content = Content::FirstFragment;
        fragment.has_fin = read_transport(packet, protocol, family, payload)?;
    } else if fragment.start < header_bytes_min(protocol) {
        // The first one would hide a part of its header in this one (RFC 3128).
        return Err(DropReason::FragmentTiny);
    }
    Ok(fragment)
}

fn read_v4(bytes: &[u8], packet_bytes: usize) -> Result<Part<'_>, DropReason> {
    let ip = ipv4::check(bytes, packet_bytes)?;
    ipv4::check_addresses(ip.src, ip.dst)?;
    if !ip.is_fragment() {
        return Err(DropReason::Fragment);
    }
    let place = Place {
        start: usize::from(ip.fragment_offset) * UNIT_BYTES,
        more_fragments: ip.more_fragments,
        // Its own header's length stands for that of the datagram's.
        headers_bytes: ip.header_bytes,
    };
    let packet = Packet { ttl: ip.ttl, may_be_cut: !ip.dont_fragment, ..Packet::BLANK };
    let mut fragment = place.fragment(ip.src.into(), ip.dst.into(), ip.header_bytes, ip.total_bytes, packet)?;
    fragment.protocol = ip.protocol;
    fragment.identification = ip.identification.into();
    let at_hand = ip.total_bytes.min(bytes.len());
    Ok(Part { fragment, protocol: ip.protocol, payload: &bytes[ip.header_bytes..at_hand] })
}

fn read_v6(bytes: &[u8], packet_bytes: usize) -> Result<Part<'_>, DropReason> {
    let ip = ipv6::check(bytes, packet_bytes)?;
    ipv6::check_addresses(ip.src, ip.dst)?;
    if ip.protocol != ipv6::FRAGMENT {
        return Err(DropReason::Fragment);
    }
    let header = FragmentHeader::read(bytes, ip.header_bytes).ok_or(DropReason::TooShort)?;
    let place = Place {
        start: usize::from(header.offset) * UNIT_BYTES,
        more_fragments: header.more_fragments,
        headers_bytes: ip.header_bytes - ipv6::HEADER_BYTES,
    };
    let payload_at = ip.header_bytes + FragmentHeader::BYTES;
    let packet = Packet { ttl: ip.hop_limit, ..Packet::BLANK };
    let mut fragment = place.fragment(ip.src.into(), ip.dst.into(), payload_at, ip.total_bytes, packet)?;
    fragment.identification = header.identification;
    let bytes = &bytes[..ip.total_bytes.min(bytes.len())];
    let (protocol, transport) =
        if header.offset == 0 { ipv6::transport(bytes).map_err(cut_short)? } else { (header.next, payload_at) };
    fragment.packet.transport = (ethernet::HEADER_BYTES + transport) as u16;
    Ok(Part { fragment, protocol, payload: bytes.get(transport..).unwrap_or_default() })
}

/// Where in its datagram a fragment says that it belongs.
struct Place {
    start: usize,
    more_fragments: bool,
    /// Bytes before the datagram's payload that count in its length.
    headers_bytes: usize,
}

impl Place {
    fn fragment(
        &self,
        src: IpAddr,
        dst: IpAddr,
        payload_at: usize,
        total_bytes: usize,
        packet: Packet,
    ) -> Result<Fragment, DropReason> {
        let payload_bytes = total_bytes.saturating_sub(payload_at);
        if payload_bytes == 0 || self.more_fragments && !payload_bytes.is_multiple_of(UNIT_BYTES) {
            return Err(DropReason::FragmentUnaligned);
        }
        let end = self.start + payload_bytes;
        if self.headers_bytes + end > LENGTH_MAX {
            return Err(DropReason::FragmentBeyondEnd);
        }
        let packet_end = ethernet::HEADER_BYTES + total_bytes;
        let packet = Packet {
            key: FlowKey { src, dst, ..Packet::BLANK.key },
            content: Content::LaterFragment,
            src,
            transport: (ethernet::HEADER_BYTES + payload_at) as u16,
            end: u16::try_from(packet_end).map_err(|_| DropReason::BadTotalLength)?,
            ..packet
        };
        let is_last = !self.more_fragments;
        let start = self.start;
        Ok(Fragment { src, dst, protocol: 0, identification: 0, start, end, is_last, has_fin: false, packet })
    }
}

/// The transport header of a first fragment, which has to be there as a whole (RFC 1858, RFC 7112). Says whether it has FIN.
fn read_transport(packet: &mut Packet, protocol: u8, family: EtherType, payload: &[u8]) -> Result<bool, DropReason> {
    if payload.len() < header_bytes_min(protocol) {
        return Err(DropReason::FragmentTiny);
    }
    let mut has_fin = false;
    let (src_port, dst_port) = match (protocol, family) {
        (6, _) => {
            let tcp = tcp::check(payload, usize::from(packet.end - packet.transport)).map_err(cut_short)?;
            packet.opening = Opening::of_tcp(tcp.segment.flags);
            has_fin = tcp.segment.flags & TcpSegment::FIN != 0;
            packet.tcp = TcpSegment { flags: tcp.segment.flags & !TcpSegment::FIN, ..tcp.segment };
            (tcp.src_port, tcp.dst_port)
        }
        (17, _) => {
            let udp = udp::fields(payload)?;
            if udp.checksum == 0 && family == EtherType::Ipv6 {
                return Err(DropReason::BadChecksum);
            }
            packet.no_checksum = udp.checksum == 0;
            (udp.src_port, udp.dst_port)
        }
        (132, _) => {
            let sctp = sctp::fields(payload)?;
            packet.opening = Opening::of_sctp(sctp.segment.chunk);
            packet.sctp = sctp.segment;
            (sctp.src_port, sctp.dst_port)
        }
        (1, EtherType::Ipv4) | (58, EtherType::Ipv6) => {
            let (ports, opening) = match icmp::check(payload, family)? {
                Icmp::EchoRequest { identifier } => ((identifier, 0), Opening::EchoRequest),
                Icmp::EchoReply { identifier } => ((0, identifier), Opening::EchoReply),
                // Its checksum covers what is not here, so it could be neither checked nor made anew.
                Icmp::Error => return Err(DropReason::Fragment),
            };
            packet.opening = opening;
            ports
        }
        _ => return Err(DropReason::UnknownProtocol),
    };
    (packet.key.src_port, packet.key.dst_port) = (src_port, dst_port);
    Ok(has_fin)
}

/// A header that ends beyond a first fragment goes on in another one.
fn cut_short(reason: DropReason) -> DropReason {
    match reason {
        DropReason::TooShort | DropReason::BadHeaderLength => DropReason::FragmentTiny,
        other => other,
    }
}

/// Bytes of the shortest transport header.
fn header_bytes_min(protocol: u8) -> usize {
    match protocol {
        6 => tcp::HEADER_BYTES_MIN,
        17 => udp::HEADER_BYTES,
        1 | 58 => icmp::HEADER_BYTES,
        132 => sctp::HEADER_BYTES + sctp::CHUNK_HEADER_BYTES,
        _ => 0,
    }
}
