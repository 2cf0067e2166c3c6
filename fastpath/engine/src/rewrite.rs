//! The rewrite: plain data ([`Rewrite`]: addresses and ports of one direction) applied to a frame by one function, the
//! same for both families and all protocols, with incremental checksums (RFC 1624); SCTP's CRC32c is computed anew.
//!
//! It never judges: what it gets has been parsed and decided. The transport checksum is updated, not verified: a
//! packet that was damaged on its way stays damaged and is found by its receiver.

use std::net::IpAddr;
use std::ops::Range;

use crate::conntrack::Rewrite;
use crate::flow::{FlowKey, Protocol};
use crate::next_hops::Mac;
use crate::wire::checksum::Delta;
use crate::wire::{Content, Packet, checksum, ethernet, icmp, ipv4, ipv6, sctp, tcp, udp, word16};

/// Writes the translation of its direction into a frame, and takes one from its TTL if it is `forwarded`.
/// `packet` is the frame as parsed.
#[inline]
pub fn apply(frame: &mut [u8], packet: &Packet, rewrite: &Rewrite, forwarded: Hop) {
    // The rest of a packet in several pieces stays as it is.
    let end = usize::from(packet.end).min(frame.len());
    let ip = &mut frame[ethernet::HEADER_BYTES..end];
    let transport = usize::from(packet.transport) - ethernet::HEADER_BYTES;
    match packet.content {
        Content::Flow | Content::FirstFragment => {
            let family = Family::of(packet.src);
            let header = Headers {
                family,
                protocol: packet.key.protocol,
                transport,
                quoted_bytes: None,
                no_checksum: packet.no_checksum,
            };
            header.translate(ip, rewrite);
        }
        // Its transport header, and with it ports and checksum, stand elsewhere.
        Content::LaterFragment => {
            change_addresses(ip, Family::of(packet.src), rewrite);
        }
        Content::Error(quoted) => {
            // Inside is a packet of the other direction as it left us: it becomes what its sender had sent.
            let undo =
                Rewrite { src: rewrite.dst, dst: rewrite.src, src_port: rewrite.dst_port, dst_port: rewrite.src_port };
            let inner = Headers {
                family: Family::of(packet.src),
                protocol: quoted.key.protocol,
                transport: usize::from(quoted.transport) - icmp::HEADER_BYTES,
                quoted_bytes: Some(quoted.transport_bytes.into()),
                no_checksum: quoted.no_checksum,
            };
            inner.translate(&mut ip[transport + icmp::HEADER_BYTES..], &undo);
            translate_error(ip, packet, quoted.key, rewrite, transport);
        }
    }
    if forwarded == Hop::Counted {
        take_hop(ip, Family::of(packet.src));
    }
}

/// Whether this passage counts as a hop: not for packets of the node itself, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    Counted,
    Uncounted,
}

/// Writes both link addresses.
#[inline]
pub fn address_frame(frame: &mut [u8], destination: Mac, source: Mac) {
    frame[ethernet::DESTINATION].copy_from_slice(&destination);
    frame[ethernet::SOURCE].copy_from_slice(&source);
}

/// What differs between the families: where addresses stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    #[inline]
    const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    const fn source(self) -> Range<usize> {
        match self {
            Self::V4 => ipv4::SOURCE,
            Self::V6 => ipv6::SOURCE,
        }
    }

    const fn destination(self) -> Range<usize> {
        match self {
            Self::V4 => ipv4::DESTINATION,
            Self::V6 => ipv6::DESTINATION,
        }
    }
}

/// An IP header and what follows it; `transport` counts from the IP header.
struct Headers {
    family: Family,
    protocol: Protocol,
    transport: usize,
    /// In a quotation, which may be cut off: bytes that there were from `transport` on.
    quoted_bytes: Option<usize>,
    no_checksum: bool,
}

impl Headers {
    /// Changes addresses, ports (the identifier of an echo) and the checksums over them. A transport header that is cut
    /// off before its checksum, as in a quotation, is changed as far as it goes.
    #[inline]
    fn translate(&self, ip: &mut [u8], new: &Rewrite) {
        let addresses = change_addresses(ip, self.family, new);
        let mut ports = Delta::default();
        let segment = &mut ip[self.transport..];
        let checksum_at = match self.protocol {
            // No pseudo-header: new addresses change nothing (RFC 9260 section 6.8).
            Protocol::Sctp => return self.translate_sctp(segment, new),
            Protocol::Tcp | Protocol::Udp => {
                change_word(segment, tcp::SOURCE_PORT, new.src_port, &mut ports);
                change_word(segment, tcp::DESTINATION_PORT, new.dst_port, &mut ports);
                if self.protocol == Protocol::Tcp { tcp::CHECKSUM } else { udp::CHECKSUM }
            }
            Protocol::Icmp | Protocol::Icmpv6 => {
                // The identifier stands on the requester's side of a key, and the other side is 0.
                let identifier = new.src_port | new.dst_port;
                change_word(segment, icmp::IDENTIFIER, identifier, &mut ports);
                icmp::CHECKSUM
            }
        };
        // ICMP for IPv4 alone has no pseudo-header (RFC 792).
        if self.protocol != Protocol::Icmp {
            ports.add(addresses);
        }
        if self.no_checksum || segment.len() < checksum_at + 2 {
            return;
        }
        update(segment, checksum_at, ports);
        // 0 means "no checksum" in UDP, its other spelling stands in (RFC 768).
        if self.protocol == Protocol::Udp && word16(segment, udp::CHECKSUM) == 0 {
            segment[udp::CHECKSUM..udp::CHECKSUM + 2].copy_from_slice(&[0xff, 0xff]);
        }
    }

