//! The questions: every source asks every row of the matrix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use atalho_benches::lab::plan::Family;

use crate::hosts::{ENDPOINT_PORT, Host, PLAIN_PORT};
use crate::objects::{self, Behind, PORT, PROXIED, Service, UNALLOCATED, UNLISTED};

/// Who asks, in the order of the columns.
pub const SOURCES: [(Host, &str); 7] = [
    (Host::Node, "process of node-a"),
    (Host::Pod, "pod here"),
    (Host::Other, "pod of another plugin here"),
    (Host::Endpoint, "the endpoint pod here"),
    (Host::Container, "container of another runtime here"),
    (Host::PodB, "pod there"),
    (Host::Outside, "outside"),
];

/// Where a question goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    ClusterIp,
    NodePort,
    NodePortB,
    Balancer,
    ExternalIp,
    /// 127.0.0.1 and ::1 with the node port.
    LoopbackPort,
    /// A port that the Service has not, at its ClusterIP, load balancer and external IP.
    OtherPort,
    OtherBalancerPort,
    OtherExternalPort,
    Unallocated,
    /// ipMode Proxy.
    ProxiedBalancer,
    UnlistedExternalIp,
    /// No Service: node-a at a port on which it serves, and at one on which nobody does.
    NodeAddress,
    NodeClosed,
    PodAddress,
    PodBAddress,
    OutsideAddress,
}

/// A row of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub target: Target,
    /// None where no Service is asked.
    pub service: Option<Service>,
    /// IPv4 and IPv6.
    pub addresses: [SocketAddr; 2],
}

/// A port that nobody has.
const OTHER_PORT: u16 = 81;

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "node port at node-a",
            Self::NodePortB => "node port at node-b",
            Self::Balancer => "load-balancer address",
            Self::ExternalIp => "external IP",
            Self::LoopbackPort => "node port at node-a's loopback address",
            Self::OtherPort => "ClusterIP, unknown port",
            Self::OtherBalancerPort => "load-balancer address, unknown port",
            Self::OtherExternalPort => "external IP, unknown port",
            Self::Unallocated => "unallocated address of the Service range",
            Self::ProxiedBalancer => "load-balancer address, ipMode Proxy",
            Self::UnlistedExternalIp => "external IP that is not allowed",
            Self::NodeAddress => "node-a itself",
            Self::NodeClosed => "node-a itself, a closed port",
            Self::PodAddress => "the endpoint pod here, by its address",
            Self::PodBAddress => "the endpoint pod there, by its address",
            Self::OutsideAddress => "the host outside",
        }
    }

    /// Whether a source has a way there at all that tells something.
    pub fn is_asked_by(self, source: Host) -> bool {
        match self {
            // Anybody else's loopback is his own.
            Self::LoopbackPort => matches!(source, Host::Node | Host::Outside),
            Self::PodAddress => source != Host::Endpoint,
            Self::OutsideAddress => source != Host::Outside,
            _ => true,
        }
    }
}

/// All rows, in their order.
pub fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for target in [Target::ClusterIp, Target::NodePort, Target::NodePortB, Target::Balancer, Target::ExternalIp] {
        cells.extend(objects::services().into_iter().map(|service| {
            let at = |family| match target {
                Target::ClusterIp => (service.cluster_ip(family), PORT),
                Target::NodePort => (Host::Node.address(family), service.node_port()),
                Target::NodePortB => (Host::NodeB.address(family), service.node_port()),
                Target::Balancer => (service.balancer(family), PORT),
                _ => (service.external_ip(family), PORT),
            };
            cell(target, Some(service), at)
        }));
    }
    let some = objects::services()[0];
    cells.push(cell(Target::LoopbackPort, Some(some), |family| (loopback(family), some.node_port())));
    cells.push(cell(Target::OtherPort, Some(some), |family| (some.cluster_ip(family), OTHER_PORT)));
    cells.push(cell(Target::OtherBalancerPort, Some(some), |family| (some.balancer(family), OTHER_PORT)));
    cells.push(cell(Target::OtherExternalPort, Some(some), |family| (some.external_ip(family), OTHER_PORT)));
    cells.push(cell(Target::Unallocated, None, |family| (UNALLOCATED.cluster_ip(family), PORT)));
    cells.push(cell(Target::ProxiedBalancer, None, |family| (PROXIED.address(family), PORT)));
    cells.push(cell(Target::UnlistedExternalIp, Some(UNLISTED), |family| (UNLISTED.external_ip(family), PORT)));
    cells.push(cell(Target::NodeAddress, None, |family| (Host::Node.address(family), PLAIN_PORT)));
    cells.push(cell(Target::NodeClosed, None, |family| (Host::Node.address(family), OTHER_PORT)));
    cells.push(cell(Target::PodAddress, None, |family| (Host::Endpoint.address(family), ENDPOINT_PORT)));
    cells.push(cell(Target::PodBAddress, None, |family| (Host::EndpointB.address(family), ENDPOINT_PORT)));
    cells.push(cell(Target::OutsideAddress, None, |family| (Host::Outside.address(family), PLAIN_PORT)));
    cells
}

impl Cell {
    /// Whether a second question may be answered by somebody else.
    pub fn has_choice(&self) -> bool {
        self.service.is_some_and(|service| service.behind == Behind::Both)
    }
}

fn cell(target: Target, service: Option<Service>, at: impl Fn(Family) -> (IpAddr, u16)) -> Cell {
    Cell { target, service, addresses: Family::BOTH.map(|family| at(family).into()) }
}

fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}
