//! What the kernel says about this node: links, addresses, routes, neighbours. Followed by rtnetlink, never guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use atalho_engine::next_hops::Mac;
use ipnet::IpNet;

/// A picture of the node's network at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// By interface index.
    pub links: BTreeMap<u32, Link>,
    /// Interface index and address with its prefix length.
    pub addresses: BTreeSet<(u32, IpNet)>,
    /// Routes of the tables main and local.
    pub routes: Vec<KernelRoute>,
    /// Resolved neighbours.
    pub neighbours: BTreeMap<(u32, IpAddr), Mac>,
    /// Interface index of the uplink; 0 where there is none (offline).
    pub uplink: u32,
    /// Interface index of the funnel's kernel end; 0 where there is none (offline).
    pub funnel: u32,
    pub ports: PortFacts,
}

/// Which TCP and UDP ports the node uses itself. Empty where there is no node (offline).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortFacts {
    /// What the kernel gives to sockets that ask for no port (`net.ipv4.ip_local_port_range`).
    pub ephemeral: Option<RangeInclusive<u16>>,
    /// What it does not give although it could (`net.ipv4.ip_local_reserved_ports`).
    pub reserved: Vec<RangeInclusive<u16>>,
    /// Ports that a socket has, of those that none is given by chance.
    pub bound: BTreeSet<u16>,
}

impl PortFacts {
    /// Whether the kernel may give this port to any socket.
    pub fn is_ephemeral(&self, port: u16) -> bool {
        self.ephemeral.as_ref().is_some_and(|range| range.contains(&port)) && !self.is_reserved(port)
    }

    pub fn is_reserved(&self, port: u16) -> bool {
        self.reserved.iter().any(|range| range.contains(&port))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub mac: Mac,
    /// Bytes of an IP packet.
    pub mtu: u16,
    pub up: bool,
}

/// A route as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRoute {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    /// Interface index of the egress.
    pub interface: Option<u32>,
    pub kind: KernelRouteKind,
    /// Smaller is preferred among equal destinations.
    pub metric: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelRouteKind {
    Unicast,
    /// An address of the node.
    Local,
    /// Broadcast, multicast, anycast.
    Other,
    /// Unreachable, prohibit.
    Refused,
    Blackhole,
}
