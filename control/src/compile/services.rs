//! A Service and its slices into VIPs. Pure, and of one Service alone: what changed is compiled again, the rest is not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::affinity::Affinity;
use atalho_engine::service::{Backends, Endpoint, Route, Vip, VipKey, VipKind};

use crate::config::Scheduler;
use crate::model::{Condition, Fault, Key, Kind, Model, Refusal, Service, ServicePort, Stored};

/// What VIPs depend on beside the Service itself. When it changes, every Service is compiled again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub node_name: String,
    /// Where node ports are served.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// No Service may have one of these, link-local ones aside.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Whether pods can be told by their address, so that all others are outside.
    pub pods_are_known: bool,
    pub masquerade_all: bool,
    pub scheduler: Scheduler,
}

/// An endpoint of one Service port, as all slices together have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Merged {
    pub address: IpAddr,
    pub port: u16,
    pub node: Option<Arc<str>>,
    pub local: bool,
    pub condition: Condition,
}

/// The endpoints of `port` in one family, ordered, each once. Of two slices that have the same one the better condition
/// counts: an endpoint moves from slice to slice in two events, in either order.
pub(crate) fn merged(model: &Model, service: &str, port: &ServicePort, is_ipv4: bool, node_name: &str) -> Vec<Merged> {
    let mut merged: BTreeMap<(IpAddr, u16), Merged> = BTreeMap::new();
    for (_, slice) in model.slices_of(service).filter(|(_, slice)| slice.is_ipv4 == is_ipv4) {
        let serves = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in serves.map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let local = endpoint.node.as_deref() == Some(node_name);
                let node = endpoint.node.clone();
                let found =
                    Merged { address: endpoint.address, port: number, node, local, condition: endpoint.condition };
                let entry = merged.entry((endpoint.address, number)).or_insert_with(|| found.clone());
                entry.condition = entry.condition.max(found.condition);
                if entry.node.is_none() || (local && !entry.local) {
                    (entry.node, entry.local) = (found.node, local);
                }
            }
        }
    }
    merged.into_values().collect()
}

/// Those that take new flows: the ready ones, or, if there is none, those that still serve while they terminate.
pub(crate) fn choice<'m>(merged: impl Iterator<Item = &'m Merged> + Clone) -> Vec<&'m Merged> {
    let of = |condition: Condition| merged.clone().filter(move |e| e.condition == condition);
    let ready: Vec<_> = of(Condition::Ready).collect();
    if ready.is_empty() { of(Condition::Terminating).collect() } else { ready }
}

/// The VIPs of a Service, and what of it was refused.
pub(super) fn vips(
    model: &Model,
    name: &str,
    stored: &Stored<Service>,
    around: &Surroundings,
) -> (Vec<(VipKey, Vip)>, Vec<Refusal>) {
    let service = &stored.object;
    let (mut vips, mut refusals) = (Vec::new(), Vec::new());
    for ip in &service.cluster_ips {
        if around.node_addresses.contains(ip) {
            let (namespace, name) = name.split_once('/').unwrap_or(("", name));
            let key = Key { kind: Kind::Service, namespace: namespace.to_owned(), name: name.to_owned() };
            let reason = format!("clusterIP {ip} is an address of this node");
            let fault =
                Fault::new(reason, "it is not served, or the node would be cut off; give it one of the Service CIDR");
            refusals.push(fault.about(key.to_string(), &stored.source));
            continue;
        }
        for port in &service.ports {
            port_vips(model, name, service, port, *ip, around, &mut vips);
        }
    }
    (vips, refusals)
}

fn port_vips(
    model: &Model,
    name: &str,
    service: &Service,
    port: &ServicePort,
    ip: IpAddr,
    around: &Surroundings,
    vips: &mut Vec<(VipKey, Vip)>,
) {
    let label: Arc<str> = port.label(name).into();
    let affinity = service.affinity_timeout_s.map(|timeout_s| Affinity { service: number_of(name), timeout_s });
    let merged = merged(model, name, port, ip.is_ipv4(), &around.node_name);
    let cluster = Arc::new(backends(&choice(merged.iter()), around.scheduler));
    let needs_local = service.internal_local || service.external_local;
    let local = needs_local.then(|| Arc::new(backends(&choice(merged.iter().filter(|e| e.local)), around.scheduler)));
    let to_cluster = |masquerade: bool| Route { backends: cluster.clone(), masquerade, drop_without_backend: false };
    // Somebody elsewhere can serve it: silence lets the client try another node. If nobody can, it is told so.
    let to_local = |masquerade: bool| Route {
        backends: local.clone().unwrap_or_default(),
        masquerade,
        drop_without_backend: !cluster.endpoints.is_empty(),
    };
    let side = |is_local: bool, masquerade: bool| if is_local { to_local(masquerade) } else { to_cluster(masquerade) };

    let key = VipKey { address: ip, protocol: port.protocol, port: port.port };
    let inside = side(service.internal_local, around.masquerade_all);
    // Whoever reaches a cluster address from outside the cluster got here by a route to this node; the answer of an
    // endpoint elsewhere must come back here to be translated.
    let outside = side(service.internal_local, around.masquerade_all || around.pods_are_known);
    vips.push((key, Vip { service: label.clone(), kind: VipKind::ClusterIP, affinity, inside, outside }));

    let Some(node_port) = port.node_port else { return };
    for address in around.node_port_addresses.iter().filter(|a| a.is_ipv4() == ip.is_ipv4()) {
        let key = VipKey { address: *address, protocol: port.protocol, port: node_port };
        // Policy Local keeps the client's address and binds only those from outside: from inside, every endpoint is as good.
        let inside = to_cluster(!service.external_local);
        let outside = side(service.external_local, !service.external_local);
        vips.push((key, Vip { service: label.clone(), kind: VipKind::NodePort, affinity, inside, outside }));
    }
}

/// The same for every port and address of a Service, in every process: session affinity outlives them (FNV-1a, 64 bits).
fn number_of(service: &str) -> u64 {
    service.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn backends(chosen: &[&Merged], scheduler: Scheduler) -> Backends {
    let endpoints = chosen
        .iter()
        .map(|e| Endpoint { address: e.address, port: e.port, weight: 1, node: e.node.clone(), local: e.local })
        .collect();
    match scheduler {
        Scheduler::Maglev => Backends::maglev(endpoints),
        Scheduler::Random => Backends::random(endpoints),
    }
}
