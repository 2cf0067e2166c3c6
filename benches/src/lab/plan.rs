//! Names and addresses of a lab. Pure: what is where, decided before anything exists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Most pods that a lab holds.
pub const PODS_MAX: usize = 64;
/// Pods that the objects in `examples/` name.
pub const PODS_IN_EXAMPLES: usize = 4;
/// Pods of the other node, played by the far namespace.
pub const REMOTE_PODS: usize = 2;
/// Ports on which every pod serves: what the Services of `examples/` lead to.
pub const POD_PORTS: [u16; 3] = [8080, 9090, 5353];
/// Port of the outside server.
pub const OUTSIDE_PORT: u16 = 7000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// How a lab is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Starts every namespace's name and names the run folder, so that labs of different prefixes live side by side.
    pub prefix: String,
    pub pods: usize,
    /// Queues of the uplink, at both ends.
    pub queues: u32,
    /// Of every link, bytes of an IP packet.
    pub mtu: u32,
    /// The far side is a router, and all that is beyond it is behind a link that takes only this much.
    pub beyond_mtu: Option<u32>,
    /// Whether the node's kernel forwards. Off, whatever crosses the node has crossed the daemon.
    pub forwarding: bool,
}

impl Plan {
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
            pods: PODS_IN_EXAMPLES,
            queues: 2,
            mtu: 1500,
            beyond_mtu: None,
            forwarding: false,
        }
    }

    /// Refuses what cannot be built.
    pub fn check(&self) -> Result<()> {
        if !(PODS_IN_EXAMPLES..=PODS_MAX).contains(&self.pods) {
            bail!("{} pods: a lab has {PODS_IN_EXAMPLES} to {PODS_MAX}", self.pods);
        }
        if self.prefix.is_empty()
            || self.prefix.len() > 40
            || !self.prefix.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        {
            bail!("prefix {:?}: 1 to 40 letters, digits and hyphens", self.prefix);
        }
        Ok(())
    }

    pub fn node(&self) -> String {
        format!("{}-node", self.prefix)
    }

    pub fn far(&self) -> String {
        format!("{}-far", self.prefix)
    }

    /// Namespace of the hosts outside and of the other node's pods: the far one itself, or one behind it.
    pub fn beyond(&self) -> String {
        match self.beyond_mtu {
            None => self.far(),
            Some(_) => format!("{}-beyond", self.prefix),
        }
    }

    /// Namespace of pod `number`, from 1.
    pub fn pod(&self, number: usize) -> String {
        format!("{}-pod{number}", self.prefix)
    }

    pub fn namespaces(&self) -> Vec<String> {
        let beyond = self.beyond_mtu.map(|_| self.beyond());
        [self.node(), self.far()]
            .into_iter()
            .chain(beyond)
            .chain((1..=self.pods).map(|number| self.pod(number)))
            .collect()
    }

    /// Everything that the lab writes lies here.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from("/run/atalho-lab").join(&self.prefix)
    }

    pub fn bpffs(&self) -> PathBuf {
        self.folder().join("bpf")
    }

    pub fn manifests(&self) -> PathBuf {
        self.folder().join("manifests")
    }
}

/// Address of pod `number` of this node, from 1.
pub fn pod_address(number: usize, family: Family) -> IpAddr {
    let last = 10 + number as u16;
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, 1, last as u8).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x244, 0, 1, 0, 0, 0, hex_digits(last)).into(),
    }
}

/// Address of pod `number` of the other node, from 1.
pub fn remote_pod_address(number: usize, family: Family) -> IpAddr {
    let last = 10 + number as u16;
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, 2, last as u8).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x244, 0, 2, 0, 0, 0, hex_digits(last)).into(),
    }
}

pub fn node_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 168, 0, 2).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x168, 0, 0, 0, 0, 0, 2).into(),
    }
}

/// The router's address on the uplink; also the other node's.
pub fn router_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 168, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x168, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// A host outside the cluster: client of node ports, server to pods (RFC 5737 and RFC 3849 ranges).
pub fn outside_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 10).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x10).into(),
    }
}

/// Where a pod with this address serves.
pub fn pod_sockets(address: IpAddr) -> Vec<SocketAddr> {
    POD_PORTS.iter().map(|&port| SocketAddr::new(address, port)).collect()
}

/// The number whose hexadecimal digits read as `value` does in decimal, so that fd00::11 belongs to 10.0.0.11.
fn hex_digits(value: u16) -> u16 {
    (value / 100) << 8 | (value / 10 % 10) << 4 | (value % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_of_a_pod_read_alike() {
        assert_eq!(pod_address(1, Family::V4).to_string(), "10.244.1.11");
        assert_eq!(pod_address(1, Family::V6).to_string(), "fd00:244:0:1::11");
        assert_eq!(pod_address(64, Family::V6).to_string(), "fd00:244:0:1::74");
        assert_eq!(remote_pod_address(2, Family::V6).to_string(), "fd00:244:0:2::12");
    }

    #[test]
    fn an_impossible_plan_is_refused() {
        assert!(Plan::new("at").check().is_ok());
        assert!(Plan { pods: 3, ..Plan::new("at") }.check().is_err());
        assert!(Plan::new("../x").check().is_err());
    }
}
