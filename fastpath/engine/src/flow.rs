//! The key of a flow: one direction of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::conntrack::TcpSegment;
use crate::wire::sctp::chunk;

/// Transport protocols that are tracked (IANA protocol numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    Icmp = 1,
    Tcp = 6,
    Udp = 17,
    Icmpv6 = 58,
    Sctp = 132,
}

impl Protocol {
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Icmp),
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            58 => Some(Self::Icmpv6),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Kubernetes' spelling; ICMP for both families.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Icmp | Self::Icmpv6 => "ICMP",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// Source and destination of one direction. Ports in host byte order. ICMP echo: the requester's port is the
/// identifier, the other side's is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub src_port: u16,
    pub dst_port: u16,
    pub protocol: Protocol,
}

impl FlowKey {
    /// The key of the answers, before any translation.
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, protocol: self.protocol }
    }

    pub const fn is_ipv4(&self) -> bool {
        matches!(self.src, IpAddr::V4(_))
    }
}

/// What a packet is to the beginning of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opening {
    /// SYN without ACK.
    TcpSyn,
    /// ACK alone, with or without data: a connection that began before we saw it.
    TcpMidStream,
    /// SYN with ACK, or FIN: starts nothing.
    TcpOther,
    /// RST: starts nothing, and nothing answers it.
    TcpReset,
    /// INIT.
    SctpInit,
    /// HEARTBEAT: an association that began before we saw it, or another of its paths.
    SctpMidStream,
    /// Any other chunk: starts nothing.
    SctpOther,
    /// ABORT, and what else nothing answers outside of an association (RFC 9260 section 8.4): starts nothing.
    SctpFinal,
    /// UDP.
    Datagram,
    EchoRequest,
    /// Starts nothing.
    EchoReply,
    /// An ICMP error: starts nothing.
    Error,
}

impl Opening {
    #[inline]
    pub const fn of_tcp(flags: u8) -> Self {
        match flags & (TcpSegment::SYN | TcpSegment::ACK | TcpSegment::FIN | TcpSegment::RST) {
            TcpSegment::SYN => Self::TcpSyn,
            TcpSegment::ACK => Self::TcpMidStream,
            flags if flags & TcpSegment::RST != 0 => Self::TcpReset,
            _ => Self::TcpOther,
        }
    }

    #[inline]
    pub const fn of_sctp(kind: u8) -> Self {
        match kind {
            chunk::INIT => Self::SctpInit,
            chunk::HEARTBEAT => Self::SctpMidStream,
            chunk::ABORT | chunk::SHUTDOWN_COMPLETE | chunk::COOKIE_ECHO | chunk::COOKIE_ACK | chunk::ERROR => {
                Self::SctpFinal
            }
            _ => Self::SctpOther,
        }
    }

    /// How a new flow of `protocol` begins.
    pub const fn of_new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::TcpSyn,
            Protocol::Icmp | Protocol::Icmpv6 => Self::EchoRequest,
            Protocol::Sctp => Self::SctpInit,
            Protocol::Udp => Self::Datagram,
        }
    }
}

/// `address` as 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
pub const fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The reverse of [`mapped`].
pub const fn unmapped(bytes: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from_octets(bytes);
    match v6.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(v4),
        None => IpAddr::V6(v6),
    }
}

/// The word of an IPv4 address as it stands in a packet, loaded on a little-endian machine.
pub const fn word_v4(address: Ipv4Addr) -> u32 {
    u32::from_le_bytes(address.octets())
}

/// The four words of an IPv6 address, as [`word_v4`].
pub const fn words_v6(address: Ipv6Addr) -> [u32; 4] {
    let b = address.octets();
    [
        u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
        u32::from_le_bytes([b[12], b[13], b[14], b[15]]),
    ]
}

/// The word of two ports as they stand in a packet.
pub const fn word_ports(src_port: u16, dst_port: u16) -> u32 {
    let (s, d) = (src_port.to_be_bytes(), dst_port.to_be_bytes());
    u32::from_le_bytes([s[0], s[1], d[0], d[1]])
}
