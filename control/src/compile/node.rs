//! The node's own part of the tables: its addresses, what counts as inside, its pods' ports, routes and next hops.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::next_hops::{Mac, NextHop};
use atalho_engine::route::{Route, RouteTarget};
use atalho_engine::tables::{Cluster, FastMap, Node, Port, Settings};
use atalho_layout::{NextHopKind, PortRecord, hop, tag_mac};
use ipnet::IpNet;

use super::indexes::{Identity, NextHopIndexes};
use super::snat_ports;
use crate::config::{Config, NodePortAddresses};
use crate::facts::{KernelRoute, KernelRouteKind, NodeFacts};
use crate::model::{Fault, Key, Kind, Model, PodObject, Refusal, Source, Stored};
use crate::node::FUNNEL_MTU_MAX;

/// Everything that Pods, Nodes, ServiceCIDRs and the kernel say, ready for the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NodePart {
    pub node: Node,
    pub cluster: Cluster,
    pub other_nodes: Vec<IpAddr>,
    pub node_port_addresses: BTreeSet<IpAddr>,
    pub zone: Option<Arc<str>>,
    pub ports: FastMap<u32, Port>,
    pub local_pods: FastMap<IpAddr, u32>,
    pub routes: Vec<Route>,
    /// Neighbours on the uplink by address: next-hop index.
    pub neighbours: HashMap<IpAddr, u32>,
    pub pod_ports: BTreeMap<u32, PortRecord>,
    pub next_hops: BTreeMap<u32, NextHop>,
    pub wanted_neighbours: BTreeSet<(u32, IpAddr)>,
    pub settings: Settings,
    pub refusals: Vec<Refusal>,
}

/// A pod's port while it is put together.
struct PodPort<'m> {
    pod: &'m Stored<PodObject>,
    addresses: Vec<IpAddr>,
}

impl NodePart {
    pub(super) fn new(model: &Model, facts: &NodeFacts, config: &Config, indexes: &mut NextHopIndexes) -> Self {
        indexes.start_round();
        let mut refusals = Vec::new();
        let pod_ports = pod_ports(model, facts, config, &mut refusals);
        let node = node(model, facts, config);
        let node_port_addresses = node_port_addresses(&node, facts, config, &pod_ports);
        let (ports, fault) = snat_ports::choose(config.conntrack.snat_ports.as_ref(), &facts.ports);
        refusals.extend(fault.map(|fault| fault.about("conntrack.snat_ports", &Source::Node)));
        let mut part = Self {
            node_port_addresses,
            zone: model.node(&config.node.name).and_then(|node| node.zone.as_deref().map(Arc::from)),
            cluster: cluster(model, config),
            other_nodes: other_nodes(model, &node),
            ports: FastMap::default(),
            local_pods: FastMap::default(),
            routes: routes(facts, &pod_ports),
            neighbours: HashMap::new(),
            pod_ports: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            wanted_neighbours: BTreeSet::new(),
            settings: Settings { snat_ports: ports, ..config.settings() },
            refusals,
            node,
        };
        part.take_node_port(facts);
        for (ifindex, port) in pod_ports {
            part.take_pod(ifindex, &port, facts, indexes);
        }
        part.take_neighbours(facts, indexes);
        part
    }

    /// The node's own ports: uplink and the funnel's kernel end, by which its own packets come and go.
    fn take_node_port(&mut self, facts: &NodeFacts) {
        if facts.uplink != 0 {
            self.ports.insert(facts.uplink, Port::Uplink);
        }
        if facts.funnel != 0 {
            self.ports.insert(facts.funnel, Port::Node);
        }
        if let Some(funnel) = facts.links.get(&facts.funnel) {
            let to_node = NextHop {
                kind: NextHopKind::Node,
                ifindex: facts.funnel,
                destination: Some(funnel.mac),
                source: tag_mac(facts.funnel),
                mtu: funnel.mtu,
            };
            self.next_hops.insert(hop::NODE, to_node);
        }
    }

