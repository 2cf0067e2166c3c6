//! Facts for tables without a node: each Pod of the node has a port of its own, everything else is by the uplink, and
//! every neighbour answers with the MAC 02:00 + its IPv4 address (or the last four bytes of its IPv6 address).

use std::net::IpAddr;

use atalho_engine::next_hops::Mac;
use ipnet::IpNet;

use crate::config::Config;
use crate::facts::{KernelRoute, KernelRouteKind, Link, NodeFacts};
use crate::model::Model;

const LOOPBACK: u32 = 1;
const UPLINK: u32 = 2;
const FUNNEL: u32 = 3;
const FIRST_POD: u32 = 100;

/// The facts that go with `model`. Node addresses: the configured ones, else the Node object's.
pub fn facts(model: &Model, config: &Config) -> NodeFacts {
    let mut facts = NodeFacts { uplink: UPLINK, funnel: FUNNEL, ..NodeFacts::default() };
    add_link(&mut facts, LOOPBACK, "lo", [0; 6]);
    add_link(&mut facts, UPLINK, "uplink", [2, 0, 0, 0, 0, 2]);
    add_link(&mut facts, FUNNEL, "node", [2, 0, 0, 0, 0, 3]);
    for loopback in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])] {
        add_address(&mut facts, LOOPBACK, loopback);
    }
    let named = model.node(&config.node.name).map(|node| node.addresses.clone()).unwrap_or_default();
    for address in if config.node.addresses.is_empty() { named } else { config.node.addresses.clone() } {
        add_address(&mut facts, UPLINK, address);
    }
    // Where there is nobody to ask, everybody out there is a neighbour on the uplink.
    for everywhere in [IpNet::from(IpAddr::from([0; 4])), IpNet::from(IpAddr::from([0_u16; 8]))] {
        if let Ok(destination) = IpNet::new(everywhere.addr(), 0) {
            facts.routes.push(route(destination, None, UPLINK, KernelRouteKind::Unicast));
        }
    }
    let ours = model.pods().map(|pod| &pod.object).filter(|pod| pod.node == config.node.name && !pod.host_network);
    for (ifindex, pod) in (FIRST_POD..).zip(ours.filter(|pod| !pod.addresses.is_empty())) {
        add_link(&mut facts, ifindex, &format!("pod:{}/{}", pod.namespace, pod.name), [0xee; 6]);
        for address in &pod.addresses {
            facts.routes.push(route(IpNet::from(*address), None, ifindex, KernelRouteKind::Unicast));
            facts.neighbours.insert((ifindex, *address), mac_of(*address));
        }
    }
    facts
}

/// The MAC by which `address` is known offline.
pub fn mac_of(address: IpAddr) -> Mac {
    let last = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let b = v6.octets();
            [b[12], b[13], b[14], b[15]]
        }
    };
    [2, 0, last[0], last[1], last[2], last[3]]
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
