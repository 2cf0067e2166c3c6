//! As much of a packet as the kernel side looks at, read as laxly as there: a worker checks what it is given.

use std::net::IpAddr;

use atalho_engine::flow::{FlowKey, Protocol};
use etherparse::{EtherType, Ipv6ExtensionSlice, LaxIpSlice};

/// An Ethernet header, bytes.
const ETHERNET_BYTES: usize = 14;
/// Type, code and checksum of ICMP and the four bytes after them.
const ICMP_HEADER_BYTES: usize = 8;

/// What a frame is.
pub enum Seen {
    Ip(IpPacket),
    Arp {
        /// The sender's protocol address (RFC 826).
        sender: [u8; 4],
    },
    /// Another protocol, or a VLAN tag.
    Other,
    /// Too damaged to tell.
    Unreadable,
}

/// Where a packet comes from and goes to.
pub struct IpPacket {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    /// The flow that it belongs to; of an ICMP error, the direction opposite to the packet that it quotes.
    pub flow: Option<FlowKey>,
    /// TCP, UDP and SCTP only.
    pub dst_port: Option<u16>,
    pub fragment: Fragment,
    icmp_type: Option<u8>,
}

/// Which part of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    First { id: u32 },
    Later { id: u32 },
}

impl Seen {
    pub fn of(frame: &[u8]) -> Self {
        let Some((header, packet)) = frame.split_at_checked(ETHERNET_BYTES) else { return Self::Unreadable };
        let ether_type = EtherType(u16::from_be_bytes([header[12], header[13]]));
        match ether_type {
            EtherType::IPV4 | EtherType::IPV6 => match LaxIpSlice::from_slice(packet) {
                Ok((ip, _)) if ip.ipv4().is_some() == (ether_type == EtherType::IPV4) => Self::Ip(IpPacket::of(&ip)),
                _ => Self::Unreadable,
            },
            EtherType::ARP => match packet.get(14..).and_then(|rest| rest.first_chunk()) {
                Some(sender) => Self::Arp { sender: *sender },
                None => Self::Unreadable,
            },
            _ => Self::Other,
        }
    }
}

impl IpPacket {
    fn of(ip: &LaxIpSlice<'_>) -> Self {
        let payload = ip.payload();
        let fragment = fragment(ip);
        let mut packet = Self {
            src: ip.source_addr(),
            dst: ip.destination_addr(),
            protocol: payload.ip_number.0,
            flow: None,
            dst_port: None,
            fragment,
            icmp_type: None,
        };
        if matches!(fragment, Fragment::Later { .. }) {
            return packet;
        }
        let transport = payload.payload;
        packet.flow = flow_key(packet.src, packet.dst, packet.protocol, transport);
        match Protocol::from_number(packet.protocol) {
            Some(Protocol::Icmp | Protocol::Icmpv6) => {
                packet.icmp_type = transport.first().copied();
                if packet.flow.is_none() {
                    packet.flow = transport.get(ICMP_HEADER_BYTES..).and_then(quoted).map(FlowKey::reversed);
                }
            }
            _ => packet.dst_port = packet.flow.map(|flow| flow.dst_port),
        }
        packet
    }

    /// What the fragments of its datagram, of this identification, have in common. An IPv6 fragment says what follows it
    /// there, which need not be the transport protocol (RFC 8200 section 4.5).
    pub fn datagram(&self, id: u32) -> (IpAddr, IpAddr, u32, u8) {
        (self.src, self.dst, id, if self.src.is_ipv4() { self.protocol } else { 0 })
    }

    /// Neighbours and multicast are the link's own business: neighbour discovery (RFC 4861, types 133 to 137), and what
    /// is addressed to the link.
    pub fn is_link_business(&self) -> bool {
        let IpAddr::V6(dst) = self.dst else { return false };
        dst.is_multicast() || dst.is_unicast_link_local() || self.has_icmp_type(133..=137)
    }

    /// A router advertisement or a redirect, which only routers send.
    pub fn is_router_talk(&self) -> bool {
        self.has_icmp_type(134..=134) || self.has_icmp_type(137..=137)
    }

    fn has_icmp_type(&self, types: std::ops::RangeInclusive<u8>) -> bool {
        self.protocol == Protocol::Icmpv6 as u8 && self.icmp_type.is_some_and(|icmp_type| types.contains(&icmp_type))
    }
}

fn fragment(ip: &LaxIpSlice<'_>) -> Fragment {
    let (id, offset, is_part) = match ip {
        LaxIpSlice::Ipv4(v4) => {
            let header = v4.header();
            let is_part = header.is_fragmenting_payload();
            (u32::from(header.identification()), header.fragments_offset().value(), is_part)
        }
        LaxIpSlice::Ipv6(v6) => {
            let header = v6.extensions().clone().into_iter().find_map(|extension| match extension {
                Ipv6ExtensionSlice::Fragment(header) => Some(header),
                _ => None,
            });
            let Some(header) = header else { return Fragment::Whole };
            (header.identification(), header.fragment_offset().value(), header.is_fragmenting_payload())
        }
    };
    match (is_part, offset) {
        (false, _) => Fragment::Whole,
        (true, 0) => Fragment::First { id },
        (true, _) => Fragment::Later { id },
    }
}

/// The packet that an ICMP error quotes.
fn quoted(bytes: &[u8]) -> Option<FlowKey> {
    let (ip, _) = LaxIpSlice::from_slice(bytes).ok()?;
    let payload = ip.payload();
    match fragment(&ip) {
        Fragment::Later { .. } => None,
        _ => flow_key(ip.source_addr(), ip.destination_addr(), payload.ip_number.0, payload.payload),
    }
}

/// Ports, or an echo's identifier on its requester's side. `None` where there are none.
fn flow_key(src: IpAddr, dst: IpAddr, protocol: u8, transport: &[u8]) -> Option<FlowKey> {
    let protocol = Protocol::from_number(protocol)?;
    let word = |at: usize| Some(u16::from_be_bytes(*transport.get(at..)?.first_chunk()?));
    let (src_port, dst_port) = match (protocol, transport.first()?) {
        (Protocol::Icmp, 8) | (Protocol::Icmpv6, 128) => (word(4)?, 0),
        (Protocol::Icmp, 0) | (Protocol::Icmpv6, 129) => (0, word(4)?),
        (Protocol::Icmp | Protocol::Icmpv6, _) => return None,
        _ => (word(0)?, word(2)?),
    };
    Some(FlowKey { src, dst, src_port, dst_port, protocol })
}
