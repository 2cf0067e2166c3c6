//! The cluster that both sides are given: hosts, links and Services, once. [`super::manifests`] and [`super::ruleset`]
//! say the same in the words of either side.

use std::net::IpAddr;

pub type Mac = [u8; 6];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// What differs between the families, side by side.
    pub fn pick<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }

    fn address(self, v4: &str, v6: &str) -> IpAddr {
        self.pick(v4, v6).parse().expect("an address")
    }
}

/// A link of the node: a veth of the kernel's router, a port of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    Uplink,
    Client,
    Web,
    Narrow,
}

impl Link {
    pub const ALL: [Self; 4] = [Self::Uplink, Self::Client, Self::Web, Self::Narrow];
    pub const PODS: [Self; 3] = [Self::Client, Self::Web, Self::Narrow];

    /// The interface's name in the router's namespace, and of its other end.
    pub fn name(self) -> &'static str {
        ["uplink", "client", "web", "narrow"][self as usize]
    }

    /// Kernel interface index on our side.
    pub fn ifindex(self) -> u32 {
        [2, 101, 102, 103][self as usize]
    }

    pub fn mtu(self) -> u16 {
        if self == Self::Narrow { 1400 } else { 1500 }
    }

    /// The node's own address on the link.
    pub fn mac(self) -> Mac {
        [2, 0, 0, 0xaa, 0, self as u8]
    }

    /// The pod behind it; behind the uplink are many.
    pub fn pod(self) -> Option<Host> {
        Host::PODS.into_iter().find(|host| host.link() == self)
    }
}

/// Whoever sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Host {
    /// A pod that asks.
    Client,
    /// A pod that serves, and asks its own Service.
    Web,
    /// A pod behind a link of MTU 1400.
    Narrow,
    /// A pod of the other node.
    Remote,
    /// Hosts outside the cluster.
    Far,
    Farther,
    /// The router on the uplink.
    Gateway,
    OtherNode,
}

impl Host {
    pub const PODS: [Self; 3] = [Self::Client, Self::Web, Self::Narrow];
    /// Those that begin conversations.
    pub const ASKING: [Self; 6] = [Self::Client, Self::Web, Self::Narrow, Self::Remote, Self::Far, Self::Farther];

    pub fn name(self) -> &'static str {
        ["client", "web", "narrow", "remote", "far", "farther", "gateway", "other-node"][self as usize]
    }

    pub fn address(self, family: Family) -> IpAddr {
        let (v4, v6) = [
            ("10.244.1.11", "fd00:244:0:1::11"),
            ("10.244.1.12", "fd00:244:0:1::12"),
            ("10.244.1.13", "fd00:244:0:1::13"),
            ("10.244.2.11", "fd00:244:0:2::11"),
            ("203.0.113.9", "2001:db8:113::9"),
            ("198.51.100.7", "2001:db8:51::7"),
            ("192.168.0.1", "fd00:168::1"),
            ("192.168.0.3", "fd00:168::3"),
        ][self as usize];
        family.address(v4, v6)
    }

    pub fn link(self) -> Link {
        match self {
            Self::Client => Link::Client,
            Self::Web => Link::Web,
            Self::Narrow => Link::Narrow,
            _ => Link::Uplink,
        }
    }

    /// Of the station that the node sees on the link: a pod itself, outside the router or the other node.
    pub fn mac(self) -> Mac {
        match self {
            Self::Remote => Self::OtherNode.mac(),
            Self::Far | Self::Farther => Self::Gateway.mac(),
            _ => [2, 0, 0, 0xbb, 0, self as u8],
        }
    }
}

/// The node's address on the uplink: its primary one, source of what is masqueraded.
pub fn node_address(family: Family) -> IpAddr {
    family.address("192.168.0.2", "fd00:168::2")
}

pub fn pod_cidr(family: Family) -> &'static str {
    family.pick("10.244.0.0/16", "fd00:244::/32")
}

pub fn service_cidr(family: Family) -> &'static str {
    family.pick("10.96.0.0/16", "fd00:96::/112")
}

/// An address of the Service range that no Service has.
pub fn unallocated_address(family: Family) -> IpAddr {
    family.address("10.96.9.9", "fd00:96::99")
}

/// One port of a Service, the same number for both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePort {
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    pub port: u16,
    pub target: u16,
    pub node_port: Option<u16>,
}

/// A Service with one endpoint or none: whoever chooses has no choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    pub name: &'static str,
    /// Last number of the cluster addresses.
    number: u8,
    pub endpoint: Option<Host>,
    /// internalTrafficPolicy Local.
    pub internal_local: bool,
    /// externalTrafficPolicy Local.
    pub external_local: bool,
    pub ports: &'static [ServicePort],
}

impl Service {
    pub fn address(&self, family: Family) -> IpAddr {
        family.address(&format!("10.96.0.{}", self.number), &format!("fd00:96::{}", self.number))
    }
}

const fn tcp(port: u16, target: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort { protocol: "TCP", port, target, node_port }
}

const fn udp(port: u16, target: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort { protocol: "UDP", port, target, node_port }
}

const fn cluster(name: &'static str, number: u8, endpoint: Option<Host>, ports: &'static [ServicePort]) -> Service {
    Service { name, number, endpoint, internal_local: false, external_local: false, ports }
}

/// Every Service.
pub const SERVICES: [Service; 7] = [
    cluster("near", 10, Some(Host::Web), &[tcp(80, 8080, Some(30080)), udp(53, 5353, Some(30053))]),
    // Leads where `near` does, so that two conversations may look alike to their server.
    cluster("near-twin", 11, Some(Host::Web), &[tcp(81, 8080, None), udp(54, 5353, None)]),
    cluster("far", 20, Some(Host::Remote), &[tcp(80, 8080, Some(30081)), udp(53, 5353, Some(30054))]),
    cluster("narrow", 30, Some(Host::Narrow), &[tcp(80, 8080, None), udp(53, 5353, None)]),
    cluster("empty", 40, None, &[tcp(80, 8080, Some(30083)), udp(53, 5353, Some(30056))]),
    Service {
        internal_local: true,
        ..cluster("elsewhere", 50, Some(Host::Remote), &[tcp(80, 8080, None), udp(53, 5353, None)])
    },
    Service {
        external_local: true,
        ..cluster("at-home", 60, Some(Host::Web), &[tcp(80, 8080, Some(30084)), udp(53, 5353, Some(30057))])
    },
];

/// A port that no Service has.
pub const UNKNOWN_PORT: u16 = 4711;
/// What masquerading takes source ports from.
pub const MASQUERADE_PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_535;
