//! IPv4 (RFC 791) with options.

use std::net::Ipv4Addr;
use std::ops::Range;

use super::{array, checksum, word16};
use crate::verdict::DropReason;

pub const HEADER_BYTES_MIN: usize = 20;
const TOTAL_LENGTH: usize = 2;
const IDENTIFICATION: usize = 4;
const FRAGMENT: usize = 6;
pub const TTL: usize = 8;
pub const PROTOCOL: usize = 9;
pub const CHECKSUM: usize = 10;
pub const SOURCE: Range<usize> = 12..16;
pub const DESTINATION: Range<usize> = 16..20;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_SOURCE_ROUTE: u8 = 131;
const OPTION_STRICT_SOURCE_ROUTE: u8 = 137;

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4 {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub protocol: u8,
    pub ttl: u8,
    pub header_bytes: usize,
    pub total_bytes: usize,
    pub identification: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// In units of 8 bytes.
    pub fragment_offset: u16,
}

impl Ipv4 {
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }
}

/// Checks the header at the start of `packet`, the first of `bytes` that came; they may be more than the packet (padding).
#[inline]
pub fn check(packet: &[u8], bytes: usize) -> Result<Ipv4, DropReason> {
    let header = fields(packet)?;
    if header.total_bytes > bytes {
        return Err(DropReason::BadTotalLength);
    }
    if !checksum::is_valid(&packet[..header.header_bytes]) {
        return Err(DropReason::BadChecksum);
    }
    if header.header_bytes > HEADER_BYTES_MIN {
        check_options(&packet[HEADER_BYTES_MIN..header.header_bytes])?;
    }
    Ok(header)
}

/// The fields of a header of which the packet itself may be cut off, as in the quotation of an ICMP error.
pub fn fields(packet: &[u8]) -> Result<Ipv4, DropReason> {
    if packet.len() < HEADER_BYTES_MIN {
        return Err(DropReason::TooShort);
    }
    if packet[0] >> 4 != 4 {
        return Err(DropReason::BadVersion);
    }
    let header_bytes = usize::from(packet[0] & 0xf) * 4;
    if header_bytes < HEADER_BYTES_MIN || header_bytes > packet.len() {
        return Err(DropReason::BadHeaderLength);
    }
    let total_bytes = usize::from(word16(packet, TOTAL_LENGTH));
    if total_bytes < header_bytes {
        return Err(DropReason::BadTotalLength);
    }
    let fragment = word16(packet, FRAGMENT);
    Ok(Ipv4 {
        src: Ipv4Addr::from_octets(array(packet, SOURCE.start).unwrap_or_default()),
        dst: Ipv4Addr::from_octets(array(packet, DESTINATION.start).unwrap_or_default()),
        protocol: packet[PROTOCOL],
        ttl: packet[TTL],
        header_bytes,
        total_bytes,
        identification: word16(packet, IDENTIFICATION),
        dont_fragment: fragment & 0x4000 != 0,
        more_fragments: fragment & 0x2000 != 0,
        fragment_offset: fragment & 0x1fff,
    })
}

/// Refuses source routes, which would lead past every decision made by destination (RFC 7126 sections 4.3 and 4.4).
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    while let Some(&kind) = options.first() {
        let len = match kind {
            OPTION_END => return Ok(()),
            OPTION_NOP => 1,
            OPTION_LOOSE_SOURCE_ROUTE | OPTION_STRICT_SOURCE_ROUTE => return Err(DropReason::SourceRouted),
            _ => match options.get(1) {
                Some(&len) if len >= 2 => usize::from(len),
                _ => return Err(DropReason::BadHeaderLength),
            },
        };
        options = options.get(len..).ok_or(DropReason::BadHeaderLength)?;
    }
    Ok(())
}

/// Refuses addresses that no packet on the wire has (RFC 1122 section 3.2.1.3, RFC 6890 section 2.2.2, RFC 3927
/// section 2.7). Those for documentation and benchmarks pass: laboratories use them, and the kernel forwards them too.
#[inline]
pub fn check_addresses(src: Ipv4Addr, dst: Ipv4Addr) -> Result<(), DropReason> {
    let (s, d) = (src.octets(), dst.octets());
    let odd = |first: u8| first == 0 || first == 127 || first >= 224;
    if !odd(s[0]) && !odd(d[0]) && !src.is_link_local() && !dst.is_link_local() {
        return Ok(());
    }
    Err(match () {
        () if src.is_multicast() => DropReason::MulticastSource,
        () if src.is_broadcast() => DropReason::BroadcastSource,
        () if odd(s[0]) => DropReason::Martian,
        () if dst.is_multicast() => DropReason::Multicast,
        () if dst.is_broadcast() => DropReason::Broadcast,
        () if odd(d[0]) => DropReason::Martian,
        () => DropReason::LinkLocal,
    })
}
