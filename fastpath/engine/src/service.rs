//! Services as admission sees them: a VIP (address, protocol, port) leads to a list of backends.

mod lookup;
mod maglev;
mod vips;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use self::lookup::Lookup;
pub use self::vips::{SHARDS, Services, VipHash};
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
    /// Rewrite the source of what the node itself sends, by the inside route.
    pub masquerade_node: bool,
    /// The address is the node's own as well: of its other ports none is a Service's for that.
    pub shares_address: bool,
    /// Who may come at all (loadBalancerSourceRanges). `None`: everybody.
    pub sources: Option<Arc<[IpNet]>>,
}

impl Vip {
    /// One for everybody, without affinity. Node ports are on addresses of the node.
    pub fn new(service: Arc<str>, kind: VipKind, inside: Route, outside: Route) -> Self {
        Self {
            service,
            kind,
            affinity: None,
            masquerade_node: inside.masquerade,
            inside,
            outside,
            shares_address: kind == VipKind::NodePort,
            sources: None,
        }
    }

    /// Whether `client` may come.
    #[inline]
    pub fn lets_in(&self, client: IpAddr) -> bool {
        self.sources.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(&client)))
    }
}

/// What becomes of traffic from one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub backends: Arc<Backends>,
    /// Rewrite the source to the node's address.
    pub masquerade: bool,
    /// With no backend: drop silently (policy Local) instead of rejecting.
    pub drop_without_backend: bool,
}

/// The endpoints of one Service port that a policy allows, with their table of choice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backends {
    /// Those that new flows may go to: of weight 0 is none among them.
    pub endpoints: Box<[Endpoint]>,
    /// Index into `endpoints` (Maglev, sized to the endpoints); empty: all count alike and a draw names one.
    pub lookup: Lookup,
    /// A draw points into `lookup`, not the flow.
    pub is_drawn: bool,
    /// Other nodes choose among others: these are near this one.
    pub is_nearby: bool,
}

impl Backends {
    /// Chosen by consistent hashing: the same flow goes to the same endpoint on every node and after every change that
    /// does not concern its endpoint, as far as Maglev promises. Of more than 65,535 endpoints the rest is never chosen.
    pub fn maglev(endpoints: Vec<Endpoint>) -> Self {
        let endpoints = with_weight(endpoints);
        // A single endpoint needs no table.
        let lookup = if endpoints.len() < 2 { Lookup::default() } else { Lookup::from(&*maglev::table(&endpoints)) };
        Self { endpoints, lookup, is_drawn: false, is_nearby: false }
    }

    /// Chosen at random, in proportion to the weights.
    pub fn random(endpoints: Vec<Endpoint>) -> Self {
        let endpoints = with_weight(endpoints);
        let is_even = endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let lookup = if is_even { Lookup::default() } else { Lookup::from(&*maglev::table(&endpoints)) };
        Self { endpoints, lookup, is_drawn: true, is_nearby: false }
    }

    /// The endpoint with this address.
    pub fn at(&self, address: IpAddr) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.address == address)
    }

    /// The endpoint that every node with the same endpoints chooses for a flow; `None` where a draw decides, or there is none.
    pub fn choice_of_every_node(&self, key: &FlowKey) -> Option<&Endpoint> {
        let is_own = self.is_nearby || self.is_drawn && self.endpoints.len() > 1;
        if is_own { None } else { self.choose(key, 0) }
    }

    /// The endpoint for a new flow; `random` is any even draw. `None`: there is none.
    #[inline]
    pub fn choose(&self, key: &FlowKey, random: u32) -> Option<&Endpoint> {
        self.choose_by(FlowHash::of(key), random)
    }

    /// The same, for a flow that was hashed before.
    #[inline]
    pub(crate) fn choose_by(&self, flow: FlowHash, random: u32) -> Option<&Endpoint> {
        if self.lookup.is_empty() {
            return self.endpoints.get(scaled(random, self.endpoints.len()));
        }
        let place = self.place(flow).unwrap_or_else(|| scaled(random, self.lookup.len()));
        self.endpoints.get(self.lookup.at(place))
    }

    /// Where in `lookup` the choice of a flow stands, if the flow decides.
    #[inline]
    pub(crate) fn place(&self, flow: FlowHash) -> Option<usize> {
        let is_by_flow = !self.is_drawn && !self.lookup.is_empty();
        is_by_flow.then(|| scaled(flow.0, self.lookup.len()))
    }
}

fn with_weight(endpoints: Vec<Endpoint>) -> Box<[Endpoint]> {
    endpoints.into_iter().filter(|endpoint| endpoint.weight > 0).collect()
}

/// An even draw of 32 bits as an even draw below `len`.
#[inline]
fn scaled(draw: u32, len: usize) -> usize {
    ((u64::from(draw) * len as u64) >> 32) as usize
}

/// The hash by which flows spread over endpoints: the same on every node, so no secret is in it. It guards nothing: who
/// chooses his ports to meet one endpoint could connect to that endpoint often enough as well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlowHash(u32);

impl FlowHash {
    #[inline]
    pub(crate) fn of(key: &FlowKey) -> Self {
        Self(hash_of(key))
    }
}

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
    fn weights_count_under_both_schedulers() {
        let mut weighted = endpoints(5);
        for (endpoint, weight) in weighted.iter_mut().zip([0, 1, 2, 3, 4]) {
            endpoint.weight = weight;
        }
        for backends in [Backends::maglev(weighted.clone()), Backends::random(weighted.clone())] {
            let shares = spread(&backends);
            for endpoint in &weighted {
                let share = f64::from(shares.get(&endpoint.address).copied().unwrap_or(0)) / 65_536.0;
                let due = f64::from(endpoint.weight) / 10.0;
                assert!((share - due).abs() < 0.01, "{share} for {endpoint:?}");
            }
        }
        weighted.iter_mut().for_each(|endpoint| endpoint.weight = 0);
        for nobody in [Backends::maglev(weighted.clone()), Backends::random(weighted)] {
            assert!(nobody.endpoints.is_empty() && nobody.lookup.is_empty());
        }
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
