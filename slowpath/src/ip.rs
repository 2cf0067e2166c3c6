//! The IP header of a packet of our own, built by smoltcp.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr};

/// Hops that an answer may take (RFC 1340's default TTL).
const HOP_LIMIT: u8 = 64;

/// A packet from `src` to `dst` with `payload_len` bytes that `fill` writes (zero before). IPv4 gets no identification and
/// "don't fragment" (an atomic datagram, RFC 6864 section 4). `None` if the families differ or it would be too long.
pub fn packet(
    src: IpAddr,
    dst: IpAddr,
    protocol: IpProtocol,
    traffic_class: u8,
    payload_len: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Option<Vec<u8>> {
    u16::try_from(payload_len + 40).ok()?;
    match (src, dst) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let repr = Ipv4Repr { src_addr, dst_addr, next_header: protocol, payload_len, hop_limit: HOP_LIMIT };
            let mut bytes = vec![0; repr.buffer_len() + payload_len];
            let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
            repr.emit(&mut ip, &ChecksumCapabilities::ignored());
            ip.set_dscp(traffic_class >> 2);
            ip.set_ecn(traffic_class & 3);
            ip.fill_checksum();
            fill(&mut bytes[repr.buffer_len()..]);
            Some(bytes)
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let repr = Ipv6Repr { src_addr, dst_addr, next_header: protocol, payload_len, hop_limit: HOP_LIMIT };
            let mut bytes = vec![0; repr.buffer_len() + payload_len];
            let mut ip = Ipv6Packet::new_unchecked(&mut bytes[..]);
            repr.emit(&mut ip);
            ip.set_traffic_class(traffic_class);
            fill(&mut bytes[repr.buffer_len()..]);
            Some(bytes)
        }
        _ => None,
    }
}
