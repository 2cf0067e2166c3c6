//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and the errors that quote a packet.

use super::ethernet::EtherType;
use super::word16;
use crate::verdict::DropReason;

/// Type, code, checksum and four bytes that depend on the type. The quotation of an error follows.
pub const HEADER_BYTES: usize = 8;
const TYPE: usize = 0;
pub const CHECKSUM: usize = 2;
/// Of echo and its reply.
pub const IDENTIFIER: usize = 4;

/// What a message is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Icmp {
    EchoRequest {
        identifier: u16,
    },
    EchoReply {
        identifier: u16,
    },
    /// Quotes the packet that it is about.
    Error,
}

/// Checks the header at the start of `message`, the payload of an IP packet. Everything that is for one link only
/// (redirects, neighbour discovery) or answered by nobody is refused.
#[inline]
pub fn check(message: &[u8], family: EtherType) -> Result<Icmp, DropReason> {
    if message.len() < HEADER_BYTES {
        return Err(DropReason::TooShort);
    }
    let identifier = word16(message, IDENTIFIER);
    match (family, message[TYPE]) {
        (EtherType::Ipv4, 8) | (EtherType::Ipv6, 128) => Ok(Icmp::EchoRequest { identifier }),
        (EtherType::Ipv4, 0) | (EtherType::Ipv6, 129) => Ok(Icmp::EchoReply { identifier }),
        // Destination unreachable, time exceeded, parameter problem; packet too big is a message of its own in IPv6.
        (EtherType::Ipv4, 3 | 11 | 12) | (EtherType::Ipv6, 1..=4) => Ok(Icmp::Error),
        (EtherType::Ipv4, 5) | (EtherType::Ipv6, 137) => Err(DropReason::IcmpRedirect),
        _ => Err(DropReason::IcmpType),
    }
}
