//! SCTP (RFC 9260 section 3): ports, verification tag and what its chunks say about the association. Several addresses of
//! one association are several flows here.

use super::{array, word16, word32};
use crate::verdict::DropReason;

pub const HEADER_BYTES: usize = 12;
pub const SOURCE_PORT: usize = 0;
pub const DESTINATION_PORT: usize = 2;
pub const VERIFICATION_TAG: usize = 4;
pub const CHECKSUM: usize = 8;

/// Type, flags and length, which counts itself but not the padding to four bytes.
pub const CHUNK_HEADER_BYTES: usize = 4;
/// An INIT or INIT ACK has at least sixteen bytes behind its header, the initiate tag first.
const INIT_CHUNK_BYTES_MIN: usize = 20;

/// Chunk types (RFC 9260 section 3.2).
pub mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const HEARTBEAT: u8 = 4;
    pub const HEARTBEAT_ACK: u8 = 5;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;

    /// Whether a chunk of this type moves the state of an association.
    pub(super) const fn moves_state(kind: u8) -> bool {
        matches!(kind, INIT | INIT_ACK | ABORT | SHUTDOWN | SHUTDOWN_ACK | COOKIE_ECHO | COOKIE_ACK | SHUTDOWN_COMPLETE)
    }
}

/// A packet of an association, as connection tracking looks at it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SctpSegment {
    /// The receiver's; 0 in a packet with an INIT.
    pub verification_tag: u32,
    /// Of the first chunk that moves the association's state, else of the first one. See [`chunk`].
    pub chunk: u8,
    /// In an INIT or INIT ACK the tag that its sender wants to see, else 0.
    pub initiate_tag: u32,
}

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sctp {
    pub src_port: u16,
    pub dst_port: u16,
    pub segment: SctpSegment,
}

/// Checks the packet at the start of `bytes`, the payload of an IP packet, to its last byte: the CRC32c must be right, for
/// translating the ports means computing a new one.
#[inline]
pub fn check(bytes: &[u8]) -> Result<Sctp, DropReason> {
    if bytes.len() < HEADER_BYTES + CHUNK_HEADER_BYTES {
        return Err(DropReason::TooShort);
    }
    if array(bytes, CHECKSUM) != Some(checksum(bytes)) {
        return Err(DropReason::BadChecksum);
    }
    let segment = read_chunks(bytes)?;
    Ok(Sctp { src_port: word16(bytes, SOURCE_PORT), dst_port: word16(bytes, DESTINATION_PORT), segment })
}

/// The fields of a packet that goes on elsewhere, as in a first fragment: with the first chunk for all of them.
pub fn fields(bytes: &[u8]) -> Result<Sctp, DropReason> {
    if bytes.len() < HEADER_BYTES + CHUNK_HEADER_BYTES {
        return Err(DropReason::TooShort);
    }
    let chunk = bytes[HEADER_BYTES];
    let shows_tag = matches!(chunk, chunk::INIT | chunk::INIT_ACK);
    let initiate_tag = if shows_tag { word32(bytes, HEADER_BYTES + CHUNK_HEADER_BYTES) } else { 0 };
    let segment = SctpSegment { verification_tag: word32(bytes, VERIFICATION_TAG), chunk, initiate_tag };
    Ok(Sctp { src_port: word16(bytes, SOURCE_PORT), dst_port: word16(bytes, DESTINATION_PORT), segment })
}

/// The bytes of the checksum field that the packet should have: CRC32c with the field as zero, the low byte first
/// (RFC 9260 appendix A).
pub fn checksum(packet: &[u8]) -> [u8; 4] {
    let Some((head, body)) = packet.split_at_checked(HEADER_BYTES) else { return [0; 4] };
    let crc = crc32c::crc32c(&head[..CHECKSUM]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, body).to_le_bytes()
}

/// Writes the ports into a packet that stands whole at the start of `packet`, and its checksum.
pub fn set_ports(packet: &mut [u8], src_port: u16, dst_port: u16) {
    write_ports(packet, src_port, dst_port);
    let checksum = checksum(packet);
    packet[CHECKSUM..HEADER_BYTES].copy_from_slice(&checksum);
}

