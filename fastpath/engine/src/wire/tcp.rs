//! TCP (RFC 9293 section 3.1): ports, flags and what window tracking needs.

use super::{array, word16, word32};
use crate::conntrack::TcpSegment;
use crate::verdict::DropReason;

pub const HEADER_BYTES_MIN: usize = 20;
pub const SOURCE_PORT: usize = 0;
pub const DESTINATION_PORT: usize = 2;
const SEQUENCE: usize = 4;
const ACKNOWLEDGEMENT: usize = 8;
pub const DATA_OFFSET: usize = 12;
pub const FLAGS: usize = 13;
const WINDOW: usize = 14;
pub const CHECKSUM: usize = 16;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_WINDOW_SCALE: u8 = 3;

/// The low six flags; the two above them are ECN's (RFC 3168) and nobody's concern here.
pub const FLAG_BITS: u8 = 0x3f;

/// Bit n: flags n may stand together, PSH and ECN's aside. SYN, RST and FIN exclude each other, and all but SYN and RST come
/// with ACK (RFC 9293 section 3.10.7); the same set as netfilter's.
const VALID_FLAGS: u64 = {
    use TcpSegment as T;
    let valid = [T::SYN, T::SYN | T::ACK, T::RST, T::RST | T::ACK, T::ACK, T::FIN | T::ACK];
    let valid_with_urgent = [T::SYN, T::ACK, T::FIN | T::ACK];
    let (mut set, mut i) = (0, 0);
    while i < valid.len() {
        set |= 1 << valid[i] | 1 << (valid[i] | PUSH);
        i += 1;
    }
    i = 0;
    while i < valid_with_urgent.len() {
        set |= 1 << (valid_with_urgent[i] | URGENT) | 1 << (valid_with_urgent[i] | URGENT | PUSH);
        i += 1;
    }
    set
};
pub const PUSH: u8 = 8;
const URGENT: u8 = 32;

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    pub src_port: u16,
    pub dst_port: u16,
    /// What connection tracking looks at.
    pub segment: TcpSegment,
}

/// Checks the header at the start of `segment`, the payload of an IP packet, or what is at hand of its `bytes`.
#[inline]
pub fn check(segment: &[u8], bytes: usize) -> Result<Tcp, DropReason> {
    if segment.len() < HEADER_BYTES_MIN {
        return Err(DropReason::TooShort);
    }
    let header_bytes = usize::from(segment[DATA_OFFSET] >> 4) * 4;
    if header_bytes < HEADER_BYTES_MIN || header_bytes > segment.len() {
        return Err(DropReason::BadHeaderLength);
    }
    let flags = segment[FLAGS] & FLAG_BITS;
    if VALID_FLAGS >> flags & 1 == 0 {
        return Err(DropReason::TcpFlags);
    }
    let options = &segment[HEADER_BYTES_MIN..header_bytes];
    Ok(Tcp {
        src_port: word16(segment, SOURCE_PORT),
        dst_port: word16(segment, DESTINATION_PORT),
        segment: TcpSegment {
            seq: word32(segment, SEQUENCE),
            ack: word32(segment, ACKNOWLEDGEMENT),
            window: word16(segment, WINDOW),
            // An IP packet has at most 65,575 bytes.
            payload_len: (bytes - header_bytes) as u32,
            flags,
            window_scale: if flags & TcpSegment::SYN != 0 { window_scale(options) } else { None },
        },
    })
}

/// Options that do not parse are the receiver's business, so they end the search and nothing else.
fn window_scale(mut options: &[u8]) -> Option<u8> {
    while let Some(&kind) = options.first() {
        let len = match kind {
            OPTION_END => return None,
            OPTION_NOP => 1,
            _ => match array(options, 0) {
                Some([OPTION_WINDOW_SCALE, 3, shift]) => return Some(shift.min(14)),
                _ => usize::from(*options.get(1)?).max(2),
            },
        };
        options = options.get(len..)?;
    }
    None
}
