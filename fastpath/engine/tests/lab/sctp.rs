//! SCTP packets (RFC 9260) of one chunk, with a CRC32c computed bit by bit.

/// Chunk types.
pub const DATA: u8 = 0;
pub const INIT: u8 = 1;
pub const INIT_ACK: u8 = 2;
pub const HEARTBEAT: u8 = 4;
pub const ABORT: u8 = 6;
pub const SHUTDOWN_ACK: u8 = 8;
pub const COOKIE_ECHO: u8 = 10;
pub const SHUTDOWN_COMPLETE: u8 = 14;

/// What every packet but one with an INIT shows.
const TAG: [u8; 4] = [1, 2, 3, 4];

/// Initiate tag (the same of both sides), window, streams and first TSN, as an INIT has them.
const INIT_FIELDS: [u8; 16] = [1, 2, 3, 4, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9];

pub fn build(src_port: u16, dst_port: u16, chunk: u8, payload: &[u8]) -> Vec<u8> {
    let fields: &[u8] = if matches!(chunk, INIT | INIT_ACK) { &INIT_FIELDS } else { &[] };
    let tag = if chunk == INIT { [0; 4] } else { TAG };
    let chunk_bytes = (4 + fields.len() + payload.len()) as u16;
    let chunk_header = [&[chunk, 0][..], &chunk_bytes.to_be_bytes()].concat();
    let ports = [src_port.to_be_bytes(), dst_port.to_be_bytes()].concat();
    let mut packet = [&ports[..], &tag, &[0; 4], &chunk_header, fields, payload].concat();
    packet.resize(packet.len().next_multiple_of(4), 0);
    mend(&mut packet);
    packet
}

/// Writes the checksum that the packet must have.
pub fn mend(packet: &mut [u8]) {
    packet[8..12].fill(0);
    let checksum = crc32c(packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
}

/// Ports, chunk type and payload of a packet of one chunk whose checksum must be right.
#[track_caller]
pub fn verify(packet: &[u8]) -> (u16, u16, u8, Vec<u8>) {
    let mut mended = packet.to_vec();
    mend(&mut mended);
    assert_eq!(packet[8..12], mended[8..12], "SCTP checksum");
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let fields = if matches!(packet[12], INIT | INIT_ACK) { INIT_FIELDS.len() } else { 0 };
    (word(0), word(2), packet[12], packet[16 + fields..12 + usize::from(word(14))].to_vec())
}

/// The reflected polynomial of Castagnoli (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
