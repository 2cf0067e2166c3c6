//! Step 4: the way out of a packet whose flow is known, and what its frame is addressed to there.

use std::net::IpAddr;

use atalho_layout::{NextHopKind, tag_mac};

use super::slot::Detour;
use crate::next_hops::{Mac, NextHop, NextHops};
use crate::rewrite::{self, Hop};
use crate::tables::Tables;
use crate::verdict::{DropReason, PuntReason};
use crate::wire::Packet;

impl NextHop {
    #[inline]
    pub(super) fn fits(&self, packet: &Packet) -> bool {
        packet.ip_bytes() <= usize::from(self.mtu)
    }

    /// The node's own stack has counted its packets, and counts those that it gets.
    #[inline]
    pub(super) fn hop(&self, from_node: bool) -> Hop {
        if from_node || self.kind == NextHopKind::Node { Hop::Uncounted } else { Hop::Counted }
    }

    /// Addresses a frame to `destination`, the resolved one. Frames to the uplink carry real addresses. In the funnel the
    /// destination says whom the kernel side delivers to.
    #[inline(always)]
    pub(super) fn address(&self, frame: &mut [u8], destination: Mac) {
        let Self { kind, ifindex, source, .. } = *self;
        match kind {
            NextHopKind::Pod => rewrite::address_frame(frame, tag_mac(ifindex), source),
            NextHopKind::Node => rewrite::address_frame(frame, destination, tag_mac(ifindex)),
            NextHopKind::Uplink | NextHopKind::Unused => rewrite::address_frame(frame, destination, source),
        }
    }
}

/// A usable way out.
pub(super) struct WayOut {
    pub(super) next_hop: NextHop,
    destination: Mac,
    pub(super) hop: Hop,
}

impl WayOut {
    pub(super) fn address(&self, frame: &mut [u8]) {
        self.next_hop.address(frame, self.destination);
    }
}

/// The next hop, if the packet may take it: it exists, the packet has hops left and is not too long unless it may be cut,
/// the neighbour is known. `destination` is the packet's after translation.
#[inline]
pub(super) fn route(
    next_hops: &NextHops,
    tables: &Tables,
    packet: &Packet,
    index: u32,
    destination: IpAddr,
    from_node: bool,
) -> Result<WayOut, Detour> {
    let next_hop = next_hops.get(index).ok_or(Detour::Drop(DropReason::NextHopGone))?;
    let hop = next_hop.hop(from_node);
    if hop == Hop::Counted && packet.ttl <= 1 {
        // Nobody answers an ICMP error (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
        return Err(if packet.is_error() {
            Detour::Drop(DropReason::TtlExceededSilently)
        } else {
            Detour::Punt(PuntReason::TtlExceeded)
        });
    }
    if !next_hop.fits(packet) && !packet.may_be_cut {
        return Err(if packet.is_error() {
            Detour::Drop(DropReason::TooBig)
        } else {
            Detour::TooBig { mtu: next_hop.mtu }
        });
    }
    let Some(mac) = next_hop.destination else {
        let neighbour = match next_hop.kind {
            NextHopKind::Uplink => tables.routes.neighbour_to(destination).unwrap_or(destination),
            _ => destination,
        };
        return Err(Detour::Unresolved(neighbour));
    };
    Ok(WayOut { next_hop, destination: mac, hop })
}