/// The same in a packet of `packet_bytes` of which only the start is there, as quoted in an ICMP error. CRC32c is linear: the
/// checksum changes by the difference between those of two packets of zeros with the old ports and the new.
pub fn set_ports_quoted(packet: &mut [u8], packet_bytes: usize, src_port: u16, dst_port: u16) {
    let ports = |packet: &[u8]| array(packet, SOURCE_PORT).unwrap_or_default();
    let old = ports_and_zeros(ports(packet), packet_bytes);
    write_ports(packet, src_port, dst_port);
    let new = ports_and_zeros(ports(packet), packet_bytes);
    let Some(field) = packet.get_mut(CHECKSUM..HEADER_BYTES) else { return };
    for (byte, change) in field.iter_mut().zip((old ^ new).to_le_bytes()) {
        *byte ^= change;
    }
}

/// CRC32c of a packet with nothing but ports.
fn ports_and_zeros(ports: [u8; 4], packet_bytes: usize) -> u32 {
    const ZEROS: [u8; 512] = [0; 512];
    let mut crc = crc32c::crc32c(&ports);
    let mut left = packet_bytes.saturating_sub(ports.len());
    while left > 0 {
        let bytes = left.min(ZEROS.len());
        crc = crc32c::crc32c_append(crc, &ZEROS[..bytes]);
        left -= bytes;
    }
    crc
}

fn write_ports(packet: &mut [u8], src_port: u16, dst_port: u16) {
    packet[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&src_port.to_be_bytes());
    packet[DESTINATION_PORT..DESTINATION_PORT + 2].copy_from_slice(&dst_port.to_be_bytes());
}

/// Walks all chunks, at most one for each four bytes of the packet.
fn read_chunks(packet: &[u8]) -> Result<SctpSegment, DropReason> {
    let verification_tag = word32(packet, VERIFICATION_TAG);
    let mut segment = SctpSegment { verification_tag, chunk: packet[HEADER_BYTES], initiate_tag: 0 };
    let mut at = HEADER_BYTES;
    let mut chunks = 0;
    while at < packet.len() {
        let Some([kind, _flags, high, low]) = array(packet, at) else { return Err(DropReason::SctpChunks) };
        let bytes = usize::from(u16::from_be_bytes([high, low]));
        if bytes < CHUNK_HEADER_BYTES || at + bytes > packet.len() {
            return Err(DropReason::SctpChunks);
        }
        chunks += 1;
        if chunk::moves_state(kind) && !chunk::moves_state(segment.chunk) {
            segment.chunk = kind;
        }
        if matches!(kind, chunk::INIT | chunk::INIT_ACK) {
            if bytes < INIT_CHUNK_BYTES_MIN {
                return Err(DropReason::SctpChunks);
            }
            segment.initiate_tag = word32(packet, at + CHUNK_HEADER_BYTES);
        }
        at += bytes.next_multiple_of(4);
    }
    let is_alone = chunks == 1;
    match segment.chunk {
        // Only an INIT has no tag to show yet (section 8.5.1), and these three travel alone (section 6.10).
        chunk::INIT if !is_alone || verification_tag != 0 || segment.initiate_tag == 0 => Err(DropReason::SctpChunks),
        chunk::INIT_ACK if !is_alone || segment.initiate_tag == 0 => Err(DropReason::SctpChunks),
        chunk::SHUTDOWN_COMPLETE if !is_alone => Err(DropReason::SctpChunks),
        chunk::INIT => Ok(segment),
        _ if verification_tag == 0 => Err(DropReason::SctpChunks),
        _ => Ok(segment),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_rfc_3720_appendix_b_4() {
        // 32 bytes of zero, of which four stand where the checksum does.
        assert_eq!(checksum(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn a_quotation_cut_off_gets_the_checksum_that_the_whole_packet_would_have() {
        for packet_bytes in [16, 17, 100, 1480] {
            let mut whole: Vec<u8> = (0..packet_bytes).map(|i| (i * 7) as u8).collect();
            set_ports(&mut whole, 40_000, 9);
            let mut quoted = whole[..HEADER_BYTES].to_vec();
            set_ports(&mut whole, 61_000, 38_412);
            set_ports_quoted(&mut quoted, packet_bytes, 61_000, 38_412);
            assert_eq!(quoted, whole[..HEADER_BYTES], "{packet_bytes}");
        }
    }
}
