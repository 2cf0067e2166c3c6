//! Neighbours that the kernel resolves for us and keeps fresh (`NTF_EXT_MANAGED`, linux/neighbour.h, since 5.16): no
//! second ARP or NDP on a link that has the kernel's. What it finds comes back as neighbour events into the facts.
//!
//! Wanted are the gateways and pods that the tables name, and on-link hosts that a packet asked for. The latter are
//! bounded in number and forgotten when nobody has asked for, or used, them for a while.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteProtocol;

use super::netlink::{self, ENOENT, NodeError};
use super::{PROTOCOL, funnel};

/// On-link hosts that packets asked for, at most. The kernel's own table (gc_thresh3) has 1,024 by default for all.
pub const ASKED_MAX: usize = 512;
/// After so long without a question and without a flow, an asked host is forgotten.
pub const ASKED_FOR: Duration = Duration::from_secs(600);

/// The on-link hosts that packets asked for.
#[derive(Debug, Default)]
pub struct Asked {
    last: HashMap<IpAddr, Instant>,
}

impl Asked {
    /// Notes a question. With the set full the host that was asked for longest ago makes room. `true`: it is new.
    pub fn ask(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.last.insert(address, now).is_some() {
            return false;
        }
        if self.last.len() > ASKED_MAX {
            let oldest = self.last.iter().filter(|(a, _)| **a != address).min_by_key(|(_, at)| **at).map(|(a, _)| *a);
            if let Some(oldest) = oldest {
                self.last.remove(&oldest);
            }
        }
        true
    }

    /// Whether some host has not been asked for since [`ASKED_FOR`] before `now`.
    pub fn has_old(&self, now: Instant) -> bool {
        self.last.values().any(|at| now.duration_since(*at) >= ASKED_FOR)
    }

    /// Forgets the old ones but those that `in_use` holds, which count as asked for now.
    pub fn forget_old(&mut self, now: Instant, in_use: &HashSet<IpAddr>) {
        self.last.retain(|address, at| {
            if now.duration_since(*at) < ASKED_FOR {
                return true;
            }
            *at = now;
            in_use.contains(address)
        });
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.last.keys().copied()
    }
}

/// The kernel's entries that we keep.
pub struct Neighbours {
    handle: Handle,
}

impl Neighbours {
    /// Runs inside a runtime: the connection's driver is spawned there.
    pub fn new() -> Result<Self, NodeError> {
        Ok(Self { handle: netlink::connect()? })
    }

    /// Brings the kernel's managed entries of ours from `present` to `wanted` (interface index and address). One
    /// failure does not keep the others from being written.
    pub async fn sync(&self, wanted: &BTreeSet<(u32, IpAddr)>, present: &BTreeSet<(u32, IpAddr)>) -> Vec<NodeError> {
        let mut errors = Vec::new();
        for (interface, address) in wanted.difference(present) {
            if let Err(error) = self.add(*interface, *address).await {
                errors.push(error);
            }
        }
        for (interface, address) in present.difference(wanted) {
            if let Err(error) = delete(&self.handle, *interface, *address).await {
                errors.push(error);
            }
        }
        errors
    }

    async fn add(&self, interface: u32, address: IpAddr) -> Result<(), NodeError> {
        let mut request = self
            .handle
            .neighbours()
            .add(interface, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        request.message_mut().attributes.extend([
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
        ]);
        request.execute().await.map_err(|error| {
            NodeError::new(
                format!("asking the kernel for the neighbour {address} on interface {interface}"),
                &error,
                "see `ip neigh` and net.ipv4.neigh.default.gc_thresh3; tried again with the next change",
            )
        })
    }
}

async fn delete(handle: &Handle, interface: u32, address: IpAddr) -> Result<(), NodeError> {
    let mut message = NeighbourMessage::default();
    message.header.family = funnel::family_of(address);
    message.header.ifindex = interface;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }));
    match handle.neighbours().del(message).execute().await {
        Ok(()) => Ok(()),
        Err(error) if netlink::errno(&error) == Some(ENOENT) => Ok(()),
        Err(error) => Err(NodeError::request(format!("giving up the neighbour {address}"), &error)),
    }
}

/// Deletes every managed entry that bears our mark.
pub(super) async fn forget_all(handle: &Handle) -> Result<(), NodeError> {
    let mut ours = Vec::new();
    {
        let mut entries = std::pin::pin!(handle.neighbours().get().execute());
        while let Some(entry) =
            entries.try_next().await.map_err(|error| NodeError::request("reading the node's neighbours", &error))?
        {
            if is_ours(&entry)
                && let Some(address) = address_of(&entry)
            {
                ours.push((entry.header.ifindex, address));
            }
        }
    }
    for (interface, address) in ours {
        delete(handle, interface, address).await?;
    }
    Ok(())
}

/// Whether the kernel manages this entry on our behalf.
pub(super) fn is_ours(entry: &NeighbourMessage) -> bool {
    let managed = entry
        .attributes
        .iter()
        .any(|a| matches!(a, NeighbourAttribute::ExtFlags(f) if f.contains(NeighbourExtFlags::Managed)));
    let marked =
        entry.attributes.iter().any(|a| matches!(a, NeighbourAttribute::Protocol(p) if u8::from(*p) == PROTOCOL));
    managed && marked
}

pub(super) fn address_of(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_hosts_are_bounded_and_age_out_unless_a_flow_uses_them() {
        let start = Instant::now();
        let mut asked = Asked::default();
        let host = |n: usize| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        for n in 0..=ASKED_MAX {
            assert!(asked.ask(host(n), start + Duration::from_millis(n as u64)));
        }
        assert_eq!(asked.addresses().count(), ASKED_MAX);
        assert!(!asked.addresses().any(|a| a == host(0)), "the one asked for longest ago made room");
        assert!(!asked.ask(host(7), start), "asked for twice, new once");

        let later = start + ASKED_FOR + Duration::from_secs(1);
        assert!(asked.has_old(later));
        asked.forget_old(later, &HashSet::from([host(9)]));
        assert_eq!(asked.addresses().collect::<Vec<_>>(), [host(9)]);
        assert!(!asked.has_old(later));
    }
}
