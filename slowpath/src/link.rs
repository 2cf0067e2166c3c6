//! The Ethernet header of an answer: back out by the port where the packet came in.

use atalho_engine::next_hops::{Mac, NextHops};
use atalho_engine::tables::{Port, Tables};
use atalho_layout::{hop, tag_mac};
use etherparse::EtherType;

use crate::punted::Punted;

/// Bytes of an Ethernet header.
pub const HEADER_BYTES: usize = 14;

/// The header of an answer to `packet`, which came in by the port `ingress` (kernel interface index).
///
/// On the uplink the addresses change places. On the funnel the destination is the tag of the pod's port, which the kernel
/// side replaces by the pod's own address, or the address of the node's end. `None` if there is no such port.
pub fn header(packet: &Punted<'_>, ingress: u32, tables: &Tables, next_hops: &NextHops) -> Option<[u8; HEADER_BYTES]> {
    let (destination, source) = match tables.ports.get(&ingress)? {
        Port::Uplink => (packet.eth_source, packet.eth_destination),
        Port::Node => (next_hops.get(hop::NODE)?.destination?, tag_mac(ingress)),
        Port::Pod { addresses, .. } => {
            // As forwarded packets have it: the address of the pod's host end, once it is known.
            let next_hop = addresses.iter().find_map(|address| next_hops.get(*tables.local_pods.get(address)?));
            (tag_mac(ingress), next_hop.map_or(tag_mac(ingress), |next_hop| next_hop.source))
        }
    };
    Some(join(destination, source, ether_type(packet)))
}

/// Of the packet's family.
pub fn ether_type(packet: &Punted<'_>) -> EtherType {
    if packet.src.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 }
}

/// A header of these fields.
pub fn join(destination: Mac, source: Mac, ether_type: EtherType) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    header[12..].copy_from_slice(&ether_type.0.to_be_bytes());
    header
}
