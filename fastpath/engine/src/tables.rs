//! The snapshot that workers read: immutable, built by control, swapped as a whole. Parts that did not change are
//! shared with the snapshot before (`Arc`), so that one changed object costs one shard and not a rebuild.
//!
//! The reader owns this type; control's compile step is its only builder.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::flow::Protocol;
use crate::route::Routes;
use crate::service::Services;
use crate::snat::SnatPorts;

/// A map that admission looks into. Control alone fills it, so its hash need not stand up to who chooses keys to collide.
pub type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Everything that admission needs to know.
#[derive(Clone, Default)]
pub struct Tables {
    /// Grows by one with every publication.
    pub generation: u64,
    pub node: Arc<Node>,
    pub cluster: Arc<Cluster>,
    /// Every other node's address, of each family that it has: one of them may track what comes here by mistake.
    pub other_nodes: Arc<Vec<IpAddr>>,
    pub services: Services,
    /// Ports by kernel interface index of where packets come in: the uplink, the node (funnel's kernel end), each pod's host end.
    pub ports: Arc<FastMap<u32, Port>>,
    /// Pods of this node by address: next-hop index.
    pub local_pods: Arc<FastMap<IpAddr, u32>>,
    pub routes: Arc<Routes>,
    pub settings: Arc<Settings>,
}

/// The node itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// Every address of the node, loopback and funnel included.
    pub addresses: Vec<IpAddr>,
    /// Source of masqueraded packets, per family.
    pub primary_v4: Option<std::net::Ipv4Addr>,
    pub primary_v6: Option<std::net::Ipv6Addr>,
}

impl Node {
    /// The primary address of each family that it has.
    pub fn primary_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.primary_v4.map(IpAddr::V4).into_iter().chain(self.primary_v6.map(IpAddr::V6))
    }
}

/// What counts as inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    pub pod_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
}

/// A port by which packets come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    Uplink,
    Node,
    /// A pod of this node: only these source addresses are its own.
    Pod {
        name: Arc<str>,
        addresses: Vec<IpAddr>,
    },
}

/// Settings that the engine reads; from the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub masquerade_all: bool,
    /// Ports for masqueraded flows; clear of those that the node itself uses.
    pub snat_ports: SnatPorts,
    pub timeouts: Timeouts,
    /// Pick up TCP connections in the middle (netfilter's `nf_conntrack_tcp_loose`).
    pub tcp_loose: bool,
    /// Refuse only TCP resets for their sequence number (netfilter's `nf_conntrack_tcp_be_liberal`).
    pub tcp_liberal: bool,
}

/// Idle times after which a connection goes, seconds; netfilter's defaults
/// (Linux Documentation/networking/nf_conntrack-sysctl.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_syn_sent_s: u32,
    pub tcp_syn_recv_s: u32,
    pub tcp_established_s: u32,
    pub tcp_fin_wait_s: u32,
    pub tcp_close_wait_s: u32,
    pub tcp_last_ack_s: u32,
    pub tcp_time_wait_s: u32,
    pub tcp_close_s: u32,
    /// While one side repeats itself and the other is silent.
    pub tcp_max_retrans_s: u32,
    /// While something is unacknowledged.
    pub tcp_unacknowledged_s: u32,
    pub udp_s: u32,
    pub udp_stream_s: u32,
    pub icmp_s: u32,
    pub icmpv6_s: u32,
    pub sctp_closed_s: u32,
    pub sctp_cookie_wait_s: u32,
    pub sctp_cookie_echoed_s: u32,
    pub sctp_established_s: u32,
    pub sctp_shutdown_sent_s: u32,
    pub sctp_shutdown_recd_s: u32,
    pub sctp_shutdown_ack_sent_s: u32,
    pub sctp_heartbeat_sent_s: u32,
}

