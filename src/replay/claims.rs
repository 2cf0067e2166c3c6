//! Who gets a packet: a worker or the node's own stack. On a node the kernel programs decide it (`fastpath/bpf/steer.c`
//! and `fastpath/bpf/pod.c`); here the same decision is taken from the same claims and the same connection table.
//!
//! Two things differ on purpose. Every destination MAC counts as ours. And a frame that is too damaged to tell whose it
//! is goes to the engine, which names the damage; on a node the kernel counts it and leaves it to the stack to drop.

use std::net::IpAddr;

use atalho_control::compile::Compiled;
use atalho_engine::conntrack::ConnTable;
use atalho_engine::flow::Protocol;
use atalho_engine::tables::Port;
use atalho_engine::verdict::DropReason;
use atalho_layout::ClaimKind;

use super::fragments::ClaimedDatagrams;
use super::seen::{Fragment, IpPacket, Seen};

/// Whose a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A worker's.
    Ours,
    /// The node's stack gets it as it is.
    Pass,
    Drop(DropReason),
}

/// What is in force.
pub struct Claims<'c> {
    pub compiled: &'c Compiled,
    pub table: &'c ConnTable,
    pub datagrams: &'c mut ClaimedDatagrams,
    pub now_ms: u64,
}

impl Claims<'_> {
    /// Decides about a frame that came in by `port`. `node`: interface index of the node's own port.
    pub fn judge(&mut self, port: &Port, node: u32, frame: &[u8]) -> Claim {
        let seen = Seen::of(frame);
        match (port, seen) {
            (_, Seen::Unreadable) => Claim::Ours,
            (Port::Uplink, Seen::Ip(packet)) => self.judge_uplink(&packet),
            (Port::Node, Seen::Ip(packet)) => self.judge_node(&packet, node),
            (Port::Pod { addresses, .. }, Seen::Ip(packet)) => self.judge_pod(&packet, addresses),
            (Port::Pod { addresses, .. }, Seen::Arp { sender }) => {
                // Nobody's is a probe for a duplicate (RFC 5227).
                let is_honest = sender == [0; 4] || addresses.contains(&sender.into());
                if is_honest { Claim::Pass } else { Claim::Drop(DropReason::WrongSource) }
            }
            (Port::Pod { .. }, Seen::Other) => Claim::Ours,
            (Port::Uplink | Port::Node, Seen::Arp { .. } | Seen::Other) => Claim::Pass,
        }
    }

    fn judge_uplink(&mut self, packet: &IpPacket) -> Claim {
        if packet.is_link_business() {
            return Claim::Pass;
        }
        let is_claimed = match self.claim_on_address(packet) {
            Some(ClaimKind::Vip | ClaimKind::Pod | ClaimKind::ServiceCidr) => true,
            _ => self.is_ours_at_node(packet),
        };
        if is_claimed { Claim::Ours } else { Claim::Pass }
    }

    fn judge_pod(&mut self, packet: &IpPacket, addresses: &[IpAddr]) -> Claim {
        let is_own = addresses.contains(&packet.src);
        if packet.is_link_business() {
            let is_link_source = match packet.src {
                IpAddr::V6(src) => src.is_unicast_link_local() || src.is_unspecified(),
                IpAddr::V4(_) => false,
            };
            let is_honest = !packet.is_router_talk() && (is_own || is_link_source);
            return if is_honest { Claim::Pass } else { Claim::Drop(DropReason::WrongSource) };
        }
        if !is_own {
            return Claim::Drop(DropReason::WrongSource);
        }
        let is_nodes = self.claim_on_address(packet) == Some(ClaimKind::Node) && !self.is_ours_at_node(packet);
        if is_nodes { Claim::Pass } else { Claim::Ours }
    }

    /// What the node sends comes to a worker by its routes to Services, and where it answers one of our flows.
    fn judge_node(&mut self, packet: &IpPacket, node: u32) -> Claim {
        let by_route = matches!(
            self.claim_on_address(packet),
            Some(ClaimKind::Vip | ClaimKind::ServiceCidr | ClaimKind::NodePort)
        ) || self.is_node_port(packet);
        let is_answer = || packet.flow.and_then(|key| self.table.find(&key)).is_some_and(|flow| flow.ingress == node);
        let is_claimed = by_route || is_answer() || self.follows_first(packet);
        if is_claimed {
            self.learn(packet);
            return Claim::Ours;
        }
        Claim::Pass
    }

    /// Whether a packet to a node address, or to one that nobody claims, is ours: by node port, by flow, by its first
    /// fragment.
    fn is_ours_at_node(&mut self, packet: &IpPacket) -> bool {
        if self.follows_first(packet) {
            return true;
        }
        let is_claimed = self.is_node_port(packet) || packet.flow.is_some_and(|key| self.table.find(&key).is_some());
        if is_claimed {
            self.learn(packet);
        }
        is_claimed
    }

    /// The claim on the whole address, or on its range: port 0 is nobody's.
    fn claim_on_address(&self, packet: &IpPacket) -> Option<ClaimKind> {
        self.compiled.claim_of(packet.dst, Protocol::Tcp, 0)
    }

    fn is_node_port(&self, packet: &IpPacket) -> bool {
        match (Protocol::from_number(packet.protocol), packet.dst_port) {
            (Some(protocol), Some(port)) => {
                self.compiled.claim_of(packet.dst, protocol, port) == Some(ClaimKind::NodePort)
            }
            _ => false,
        }
    }

    fn follows_first(&self, packet: &IpPacket) -> bool {
        let Fragment::Later { id } = packet.fragment else { return false };
        self.datagrams.knows(&packet.datagram(id), self.now_ms)
    }

    fn learn(&mut self, packet: &IpPacket) {
        if let Fragment::First { id } = packet.fragment {
            self.datagrams.learn(packet.datagram(id), self.now_ms);
        }
    }
}
