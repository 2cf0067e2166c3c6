//! Facts for tables without a node: each Pod of the node has a port of its own, everything else is by the uplink.
//!
//! Every neighbour answers, with the MAC of [`offline_mac`]. Out on the uplink they all are one next hop, so that a
//! million of them take no more memory than one: whoever sends a frame there writes its destination's MAC.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atalho_engine::next_hops::Mac;
use ipnet::IpNet;

use crate::config::Config;
use crate::facts::{KernelRoute, KernelRouteKind, Link, NodeFacts};
use crate::model::{Model, PodObject};

const LOOPBACK: u32 = 1;
const UPLINK: u32 = 2;
const FUNNEL: u32 = 3;
const FIRST_POD: u32 = 100;

/// Ports of pods by the pod that they were made for. As with a kernel's interfaces no index is given twice: a pod of an
/// old name with another address is another pod.
#[derive(Debug)]
pub struct OfflinePorts {
    by_pod: BTreeMap<(String, String, Vec<IpAddr>), u32>,
    next: u32,
}

impl Default for OfflinePorts {
    fn default() -> Self {
        Self { by_pod: BTreeMap::new(), next: FIRST_POD }
    }
}

/// The facts that go with `model`, for one look at it.
pub fn offline_facts(model: &Model, config: &Config) -> NodeFacts {
    OfflinePorts::default().facts(model, config)
}

impl OfflinePorts {
    /// The facts that go with `model` now. Node addresses: the configured ones, else the Node object's.
    pub fn facts(&mut self, model: &Model, config: &Config) -> NodeFacts {
        let mut facts = NodeFacts { uplink: UPLINK, funnel: FUNNEL, ..NodeFacts::default() };
        add_link(&mut facts, LOOPBACK, "lo", [0; 6]);
        add_link(&mut facts, UPLINK, "uplink", [2, 0, 0, 0, 0, 2]);
        add_link(&mut facts, FUNNEL, "node", [2, 0, 0, 0, 0, 3]);
        for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            add_address(&mut facts, LOOPBACK, loopback);
        }
        let named = model.node(&config.node.name).map(|node| node.addresses.clone()).unwrap_or_default();
        for address in if config.node.addresses.is_empty() { named } else { config.node.addresses.clone() } {
            add_address(&mut facts, UPLINK, address);
        }
        for everybody in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
            if let Ok(destination) = IpNet::new(everybody, 0) {
                facts.routes.push(route(destination, Some(everybody), UPLINK, KernelRouteKind::Unicast));
                facts.neighbours.insert((UPLINK, everybody), offline_mac(everybody));
            }
        }
        self.add_pods(&mut facts, model, config);
        facts
    }

    fn add_pods(&mut self, facts: &mut NodeFacts, model: &Model, config: &Config) {
        let mut present = BTreeMap::new();
        let ours = model.pods().map(|pod| &pod.object).filter(|pod| pod.node == config.node.name && !pod.host_network);
        for pod in ours.filter(|pod| !pod.addresses.is_empty()) {
            let identity = (pod.namespace.clone(), pod.name.clone(), pod.addresses.clone());
            let ifindex = self.by_pod.get(&identity).copied().unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            });
            present.insert(identity, ifindex);
            add_link(facts, ifindex, &format!("pod:{}/{}", pod.namespace, pod.name), [0xee; 6]);
            for address in &pod.addresses {
                facts.routes.push(route(IpNet::from(*address), None, ifindex, KernelRouteKind::Unicast));
                facts.neighbours.insert((ifindex, *address), pod_mac(pod));
            }
        }
        self.by_pod = present;
    }
}

/// The MAC by which `address` is known offline: 02:00 and its four bytes, of IPv6 the last four.
pub fn offline_mac(address: IpAddr) -> Mac {
    let last = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let b = v6.octets();
            [b[12], b[13], b[14], b[15]]
        }
    };
    [2, 0, last[0], last[1], last[2], last[3]]
}

/// A pod has one, by its IPv4 address if it has one.
fn pod_mac(pod: &PodObject) -> Mac {
    let v4 = pod.addresses.iter().find(|address| address.is_ipv4());
    v4.or(pod.addresses.first()).map_or([0; 6], |address| offline_mac(*address))
}

fn add_link(facts: &mut NodeFacts, ifindex: u32, name: &str, mac: Mac) {
    facts.links.insert(ifindex, Link { name: name.to_owned(), mac, mtu: 1500, up: true });
}

fn add_address(facts: &mut NodeFacts, ifindex: u32, address: IpAddr) {
    facts.addresses.insert((ifindex, IpNet::from(address)));
    facts.routes.push(route(IpNet::from(address), None, ifindex, KernelRouteKind::Local));
}

fn route(destination: IpNet, gateway: Option<IpAddr>, interface: u32, kind: KernelRouteKind) -> KernelRoute {
    KernelRoute { destination, gateway, interface: Some(interface), kind, metric: 0 }
}
