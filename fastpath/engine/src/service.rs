//! Services as admission sees them: a VIP (address, protocol, port) leads to a list of backends.

mod maglev;
mod vips;

use std::net::IpAddr;
use std::sync::Arc;

pub use self::maglev::{lookup_size, maglev};
pub use self::vips::{SHARDS, Services, Slot};
use crate::affinity::Affinity;
use crate::flow::{FlowKey, Protocol};

/// What a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipKey {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// Which kind of address a VIP is; the spelling of `atalho why`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VipKind {
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalIP,
    Gateway,
}

impl VipKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIP => "ExternalIP",
            Self::Gateway => "Gateway",
        }
    }
}

/// One VIP of one Service port.
#[derive(Debug, Clone, PartialEq)]
pub struct Vip {
    /// `namespace/name:port-name`, or `:port-number` if the port has no name.
    pub service: Arc<str>,
    pub kind: VipKind,
    /// sessionAffinity: ClientIP.
    pub affinity: Option<Affinity>,
    /// For traffic from this cluster's pods and this node.
    pub inside: Route,
    /// For traffic from elsewhere.
    pub outside: Route,
}

/// What becomes of traffic from one side.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub backends: Arc<Backends>,
    /// Rewrite the source to the node's address.
    pub masquerade: bool,
    /// With no backend: drop silently (policy Local) instead of rejecting.
    pub drop_without_backend: bool,
}

/// The endpoints of one Service port that a policy allows, with their table of choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Backends {
    pub endpoints: Box<[Endpoint]>,
    /// Index into `endpoints` by hash (Maglev, sized to the endpoints); empty: choose evenly at random.
    pub lookup: Box<[u16]>,
}

impl Backends {
    /// Chosen by consistent hashing: the same flow goes to the same endpoint on every node and after every change that
    /// does not concern its endpoint, as far as Maglev promises. Of more than 65,535 endpoints the rest is never chosen.
    pub fn maglev(endpoints: Vec<Endpoint>) -> Self {
        let names: Vec<String> = endpoints.iter().map(|e| format!("{}:{}", e.address, e.port)).collect();
        let weights: Vec<u32> = endpoints.iter().map(|e| e.weight).collect();
        // A single endpoint needs no table.
        let lookup = if names.len() < 2 { Box::default() } else { maglev(&names, &weights, lookup_size(names.len())) };
        Self { endpoints: endpoints.into(), lookup }
    }

    /// Chosen evenly at random.
    pub fn random(endpoints: Vec<Endpoint>) -> Self {
        Self { endpoints: endpoints.into(), lookup: Box::default() }
    }

    /// The endpoint with this address.
    pub fn at(&self, address: IpAddr) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.address == address)
    }

    /// The endpoint that every node with the same endpoints chooses for a flow; `None` where a draw decides, or there is none.
    pub fn choice_of_every_node(&self, key: &FlowKey) -> Option<&Endpoint> {
        let is_drawn = self.lookup.is_empty() && self.endpoints.len() > 1;
        if is_drawn { None } else { self.choose(key, 0) }
    }

    /// The endpoint for a new flow; `random` is any even draw. `None`: there is none.
    #[inline]
    pub fn choose(&self, key: &FlowKey, random: u32) -> Option<&Endpoint> {
        match self.place(key) {
            Some(place) => self.endpoints.get(usize::from(self.lookup[place])),
            None => self.endpoints.get(scaled(random, self.endpoints.len())),
        }
    }

    /// Where in `lookup` the choice of a flow stands.
    #[inline]
    pub(crate) fn place(&self, key: &FlowKey) -> Option<usize> {
        (!self.lookup.is_empty()).then(|| scaled(hash_of(key), self.lookup.len()))
    }
}

/// An even draw of 32 bits as an even draw below `len`.
#[inline]
fn scaled(draw: u32, len: usize) -> usize {
    ((u64::from(draw) * len as u64) >> 32) as usize
}

/// The hash by which flows spread over endpoints: the same on every node, so no secret is in it. It guards nothing: who
/// chooses his ports to meet one endpoint could connect to that endpoint often enough as well.
#[inline]
fn hash_of(key: &FlowKey) -> u32 {
    let ports = u64::from(key.src_port) << 16 | u64::from(key.dst_port) | (key.protocol as u64) << 32;
    let hash = match (key.src, key.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            mix(mix(ports) ^ (u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits())))
        }
        (src, dst) => [src, dst].into_iter().fold(ports, |hash, address| {
            crate::flow::mapped(address)
                .as_chunks()
                .0
                .iter()
                .fold(hash, |hash, half| mix(hash ^ u64::from_le_bytes(*half)))
        }),
    };
    (hash >> 32) as u32
}

/// A finalizer: every bit of the result depends on every bit of the word (Stafford, "Better bit mixing", variant 13).
pub(crate) const fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    /// Kubernetes has no weights; Gateways will.
    pub weight: u32,
    pub node: Option<Arc<str>>,
    /// On this node.
    pub local: bool,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use super::*;

    fn endpoints(count: u8) -> Vec<Endpoint> {
        let endpoint = |i| Endpoint {
            address: Ipv4Addr::new(10, 244, 1, i).into(),
            port: 8080,
            weight: 1,
            node: None,
            local: false,
        };
        (1..=count).map(endpoint).collect()
    }

    /// Shares of `backends` over flows that differ in the client's port alone.
    fn spread(backends: &Backends) -> HashMap<IpAddr, u32> {
        let mut shares = HashMap::new();
        for port in 0..=u16::MAX {
            let key = FlowKey {
                src: Ipv4Addr::new(10, 244, 0, 9).into(),
                dst: Ipv4Addr::new(10, 96, 0, 1).into(),
                src_port: port,
                dst_port: 80,
                protocol: Protocol::Tcp,
            };
            let random = u32::from(port).wrapping_mul(0x9e37_79b1);
            let chosen = backends.choose(&key, random).unwrap();
            assert_eq!(Some(chosen), backends.choose(&key, random), "a flow's choice is one");
            *shares.entry(chosen.address).or_default() += 1;
        }
        shares
    }

    #[test]
    fn both_schedulers_spread_flows_evenly() {
        for backends in [Backends::maglev(endpoints(5)), Backends::random(endpoints(5))] {
            let shares = spread(&backends);
            assert_eq!(shares.len(), 5);
            assert!(shares.values().all(|share| (12_500..13_700).contains(share)), "{shares:?}");
        }
        assert_eq!(spread(&Backends::maglev(endpoints(1))).len(), 1);
        let nobody = Backends::default();
        let key = FlowKey {
            src: Ipv4Addr::LOCALHOST.into(),
            dst: Ipv4Addr::LOCALHOST.into(),
            src_port: 1,
            dst_port: 2,
            protocol: Protocol::Udp,
        };
        assert_eq!(nobody.choose(&key, 7), None);
    }
}
