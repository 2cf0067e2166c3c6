//! A punted packet, parsed (by etherparse) as far as an answer needs it, and whether it may be answered at all.

use std::net::{IpAddr, Ipv4Addr};

use atalho_engine::next_hops::Mac;
use etherparse::{EtherType, Ethernet2Slice, IpNumber, Ipv4Slice, Ipv6ExtensionSlice, Ipv6Slice};
use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, IpAddress, TcpPacket, UdpPacket};

pub struct Punted<'a> {
    pub eth_source: Mac,
    pub eth_destination: Mac,
    /// From the IP header to the end by its own length: Ethernet's padding is not part of it.
    pub packet: &'a [u8],
    pub src: IpAddr,
    pub dst: IpAddr,
    /// DSCP and ECN as one byte.
    pub traffic_class: u8,
    /// IANA number of the transport protocol, after any extension headers.
    pub protocol: u8,
    /// From the transport header on.
    pub transport: &'a [u8],
    /// A part of a datagram.
    fragment: bool,
    /// A part without the transport header.
    later_fragment: bool,
}

impl<'a> Punted<'a> {
    /// `None` for what is no complete IPv4 or IPv6 packet in an untagged Ethernet frame.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let ethernet = Ethernet2Slice::from_slice_without_fcs(frame).ok()?;
        let bytes = ethernet.payload_slice();
        let (eth_source, eth_destination) = (ethernet.source(), ethernet.destination());
        match ethernet.ether_type() {
            EtherType::IPV4 => {
                let ip = Ipv4Slice::from_slice(bytes).ok()?;
                let (header, payload) = (ip.header(), ip.payload());
                Some(Self {
                    eth_source,
                    eth_destination,
                    packet: bytes.get(..usize::from(header.total_len()))?,
                    src: header.source_addr().into(),
                    dst: header.destination_addr().into(),
                    traffic_class: bytes[1],
                    protocol: payload.ip_number.0,
                    transport: payload.payload,
                    fragment: payload.fragmented,
                    later_fragment: header.fragments_offset().value() != 0,
                })
            }
            EtherType::IPV6 => {
                let ip = Ipv6Slice::from_slice(bytes).ok()?;
                let (header, payload) = (ip.header(), ip.payload());
                // A length of 0 would be a jumbogram (RFC 2675), which no port here carries.
                if header.payload_length() == 0 {
                    return None;
                }
                let later = |extension| match extension {
                    Ipv6ExtensionSlice::Fragment(fragment) => fragment.fragment_offset().value() != 0,
                    _ => false,
                };
                Some(Self {
                    eth_source,
                    eth_destination,
                    packet: bytes.get(..40 + usize::from(header.payload_length()))?,
                    src: header.source_addr().into(),
                    dst: header.destination_addr().into(),
                    traffic_class: header.traffic_class(),
                    protocol: payload.ip_number.0,
                    transport: payload.payload,
                    fragment: payload.fragmented,
                    later_fragment: ip.extensions().clone().into_iter().any(later),
                })
            }
            _ => None,
        }
    }

    pub fn is_fragment(&self) -> bool {
        self.fragment
    }

    /// Whether its sender may get an answer: one host sent it to one host, and it is whole.
    pub fn is_answerable(&self) -> bool {
        is_one_host(self.src) && is_one_host(self.dst) && self.eth_destination[0] & 1 == 0 && !self.fragment
    }

    /// Whether an ICMP error may be sent about it (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e): not about an ICMP
    /// error, what was not sent by one host to one host, or a fragment other than the first.
    pub fn may_cause_error(&self) -> bool {
        is_one_host(self.src)
            && is_one_host(self.dst)
            && self.eth_destination[0] & 1 == 0
            && !self.later_fragment
            && !self.is_icmp_error()
    }

    /// An ICMP error, or ICMP of which not even the type is there to tell.
    fn is_icmp_error(&self) -> bool {
        let kind = self.transport.first();
        match IpNumber(self.protocol) {
            // Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122 section 3.2.2).
            IpNumber::ICMP => kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)),
            // Errors have the high bit clear (RFC 4443 section 2.1); a redirect counts as one (section 2.4 e.2).
            IpNumber::IPV6_ICMP => kind.is_none_or(|kind| *kind < 128 || *kind == 137),
            _ => false,
        }
    }

    /// Whether the transport checksum is right; a packet that arrived damaged must not be answered as if it were whole. True
    /// for protocols whose checksum is not known here.
    pub fn has_valid_transport(&self) -> bool {
        let (src, dst) = (IpAddress::from(self.src), IpAddress::from(self.dst));
        match (IpNumber(self.protocol), self.src, self.dst) {
            (IpNumber::TCP, ..) => {
                TcpPacket::new_checked(self.transport).is_ok_and(|tcp| tcp.verify_checksum(&src, &dst))
            }
            (IpNumber::UDP, ..) => {
                UdpPacket::new_checked(self.transport).is_ok_and(|udp| udp.verify_checksum(&src, &dst))
            }
            (IpNumber::ICMP, ..) => Icmpv4Packet::new_checked(self.transport).is_ok_and(|icmp| icmp.verify_checksum()),
            (IpNumber::IPV6_ICMP, IpAddr::V6(src), IpAddr::V6(dst)) => {
                Icmpv6Packet::new_checked(self.transport).is_ok_and(|icmp| icmp.verify_checksum(&src, &dst))
            }
            _ => true,
        }
    }
}

/// Whether an address names a single host (RFC 1122 section 3.2.2: "a source address that does not define a single host").
fn is_one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_loopback() && !is_class_e(v4),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && !v6.is_loopback(),
    }
}

/// 240.0.0.0/4, the limited broadcast included (RFC 1112 section 4).
fn is_class_e(address: Ipv4Addr) -> bool {
    address.octets()[0] >= 240
}
