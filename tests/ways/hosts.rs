//! Who takes part, and under which addresses.

use std::net::IpAddr;

use atalho_benches::lab::plan::Family;

/// Who lives in a namespace of his own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Node,
    /// A pod that serves nothing.
    Pod,
    /// A pod that is an endpoint.
    Endpoint,
    /// A pod that another plugin has set up, and routes in another way.
    Other,
    /// No pod: the node forwards for it.
    Container,
    NodeB,
    PodB,
    EndpointB,
    Outside,
    Router,
}

pub const HOSTS: [Host; 10] = [
    Host::Node,
    Host::Pod,
    Host::Endpoint,
    Host::Other,
    Host::Container,
    Host::NodeB,
    Host::PodB,
    Host::EndpointB,
    Host::Outside,
    Host::Router,
];

/// Where endpoints serve, and where nobody's Service leads.
pub const ENDPOINT_PORT: u16 = 8080;
pub const PLAIN_PORT: u16 = 7000;

impl Host {
    pub fn address(self, family: Family) -> IpAddr {
        let [v4, v6] = match self {
            Self::Node => ["192.168.0.2", "fd00:168::2"],
            Self::Pod => ["10.244.1.11", "fd00:244:0:1::11"],
            Self::Endpoint => ["10.244.1.12", "fd00:244:0:1::12"],
            Self::Other => ["10.244.1.13", "fd00:244:0:1::13"],
            Self::Container => ["172.17.0.2", "fd00:172::2"],
            Self::NodeB => ["192.168.0.3", "fd00:168::3"],
            Self::PodB => ["10.244.2.11", "fd00:244:0:2::11"],
            Self::EndpointB => ["10.244.2.12", "fd00:244:0:2::12"],
            Self::Outside => ["192.168.0.10", "fd00:168::10"],
            Self::Router => ["192.168.0.1", "fd00:168::1"],
        };
        let text = if family == Family::V4 { v4 } else { v6 };
        text.parse().unwrap_or_else(|_| unreachable!("an address of this list"))
    }

    /// Of what it answers as.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node-a",
            Self::Pod => "pod",
            Self::Endpoint => "local",
            Self::Other => "other",
            Self::Container => "container",
            Self::NodeB => "node-b",
            Self::PodB => "pod-b",
            Self::EndpointB => "remote",
            Self::Outside => "outside",
            Self::Router => "balancer",
        }
    }
}

/// Gateway addresses of node and pods' links: the node's own as well.
pub const GATEWAYS: [&str; 4] = ["10.244.1.1", "10.244.2.1", "172.17.0.1", "fd00:172::1"];

/// Whose address this is, by the name of the host.
pub fn owner(address: IpAddr) -> Option<Host> {
    let of_host = |host: &Host| Family::BOTH.into_iter().any(|family| host.address(family) == address);
    let gateway = GATEWAYS.iter().position(|gateway| gateway.parse() == Ok(address));
    let of_gateway = gateway.map(|at| if at == 1 { Host::NodeB } else { Host::Node });
    HOSTS.into_iter().find(of_host).or(of_gateway)
}