    fn take_pod(&mut self, ifindex: u32, port: &PodPort<'_>, facts: &NodeFacts, indexes: &mut NextHopIndexes) {
        let pod = &port.pod.object;
        let name = format!("{}/{}", pod.namespace, pod.name);
        let Some(link) = facts.links.get(&ifindex) else { return };
        let Some(index) = indexes.index(Identity::Pod(ifindex)) else {
            let fault = Fault::new("no next hop is free for its port", "end pods, or restart with fewer on this node");
            self.refusals.push(fault.about(format!("Pod {name}"), &port.pod.source));
            return;
        };
        if let Some(funnel) = facts.links.get(&facts.funnel)
            && link.mtu > funnel.mtu
        {
            let what =
                format!("its port's MTU of {} is above the {} that the funnel was made for", link.mtu, funnel.mtu);
            let next =
                "restart the daemon, which then takes the largest MTU, or lower the pod's; longer packets are dropped";
            self.refusals.push(Fault::new(what, next).about(format!("Pod {name}"), &port.pod.source));
        }
        let mac: Option<Mac> = port.addresses.iter().find_map(|a| facts.neighbours.get(&(ifindex, *a)).copied());
        let mut record = PortRecord { pod_mac: mac.unwrap_or_default(), host_mac: link.mac, ..PortRecord::default() };
        for address in &port.addresses {
            match address {
                IpAddr::V4(v4) => record.addr4 = v4.octets(),
                IpAddr::V6(v6) => record.addr6 = v6.octets(),
            }
            self.local_pods.insert(*address, index);
            self.wanted_neighbours.insert((ifindex, *address));
        }
        let to_pod = NextHop { kind: NextHopKind::Pod, ifindex, destination: mac, source: link.mac, mtu: link.mtu };
        self.pod_ports.insert(ifindex, record);
        self.next_hops.insert(index, to_pod);
        self.ports.insert(ifindex, Port::Pod { name: name.into(), addresses: port.addresses.clone() });
    }

    /// Gives every neighbour on the uplink its place: gateways, and hosts that were asked for.
    fn take_neighbours(&mut self, facts: &NodeFacts, indexes: &mut NextHopIndexes) {
        let Some(link) = facts.links.get(&facts.uplink) else { return };
        if let Some(funnel) = facts.links.get(&facts.funnel)
            && link.mtu > funnel.mtu
        {
            self.refusals.push(Refusal {
                object: format!("uplink {}", link.name),
                source: crate::model::Source::Api,
                reason: format!("its MTU of {} is above the {} that the daemon was started for", link.mtu, funnel.mtu),
                next_step: format!(
                    "restart it, or lower the MTU to what it was, at most {FUNNEL_MTU_MAX}; longer packets are dropped"
                ),
            });
        }
        let gateways = self.routes.iter().filter_map(|route| match route.target {
            RouteTarget::Gateway(gateway) => Some(gateway),
            _ => None,
        });
        let gateways: BTreeSet<IpAddr> = gateways.collect();
        let resolved =
            facts.neighbours.keys().filter(|(ifindex, _)| *ifindex == facts.uplink).map(|(_, address)| *address);
        let wanted: BTreeSet<IpAddr> = gateways.iter().copied().chain(resolved).collect();
        for address in wanted {
            // Without a free index a host stays unknown: its packets are answered with host unreachable.
            if indexes.index(Identity::Uplink(address)).is_none() && gateways.contains(&address) {
                self.refusals.push(Refusal {
                    object: format!("gateway {address}"),
                    source: crate::model::Source::Api,
                    reason: "no next hop is free for it".to_owned(),
                    next_step: "restart, so that those no longer used are given up".to_owned(),
                });
            }
        }
        self.wanted_neighbours.extend(gateways.into_iter().map(|gateway| (facts.uplink, gateway)));
        for (address, index) in indexes.uplink_neighbours() {
            let to_neighbour = NextHop {
                kind: NextHopKind::Uplink,
                ifindex: facts.uplink,
                destination: facts.neighbours.get(&(facts.uplink, address)).copied(),
                source: link.mac,
                mtu: link.mtu,
            };
            self.next_hops.insert(index, to_neighbour);
            self.neighbours.insert(address, index);
        }
    }
}

