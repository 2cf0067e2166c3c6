//! Hands an ICMP error on to other nodes, one of which tracks the flow that it is about.
//!
//! The error goes as it came but for its destination, one hop less and the checksums over them: a node finds the flow by the
//! quoted packet, and passes what it does not know to its own stack, which ignores it. What is addressed to a node is
//! never handed on again, so there is no loop. A packet becomes several, therefore bounds: so many nodes for an error, the
//! next ones for the next error, and so many copies a second.

use std::net::IpAddr;

use atalho_engine::next_hops::{NextHop, NextHops};
use atalho_engine::route::Routed;
use atalho_engine::tables::Tables;
use atalho_layout::NextHopKind;
use etherparse::Ipv4HeaderSlice;
use etherparse::checksum::Sum16BitWords;
use smoltcp::wire::Icmpv6Packet;

use crate::link;
use crate::punted::Punted;

/// Nodes to which one error is handed.
pub const NODES_MAX: usize = 64;

/// What becomes of one error.
#[derive(Debug, Default)]
pub struct Copies {
    /// To be sent by the uplink.
    pub frames: Vec<Vec<u8>>,
    /// Neighbours on the way to nodes that had to be left out, because their link addresses are not known.
    pub unresolved: Vec<IpAddr>,
}

/// The nodes whose turn it is.
#[derive(Debug, Default)]
pub struct Turn {
    next: usize,
}

impl Turn {
    /// At most [`NODES_MAX`] of the other nodes' addresses of the family of `like`; after these the next ones.
    pub fn take(&mut self, other_nodes: &[IpAddr], like: IpAddr) -> Vec<IpAddr> {
        let nodes: Vec<IpAddr> = other_nodes.iter().copied().filter(|node| node.is_ipv4() == like.is_ipv4()).collect();
        let count = nodes.len().min(NODES_MAX);
        let first = self.next % nodes.len().max(1);
        self.next = first + count;
        nodes.iter().copied().cycle().skip(first).take(count).collect()
    }
}

/// Copies of the ICMP error in `packet` to `nodes`.
pub fn copies(packet: &Punted<'_>, nodes: &[IpAddr], tables: &Tables, next_hops: &NextHops) -> Copies {
    let mut copies = Copies::default();
    for node in nodes {
        let next_hop = match tables.routes.look_up(*node) {
            Routed::NextHop(index) => next_hops.get(index),
            Routed::Unresolved(neighbour) => {
                copies.unresolved.push(neighbour);
                continue;
            }
            Routed::Local | Routed::Elsewhere | Routed::Unreachable | Routed::Blackhole => continue,
        };
        match next_hop {
            Some(NextHop { kind: NextHopKind::Uplink, destination: Some(mac), source, .. }) => {
                let header = link::join(mac, source, link::ether_type(packet));
                let handed_on = readdressed(packet, *node);
                copies.frames.extend(handed_on.map(|packet| [&header[..], &packet].concat()));
            }
            _ => copies.unresolved.extend(tables.routes.neighbour_to(*node)),
        }
    }
    copies
}

/// The packet to another destination, one hop later; `None` if it has no hop left, or is of another family.
fn readdressed(packet: &Punted<'_>, destination: IpAddr) -> Option<Vec<u8>> {
    let mut bytes = packet.packet.to_vec();
    let transport = bytes.len().checked_sub(packet.transport.len())?;
    match (packet.src, destination) {
        (IpAddr::V4(_), IpAddr::V4(destination)) => {
            bytes[8] = hops_left(bytes[8])?;
            bytes[16..20].copy_from_slice(&destination.octets());
            bytes[10..12].fill(0);
            // Over the bytes, as they hold a bit that `Ipv4Header` does not know: the reserved one, which goes on as it came.
            let header = Ipv4HeaderSlice::from_slice(&bytes).ok()?;
            let sum = Sum16BitWords::new().add_slice(header.slice()).ones_complement();
            bytes[10..12].copy_from_slice(&sum.to_ne_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes[7] = hops_left(bytes[7])?;
            bytes[24..40].copy_from_slice(&destination.octets());
            Icmpv6Packet::new_checked(bytes.get_mut(transport..)?).ok()?.fill_checksum(&source, &destination);
        }
        _ => return None,
    }
    Some(bytes)
}

fn hops_left(hops: u8) -> Option<u8> {
    hops.checked_sub(1).filter(|left| *left > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_its_turn_and_other_families_have_none() {
        let four: Vec<IpAddr> = (0..100).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        let all: Vec<IpAddr> = four.iter().copied().chain(["2001:db8::1".parse().unwrap()]).collect();
        let mut turn = Turn::default();
        assert_eq!(turn.take(&all, four[0]), four[..64]);
        assert_eq!(turn.take(&all, four[0]), [&four[64..], &four[..28]].concat());
        assert_eq!(turn.take(&all, four[0]), four[28..92]);
        assert_eq!(turn.take(&all, all[100]), all[100..]);
        assert_eq!(turn.take(&[], four[0]), [] as [IpAddr; 0]);
    }
}
