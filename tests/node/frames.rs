//! What tests write frame by frame has in common.

use std::net::IpAddr;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

/// Source and destination MAC addresses.
pub type Macs = ([u8; 6], [u8; 6]);

/// Ethernet and IP headers of a packet from one host to another, both of one family.
pub fn between((from, to): Macs, src: IpAddr, dst: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(from, to);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("two families"),
    }
}