/// The node's addresses and, per family, its primary one: as configured, else the Node object's internal address if a
/// link has it, else the uplink's first.
fn node(model: &Model, facts: &NodeFacts, config: &Config) -> Node {
    let mut addresses = config.node.addresses.clone();
    let on_links: BTreeSet<IpAddr> = facts.addresses.iter().map(|(_, net)| net.addr()).collect();
    addresses.extend(on_links.iter().filter(|a| !config.node.addresses.contains(a)));
    let named = model.node(&config.node.name).map(|node| node.addresses.as_slice()).unwrap_or_default();
    let on_uplink = facts.addresses.iter().filter(|(ifindex, _)| *ifindex == facts.uplink).map(|(_, net)| net.addr());
    let candidates: Vec<IpAddr> = (config.node.addresses.iter().copied())
        .chain(named.iter().copied().filter(|address| on_links.contains(address)))
        .chain(on_uplink)
        .filter(|address| crate::model::unusable(*address).is_none())
        .collect();
    Node {
        name: config.node.name.clone(),
        addresses,
        primary_v4: candidates.iter().find_map(|a| if let IpAddr::V4(v4) = a { Some(*v4) } else { None }),
        primary_v6: candidates.iter().find_map(|a| if let IpAddr::V6(v6) = a { Some(*v6) } else { None }),
    }
}

/// The first address of each family of every other node, internal ones before external ones. Whether a node is ready says
/// whether its kubelet is: flows are tracked without it.
fn other_nodes(model: &Model, node: &Node) -> Vec<IpAddr> {
    let others = model.nodes().filter(|(name, _)| **name != node.name);
    let first = |addresses: &[IpAddr], is_ipv4: bool| addresses.iter().find(|a| a.is_ipv4() == is_ipv4).copied();
    others
        .flat_map(|(_, other)| [true, false].map(|is_ipv4| first(&other.addresses, is_ipv4)))
        .flatten()
        .filter(|address| crate::model::unusable(*address).is_none() && !node.addresses.contains(address))
        .collect()
}

fn node_port_addresses(
    node: &Node,
    facts: &NodeFacts,
    config: &Config,
    pod_ports: &BTreeMap<u32, PodPort<'_>>,
) -> BTreeSet<IpAddr> {
    match &config.service.node_port_addresses {
        NodePortAddresses::Primary => node.primary_addresses().collect(),
        NodePortAddresses::Cidrs(cidrs) => {
            let is_pods =
                |a: &IpAddr| facts.addresses.iter().any(|(i, net)| net.addr() == *a && pod_ports.contains_key(i));
            let inside = |a: &&IpAddr| cidrs.iter().any(|cidr| cidr.contains(*a));
            let usable = |a: &&IpAddr| crate::model::unusable(**a).is_none() && !is_pods(a);
            node.addresses.iter().filter(inside).filter(usable).copied().collect()
        }
    }
}

fn cluster(model: &Model, config: &Config) -> Cluster {
    let of_nodes = || {
        let cidrs: BTreeSet<IpNet> = model.nodes().flat_map(|(_, node)| node.pod_cidrs.iter().copied()).collect();
        cidrs.into_iter().collect()
    };
    Cluster {
        pod_cidrs: config.cluster.pod_cidrs.clone().unwrap_or_else(of_nodes),
        service_cidrs: config
            .cluster
            .service_cidrs
            .clone()
            .unwrap_or_else(|| model.service_cidrs().into_iter().collect()),
    }
}

