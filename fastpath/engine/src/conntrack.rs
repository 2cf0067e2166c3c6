//! The connection table. (API first; filled in next.)
use std::net::IpAddr;

use crate::flow::FlowKey;

/// A slot and the sequence under which it was read: still the same flow if the sequence still stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowRef {
    pub is_ipv6: bool,
    pub slot: u32,
    pub sequence: u32,
}

/// The translation of one direction; equal to the key's own values where nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub src_port: u16,
    pub dst_port: u16,
}

/// One direction of a connection to be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direction {
    pub key: FlowKey,
    pub rewrite: Rewrite,
    /// Index into the next hops for packets of this direction.
    pub next_hop: u32,
    /// Kernel interface index of the port by which packets of this direction come in.
    pub ingress: u32,
}
