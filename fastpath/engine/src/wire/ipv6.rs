//! IPv6 (RFC 8200) and its extension headers.

use std::net::Ipv6Addr;
use std::ops::Range;

use super::{array, word16};
use crate::verdict::DropReason;

pub const HEADER_BYTES: usize = 40;
const PAYLOAD_LENGTH: usize = 4;
const NEXT_HEADER: usize = 6;
pub const HOP_LIMIT: usize = 7;
pub const SOURCE: Range<usize> = 8..24;
pub const DESTINATION: Range<usize> = 24..40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Extension headers that a packet may have: one of each that is let through (RFC 8200 section 4.1), and one to spare.
const EXTENSION_HEADERS_MAX: usize = 4;

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6 {
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub hop_limit: u8,
    /// The transport protocol, behind the extension headers.
    pub protocol: u8,
    /// Bytes up to the transport header.
    pub header_bytes: usize,
    pub total_bytes: usize,
}

/// Checks the header at the start of `packet`, the first of `bytes` that came (they may be more than the packet: padding),
/// and walks its extension headers.
#[inline]
pub fn check(packet: &[u8], bytes: usize) -> Result<Ipv6, DropReason> {
    let header = fields(packet)?;
    if header.total_bytes > bytes {
        return Err(DropReason::BadTotalLength);
    }
    let (protocol, header_bytes) = walk(&packet[..header.total_bytes.min(packet.len())], header.protocol)?;
    Ok(Ipv6 { protocol, header_bytes, ..header })
}

/// The fields of the fixed header alone; `protocol` is what follows it directly. The packet may be cut off behind it.
pub fn fields(packet: &[u8]) -> Result<Ipv6, DropReason> {
    if packet.len() < HEADER_BYTES {
        return Err(DropReason::TooShort);
    }
    if packet[0] >> 4 != 6 {
        return Err(DropReason::BadVersion);
    }
    Ok(Ipv6 {
        src: Ipv6Addr::from_octets(array(packet, SOURCE.start).unwrap_or_default()),
        dst: Ipv6Addr::from_octets(array(packet, DESTINATION.start).unwrap_or_default()),
        hop_limit: packet[HOP_LIMIT],
        protocol: packet[NEXT_HEADER],
        header_bytes: HEADER_BYTES,
        total_bytes: HEADER_BYTES + usize::from(word16(packet, PAYLOAD_LENGTH)),
    })
}

/// The transport protocol and its offset. Routing headers are refused (RFC 5095 for type 0; no other has a use here).
fn walk(packet: &[u8], first: u8) -> Result<(u8, usize), DropReason> {
    let (mut next, mut at) = (first, HEADER_BYTES);
    for position in 0..=EXTENSION_HEADERS_MAX {
        match next {
            // Only the first header may be hop-by-hop (RFC 8200 section 4.1).
            HOP_BY_HOP if position > 0 => return Err(DropReason::ExtensionHeaders),
            HOP_BY_HOP | DESTINATION_OPTIONS => {}
            FRAGMENT => return Err(DropReason::Fragment),
            ROUTING => return Err(DropReason::ExtensionHeaders),
            transport => return Ok((transport, at)),
        }
        let [following, units] = array(packet, at).ok_or(DropReason::TooShort)?;
        next = following;
        at += (usize::from(units) + 1) * 8;
        if at > packet.len() {
            return Err(DropReason::BadHeaderLength);
        }
    }
    Err(DropReason::ExtensionHeaders)
}

/// Refuses addresses that no packet on the wire has (RFC 4291 sections 2.5.2, 2.5.3, 2.5.5 and 2.7). A mapped IPv4
/// address would be another spelling of one that the tables know.
#[inline]
pub fn check_addresses(src: Ipv6Addr, dst: Ipv6Addr) -> Result<(), DropReason> {
    let odd =
        |address: Ipv6Addr| address.is_unspecified() || address.is_loopback() || address.to_ipv4_mapped().is_some();
    if src.is_multicast() {
        return Err(DropReason::MulticastSource);
    }
    if odd(src) || odd(dst) {
        return Err(DropReason::Martian);
    }
    if dst.is_multicast() {
        return Err(DropReason::Multicast);
    }
    if src.is_unicast_link_local() || dst.is_unicast_link_local() {
        return Err(DropReason::LinkLocal);
    }
    Ok(())
}
