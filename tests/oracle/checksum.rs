//! The Internet checksum (RFC 1071), the plain way.

use std::net::IpAddr;

/// The one's complement sum of `bytes` as big-endian words, an odd last byte padded.
pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    words.fold(0, |sum, word| fold(sum + word))
}

fn fold(sum: u32) -> u32 {
    (sum & 0xffff) + (sum >> 16)
}

/// The checksum over parts, each of an even length but the last.
pub fn of(parts: &[&[u8]]) -> u16 {
    let total = parts.iter().fold(0, |total, part| fold(total + sum(part)));
    !(fold(total) as u16)
}

/// The pseudo-header of a transport message (RFC 768, RFC 9293, RFC 8200 section 8.1).
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [src, dst] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// What becomes of `checksum` when a word that it covers changes from `old` to `new` (RFC 1624 equation 3).
pub fn adjusted(checksum: u16, old: u16, new: u16) -> u16 {
    !(fold(u32::from(!checksum) + u32::from(!old) + u32::from(new)) as u16)
}
