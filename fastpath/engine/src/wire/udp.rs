//! UDP (RFC 768).

use super::word16;
use crate::verdict::DropReason;

pub const HEADER_BYTES: usize = 8;
pub const SOURCE_PORT: usize = 0;
pub const DESTINATION_PORT: usize = 2;
pub const LENGTH: usize = 4;
pub const CHECKSUM: usize = 6;

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp {
    pub src_port: u16,
    pub dst_port: u16,
    /// 0: the sender computed none, which IPv4 allows.
    pub checksum: u16,
}

/// Checks the header at the start of `segment`, the payload of an IP packet, or what is at hand of its `bytes`.
#[inline]
pub fn check(segment: &[u8], bytes: usize) -> Result<Udp, DropReason> {
    let udp = fields(segment)?;
    if usize::from(word16(segment, LENGTH)) > bytes {
        return Err(DropReason::BadTotalLength);
    }
    Ok(udp)
}

/// The fields of a header whose datagram may go on elsewhere, as in a first fragment.
#[inline]
pub fn fields(segment: &[u8]) -> Result<Udp, DropReason> {
    if segment.len() < HEADER_BYTES {
        return Err(DropReason::TooShort);
    }
    if usize::from(word16(segment, LENGTH)) < HEADER_BYTES {
        return Err(DropReason::BadHeaderLength);
    }
    Ok(Udp {
        src_port: word16(segment, SOURCE_PORT),
        dst_port: word16(segment, DESTINATION_PORT),
        checksum: word16(segment, CHECKSUM),
    })
}