impl Timeouts {
    pub const DEFAULT: Self = Self {
        tcp_syn_sent_s: 120,
        tcp_syn_recv_s: 60,
        tcp_established_s: 432_000,
        tcp_fin_wait_s: 120,
        tcp_close_wait_s: 60,
        tcp_last_ack_s: 30,
        tcp_time_wait_s: 120,
        tcp_close_s: 10,
        tcp_max_retrans_s: 300,
        tcp_unacknowledged_s: 300,
        udp_s: 30,
        udp_stream_s: 120,
        icmp_s: 30,
        icmpv6_s: 30,
        sctp_closed_s: 10,
        sctp_cookie_wait_s: 3,
        sctp_cookie_echoed_s: 3,
        sctp_established_s: 210,
        sctp_shutdown_sent_s: 3,
        sctp_shutdown_recd_s: 3,
        sctp_shutdown_ack_sent_s: 3,
        sctp_heartbeat_sent_s: 30,
    };
}

impl Timeouts {
    /// Seconds of silence that end no connection of a protocol, in whatever state it is: while one direction has been silent
    /// for less, nobody has to look at the other.
    #[inline]
    pub fn shortest_s(&self, protocol: Protocol) -> u32 {
        match protocol {
            Protocol::Tcp => self.tcp_shortest_s(),
            Protocol::Sctp => self.sctp_shortest_s(),
            Protocol::Udp | Protocol::Icmp | Protocol::Icmpv6 => self.stateless_shortest_s(),
        }
    }

    /// The shortest of UDP's and ICMP's.
    pub fn stateless_shortest_s(&self) -> u32 {
        self.udp_s.min(self.udp_stream_s).min(self.icmp_s).min(self.icmpv6_s)
    }

    /// The shortest of TCP's.
    pub fn tcp_shortest_s(&self) -> u32 {
        let Self { tcp_syn_sent_s, tcp_syn_recv_s, tcp_established_s, tcp_fin_wait_s, tcp_close_wait_s, .. } = *self;
        let open_s = tcp_syn_sent_s.min(tcp_syn_recv_s).min(tcp_established_s);
        let closing_s = tcp_fin_wait_s.min(tcp_close_wait_s).min(self.tcp_last_ack_s).min(self.tcp_time_wait_s);
        open_s.min(closing_s).min(self.tcp_close_s).min(self.tcp_max_retrans_s).min(self.tcp_unacknowledged_s)
    }

    /// The shortest of SCTP's.
    pub fn sctp_shortest_s(&self) -> u32 {
        let opening_s = self.sctp_cookie_wait_s.min(self.sctp_cookie_echoed_s).min(self.sctp_heartbeat_sent_s);
        let closing_s = self.sctp_shutdown_sent_s.min(self.sctp_shutdown_recd_s).min(self.sctp_shutdown_ack_sent_s);
        opening_s.min(closing_s).min(self.sctp_established_s).min(self.sctp_closed_s)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            masquerade_all: false,
            snat_ports: SnatPorts::default(),
            timeouts: Timeouts::default(),
            tcp_loose: true,
            tcp_liberal: false,
        }
    }
}

impl Tables {
    /// The masquerade address of the family of `of`.
    pub fn primary_address(&self, of: IpAddr) -> Option<IpAddr> {
        match of {
            IpAddr::V4(_) => self.node.primary_v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.node.primary_v6.map(IpAddr::V6),
        }
    }

    pub fn is_node_address(&self, address: IpAddr) -> bool {
        self.node.addresses.contains(&address)
    }

    /// Whether `address` is a pod's, of any node.
    pub fn is_pod_address(&self, address: IpAddr) -> bool {
        hold(&self.cluster.pod_cidrs, address)
    }

    pub fn is_service_address(&self, address: IpAddr) -> bool {
        hold(&self.cluster.service_cidrs, address)
    }
}

/// Whether one of `cidrs` holds `address`: by the bits of its prefix alone, for every new flow asks.
#[inline]
fn hold(cidrs: &[IpNet], address: IpAddr) -> bool {
    cidrs.iter().any(|cidr| match (cidr, address) {
        (IpNet::V4(net), IpAddr::V4(v4)) => {
            let differs = net.addr().to_bits() ^ v4.to_bits();
            differs.checked_shr(u32::BITS - u32::from(net.prefix_len())).unwrap_or(0) == 0
        }
        (IpNet::V6(net), IpAddr::V6(v6)) => {
            let differs = net.addr().to_bits() ^ v6.to_bits();
            differs.checked_shr(u128::BITS - u32::from(net.prefix_len())).unwrap_or(0) == 0
        }
        _ => false,
    })
}
