//! Ethernet II (IEEE 802.3 clause 3): 14 bytes, no VLAN tag.

use std::ops::Range;

use super::{array, word16};
use crate::next_hops::Mac;
use crate::verdict::DropReason;

pub const HEADER_BYTES: usize = 14;
pub const DESTINATION: Range<usize> = 0..6;
pub const SOURCE: Range<usize> = 6..12;
const TYPE: usize = 12;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtherType {
    Ipv4,
    Ipv6,
}

/// Checks a frame's own header.
#[inline]
pub fn check(frame: &[u8]) -> Result<EtherType, DropReason> {
    if frame.len() < HEADER_BYTES {
        return Err(DropReason::TooShort);
    }
    let ether_type = match word16(frame, TYPE) {
        0x0800 => EtherType::Ipv4,
        0x86dd => EtherType::Ipv6,
        // 802.1Q, 802.1ad and the older double tag.
        0x8100 | 0x88a8 | 0x9100 => return Err(DropReason::VlanTagged),
        _ => return Err(DropReason::NotIp),
    };
    // A unicast packet in a frame to many is not forwarded either (RFC 1812 section 5.3.4).
    if frame[0] & 1 != 0 {
        return Err(DropReason::Multicast);
    }
    Ok(ether_type)
}

/// The destination MAC of a frame; all zero in one that is too short for it.
pub fn destination(frame: &[u8]) -> Mac {
    array(frame, DESTINATION.start).unwrap_or_default()
}