    #[inline(never)]
    fn translate_sctp(&self, packet: &mut [u8], new: &Rewrite) {
        let is_unchanged =
            word16(packet, sctp::SOURCE_PORT) == new.src_port && word16(packet, sctp::DESTINATION_PORT) == new.dst_port;
        match self.quoted_bytes {
            _ if is_unchanged => {}
            Some(packet_bytes) => sctp::set_ports_quoted(packet, packet_bytes, new.src_port, new.dst_port),
            None => sctp::set_ports(packet, new.src_port, new.dst_port),
        }
    }
}

/// The outside of an ICMP error (RFC 5508 section 4.2): addresses, and a new checksum over the message, which the
/// parser found right before.
fn translate_error(ip: &mut [u8], packet: &Packet, quoted: FlowKey, rewrite: &Rewrite, transport: usize) {
    let family = Family::of(packet.src);
    let mut addresses = Delta::default();
    // The host that the packet was translated to hides behind what its peer knows; a router on the way shows itself.
    let src = if packet.src == quoted.dst { rewrite.src } else { packet.src };
    change_address(ip, family.source(), src, &mut addresses);
    change_address(ip, family.destination(), rewrite.dst, &mut addresses);
    let mut pseudo = 0;
    if family == Family::V4 {
        update(ip, ipv4::CHECKSUM, addresses);
    } else {
        pseudo = u64::from(checksum::sum(&ip[ipv6::SOURCE.start..ipv6::DESTINATION.end]))
            + (ip.len() - transport) as u64
            + Protocol::Icmpv6 as u64;
    }
    let message = &mut ip[transport..];
    message[icmp::CHECKSUM..icmp::CHECKSUM + 2].fill(0);
    let sum = !checksum::fold(u64::from(checksum::sum(message)) + pseudo);
    message[icmp::CHECKSUM..icmp::CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Takes one from the TTL or hop limit, which the route step found to be 2 at least.
#[inline]
fn take_hop(ip: &mut [u8], family: Family) {
    match family {
        Family::V4 => {
            let old = word16(ip, ipv4::TTL);
            ip[ipv4::TTL] = ip[ipv4::TTL].saturating_sub(1);
            let mut delta = Delta::default();
            delta.word(old, word16(ip, ipv4::TTL));
            update(ip, ipv4::CHECKSUM, delta);
        }
        Family::V6 => ip[ipv6::HOP_LIMIT] = ip[ipv6::HOP_LIMIT].saturating_sub(1),
    }
}

/// Changes both addresses and an IPv4 header's checksum; returns what that changed under a pseudo-header.
#[inline]
fn change_addresses(ip: &mut [u8], family: Family, new: &Rewrite) -> Delta {
    let mut delta = Delta::default();
    change_address(ip, family.source(), new.src, &mut delta);
    change_address(ip, family.destination(), new.dst, &mut delta);
    if family == Family::V4 {
        update(ip, ipv4::CHECKSUM, delta);
    }
    delta
}

#[inline]
fn change_address(ip: &mut [u8], at: Range<usize>, new: IpAddr, delta: &mut Delta) {
    let field = &mut ip[at];
    match new {
        IpAddr::V4(v4) if field.len() == 4 => {
            delta.bytes(field, &v4.octets());
            field.copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) if field.len() == 16 => {
            delta.bytes(field, &v6.octets());
            field.copy_from_slice(&v6.octets());
        }
        // A translation never crosses families: the table has one per family.
        _ => debug_assert!(false, "an address of the other family"),
    }
}

#[inline]
fn change_word(bytes: &mut [u8], at: usize, new: u16, delta: &mut Delta) {
    delta.word(word16(bytes, at), new);
    bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
}

#[inline]
fn update(bytes: &mut [u8], at: usize, delta: Delta) {
    let new = delta.apply(word16(bytes, at));
    bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
}
