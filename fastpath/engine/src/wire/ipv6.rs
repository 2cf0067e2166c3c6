//! IPv6 (RFC 8200) and its extension headers.

use std::net::Ipv6Addr;
use std::ops::Range;

use super::{array, word16};
use crate::verdict::DropReason;

pub const HEADER_BYTES: usize = 40;
const PAYLOAD_LENGTH: usize = 4;
pub const NEXT_HEADER: usize = 6;
pub const HOP_LIMIT: usize = 7;
pub const SOURCE: Range<usize> = 8..24;
pub const DESTINATION: Range<usize> = 24..40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Extension headers that a packet may have: one of each, destination options twice (RFC 8200 section 4.1). Equal in
/// `fastpath/bpf/parse.h`, which has to find the same ports.
const EXTENSION_HEADERS_MAX: usize = 6;

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6 {
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub hop_limit: u8,
    /// The transport protocol, behind the extension headers; in a part of a datagram [`FRAGMENT`].
    pub protocol: u8,
    /// Bytes up to the transport header, or to the fragment header.
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
    let (protocol, header_bytes) =
        walk(&packet[..header.total_bytes.min(packet.len())], header.protocol, AtFragment::Stop)?;
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

/// A fragment header (RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    pub next: u8,
    /// In units of 8 bytes.
    pub offset: u16,
    pub more_fragments: bool,
    pub identification: u32,
}

impl FragmentHeader {
    pub const BYTES: usize = 8;

    /// The fragment header at `at` of `packet`; `None` where the packet ends before its end.
    pub fn read(packet: &[u8], at: usize) -> Option<Self> {
        let [next, _, high, low, id @ ..] = array::<8>(packet, at)?;
        let offset = u16::from_be_bytes([high, low]);
        Some(Self {
            next,
            offset: offset >> 3,
            more_fragments: offset & 1 != 0,
            identification: u32::from_be_bytes(id),
        })
    }

    /// Whether the packet is no part of anything: a whole datagram that happens to have this header (RFC 6946).
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more_fragments
    }
}

/// What a walk over extension headers does at the fragment header of a part of a datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtFragment {
    Stop,
    /// Goes on, for all headers have to be in the first one (RFC 7112).
    PassFirst,
}

/// The transport protocol and its offset in a packet that may be a first fragment, and may be cut off behind them, as the
/// quotation of an ICMP error.
pub fn transport(packet: &[u8]) -> Result<(u8, usize), DropReason> {
    let header = fields(packet)?;
    let packet = &packet[..header.total_bytes.min(packet.len())];
    match walk(packet, header.protocol, AtFragment::PassFirst)? {
        // A later fragment, or a fragment of a fragment.
        (FRAGMENT, _) => Err(DropReason::ExtensionHeaders),
        transport => Ok(transport),
    }
}

/// The transport protocol and its offset; or those of a fragment header that the walk does not pass.
///
/// An authentication header (RFC 4302) is walked, as netfilter does, and its packet translated like any other: its receiver
/// sees that the addresses are not the sender's.
fn walk(packet: &[u8], first: u8, at_fragment: AtFragment) -> Result<(u8, usize), DropReason> {
    let (mut next, mut at) = (first, HEADER_BYTES);
    let mut passes_part = at_fragment == AtFragment::PassFirst;
    for _ in 0..=EXTENSION_HEADERS_MAX {
        match next {
            // Only the first header may be hop-by-hop (RFC 8200 section 4.1).
            HOP_BY_HOP if at > HEADER_BYTES => return Err(DropReason::ExtensionHeaders),
            HOP_BY_HOP | DESTINATION_OPTIONS | AUTHENTICATION => {}
            ROUTING => check_routing(packet, at)?,
            FRAGMENT => {
                let header = FragmentHeader::read(packet, at).ok_or(DropReason::TooShort)?;
                let is_passed = header.is_atomic() || passes_part && header.offset == 0;
                if !is_passed {
                    return Ok((FRAGMENT, at));
                }
                passes_part &= header.is_atomic();
                (next, at) = (header.next, at + FragmentHeader::BYTES);
                continue;
            }
            transport => return Ok((transport, at)),
        }
        let [following, units] = array(packet, at).ok_or(DropReason::TooShort)?;
        // An authentication header counts in four bytes, less two of these, and has three at least (RFC 4302 section 2.2).
        if next == AUTHENTICATION && units == 0 {
            return Err(DropReason::BadHeaderLength);
        }
        at += if next == AUTHENTICATION { (usize::from(units) + 2) * 4 } else { (usize::from(units) + 1) * 8 };
        next = following;
        if at > packet.len() {
            return Err(DropReason::BadHeaderLength);
        }
    }
    Err(DropReason::ExtensionHeaders)
}

/// Refuses a routing header that leads on, past every decision made by destination, and any of type 0 (RFC 5095). One that
/// has led to its end means nothing any more (RFC 8200 section 4.4).
fn check_routing(packet: &[u8], at: usize) -> Result<(), DropReason> {
    match array(packet, at) {
        None => Err(DropReason::TooShort),
        Some([_next, _units, kind, segments_left]) if kind == 0 || segments_left != 0 => Err(DropReason::SourceRouted),
        Some(_) => Ok(()),
    }
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