/// Finds every pod's port: the interface to which the node's own route to the pod's address points.
fn pod_ports<'m>(
    model: &'m Model,
    facts: &NodeFacts,
    config: &Config,
    refusals: &mut Vec<Refusal>,
) -> BTreeMap<u32, PodPort<'m>> {
    let mut ports: BTreeMap<u32, PodPort<'m>> = BTreeMap::new();
    let mut shared: BTreeSet<u32> = BTreeSet::new();
    let lookup = UnicastRoutes::new(facts);
    let ours = model.pods().filter(|pod| pod.object.node == config.node.name && !pod.object.host_network);
    let mut refuse = |pod: &Stored<PodObject>, reason: String, next_step: &str| {
        let key = Key { kind: Kind::Pod, namespace: pod.object.namespace.clone(), name: pod.object.name.clone() };
        refusals.push(Fault::new(reason, next_step).about(key.to_string(), &pod.source));
    };
    for pod in ours {
        for address in &pod.object.addresses {
            match lookup.interface(*address) {
                Some(ifindex)
                    if ifindex != facts.uplink && ifindex != facts.funnel && facts.links.contains_key(&ifindex) =>
                {
                    let port = ports.entry(ifindex).or_insert_with(|| PodPort { pod, addresses: Vec::new() });
                    if std::ptr::eq(port.pod, pod) {
                        port.addresses.push(*address);
                    } else {
                        shared.insert(ifindex);
                        let other = format!("{}/{}", port.pod.object.namespace, port.pod.object.name);
                        let link = &facts.links[&ifindex].name;
                        let reason = format!("the route to {address} points to {link}, as that of Pod {other} does");
                        refuse(
                            pod,
                            reason,
                            "its packets are left to the node's stack; use a plugin that gives every pod an interface of its own",
                        );
                    }
                }
                _ => refuse(
                    pod,
                    format!("no interface of this node leads to {address}"),
                    "its packets are left to the node's stack until its plugin sets its route up",
                ),
            }
        }
    }
    for ifindex in shared {
        if let Some(port) = ports.remove(&ifindex) {
            let reason = format!("{} leads to several pods", facts.links[&ifindex].name);
            refuse(
                port.pod,
                reason,
                "its packets are left to the node's stack; use a plugin that gives every pod an interface of its own",
            );
        }
    }
    ports
}

/// The kernel's unicast routes, for a look-up per pod address.
struct UnicastRoutes<'f> {
    hosts: HashMap<IpAddr, &'f KernelRoute>,
    /// Longest prefix first, then smallest metric.
    networks: Vec<&'f KernelRoute>,
}

impl<'f> UnicastRoutes<'f> {
    fn new(facts: &'f NodeFacts) -> Self {
        let mut routes: Vec<&KernelRoute> =
            facts.routes.iter().filter(|r| r.kind == KernelRouteKind::Unicast).collect();
        routes.sort_by_key(|r| (std::cmp::Reverse(r.destination.prefix_len()), r.metric));
        let (hosts, networks): (Vec<_>, Vec<_>) =
            routes.into_iter().partition(|r| r.destination.prefix_len() == r.destination.max_prefix_len());
        let mut by_host = HashMap::new();
        for route in hosts {
            by_host.entry(route.destination.addr()).or_insert(route);
        }
        Self { hosts: by_host, networks }
    }

    fn interface(&self, address: IpAddr) -> Option<u32> {
        let network = || self.networks.iter().find(|r| r.destination.contains(&address)).copied();
        self.hosts.get(&address).copied().or_else(network)?.interface
    }
}

/// The routes that admission needs: those to pods of this node and into the funnel are known otherwise.
fn routes(facts: &NodeFacts, pod_ports: &BTreeMap<u32, PodPort<'_>>) -> Vec<Route> {
    let mut kernel: Vec<&KernelRoute> = facts.routes.iter().collect();
    // Among equal destinations the smallest metric counts; an address of the node beats them all.
    kernel.sort_by_key(|r| (r.destination, r.kind != KernelRouteKind::Local, r.metric));
    let mut routes: Vec<Route> = Vec::new();
    for route in kernel {
        let target = match (route.kind, route.interface) {
            (KernelRouteKind::Local, _) => RouteTarget::Local,
            (KernelRouteKind::Refused, _) => RouteTarget::Unreachable,
            (KernelRouteKind::Blackhole, _) => RouteTarget::Blackhole,
            (KernelRouteKind::Other, _) => continue,
            (KernelRouteKind::Unicast, Some(ifindex)) if ifindex == facts.uplink => {
                route.gateway.map_or(RouteTarget::OnLink, RouteTarget::Gateway)
            }
            (KernelRouteKind::Unicast, Some(i)) if i == facts.funnel || pod_ports.contains_key(&i) => continue,
            (KernelRouteKind::Unicast, _) => RouteTarget::Elsewhere,
        };
        if routes.last().is_none_or(|last| last.destination != route.destination) {
            routes.push(Route { destination: route.destination, target });
        }
    }
    routes
}

/// `new`, or the equal one of the tables before.
pub(super) fn share<T: PartialEq>(new: T, old: Option<&Arc<T>>) -> Arc<T> {
    match old {
        Some(old) if **old == new => old.clone(),
        _ => Arc::new(new),
    }
}
