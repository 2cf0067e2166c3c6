//! What the kernel says about this node: links, addresses, routes, neighbours. Followed by rtnetlink, never guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

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
    /// Blackhole, unreachable, prohibit.
    Refused,
}
