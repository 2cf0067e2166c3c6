//! A Service and its slices into VIPs. Pure, and of one Service alone: what changed is compiled again, the rest is not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::affinity::Affinity;
use atalho_engine::service::{Backends, Endpoint, Route, Services, Vip, VipKey, VipKind};
use ipnet::IpNet;

use super::endpoints::{Merged, Nearness, Place, merged, of_cluster, of_this_node};
use crate::config::Scheduler;
use crate::model::{Fault, Key, Kind, Model, Refusal, Service, ServiceName, ServicePort, Stored};

/// What VIPs depend on beside the Service itself. When it changes, every Service is compiled again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub place: Place,
    /// Where node ports are served.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Of a Service with one of these only its own ports are the Service's; link-local ones are not among them.
    pub node_addresses: BTreeSet<IpAddr>,
    /// By which the node is known, one of a family at most.
    pub primary_addresses: BTreeSet<IpAddr>,
    /// Whether pods can be told by their address, so that all others are outside.
    pub pods_are_known: bool,
    pub masquerade_all: bool,
    pub scheduler: Scheduler,
}

/// Ports of Services, by family, that no endpoint of this node serves although the policy asks for one: silence, for an
/// endpoint elsewhere could.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoLocal {
    /// By internalTrafficPolicy.
    pub internal: usize,
    /// By externalTrafficPolicy.
    pub external: usize,
}

/// What a Service comes to.
#[derive(Default)]
pub(super) struct Parts {
    pub vips: BTreeMap<VipKey, Vip>,
    pub refusals: Vec<Refusal>,
    pub no_local: NoLocal,
}

/// A Service being compiled.
struct Compiling<'m> {
    model: &'m Model,
    name: &'m ServiceName,
    stored: &'m Stored<Service>,
    around: &'m Surroundings,
    before: &'m Services,
    /// By key: of two addresses of the Service that are the same one the first counts.
    parts: Parts,
}

/// The VIPs of a Service, and what of it was refused. What `before` has already of its backends is used again.
pub(super) fn vips(
    model: &Model,
    name: &ServiceName,
    stored: &Stored<Service>,
    around: &Surroundings,
    before: &Services,
) -> Parts {
    let mut compiling = Compiling { model, name, stored, around, before, parts: Parts::default() };
    for ip in &stored.object.cluster_ips {
        compiling.refuse_node_address(*ip);
        for port in &stored.object.ports {
            compiling.port(port, *ip);
        }
    }
    compiling.parts
}

impl Compiling<'_> {
    /// The VIPs of one port in the family of `cluster_ip`.
    fn port(&mut self, port: &ServicePort, cluster_ip: IpAddr) {
        let (service, around) = (&self.stored.object, self.around);
        let before = self.before.look_up(&VipKey { address: cluster_ip, protocol: port.protocol, port: port.port });
        let sides = Sides::new(self.model, self.name, service, port, cluster_ip.is_ipv4(), around, before);
        let is_silent = sides.local.endpoints.is_empty() && !sides.cluster.endpoints.is_empty();
        self.parts.no_local.internal += usize::from(service.internal_local && is_silent);
        self.parts.no_local.external += usize::from(service.external_local && is_silent);
        let is_family = |ip: &IpAddr| ip.is_ipv4() == cluster_ip.is_ipv4();
        if !around.node_addresses.contains(&cluster_ip) {
            self.put(cluster_ip, port.protocol, port.port, sides.cluster_ip());
        }
        for (kind, ip) in service.external.addresses().filter(|(_, ip)| is_family(ip)) {
            let key = VipKey { address: ip, protocol: port.protocol, port: port.port };
            // Its own cluster IP is one from outside as well.
            if service.cluster_ips.contains(&ip) || self.belongs_to_another(kind, key) {
                continue;
            }
            let sources = if kind == VipKind::LoadBalancer { self.sources() } else { None };
            let shares_address = around.node_addresses.contains(&ip);
            self.put(ip, port.protocol, port.port, Vip { sources, shares_address, ..sides.external(kind) });
        }
        let Some(node_port) = port.node_port else { return };
        for address in around.node_port_addresses.iter().filter(|ip| is_family(ip)) {
            self.put(*address, port.protocol, node_port, sides.external(VipKind::NodePort));
        }
    }

    fn put(&mut self, address: IpAddr, protocol: atalho_engine::flow::Protocol, port: u16, vip: Vip) {
        self.parts.vips.entry(VipKey { address, protocol, port }).or_insert(vip);
    }

    fn refuse_node_address(&mut self, cluster_ip: IpAddr) {
        if self.around.node_addresses.contains(&cluster_ip) {
            self.refuse(Fault::new(
                format!("clusterIP {cluster_ip} is an address of this node"),
                "it is not served, or the node would be cut off; give it one of the Service CIDR",
            ));
        }
    }

    /// Who comes first keeps an external address and port, and nobody takes a cluster IP or a node port with one.
    fn belongs_to_another(&mut self, kind: VipKind, key: VipKey) -> bool {
        let holder = self.model.holder_before(self.name, key).or_else(|| {
            let is_node_port = self.around.node_port_addresses.contains(&key.address);
            let holder = is_node_port.then(|| self.model.node_port_holder(key.protocol, key.port)).flatten();
            holder.filter(|holder| *holder != self.name)
        });
        let Some(holder) = holder else { return false };
        let VipKey { address, protocol, port } = key;
        let reason = format!("{} {address}, {} port {port}, belongs to Service {holder}", kind.name(), protocol.name());
        self.refuse(Fault::new(reason, "the other stays in force; give one of the two another address or port"));
        true
    }

    /// Who may use the load-balancer addresses. Where the node may, it may with such an address as its source as well: it
    /// has one if the address stands on one of its interfaces.
    fn sources(&self) -> Option<Arc<[IpNet]>> {
        let external = &self.stored.object.external;
        let ranges = external.source_ranges.as_ref()?;
        let has = |ip: &IpAddr| ranges.iter().any(|range| range.contains(ip));
        let own = || external.load_balancer_ips.iter().map(|ip| IpNet::from(*ip));
        let is_node_allowed = self.around.primary_addresses.iter().any(has);
        Some(ranges.iter().copied().chain(is_node_allowed.then(own).into_iter().flatten()).collect())
    }

    fn refuse(&mut self, fault: Fault) {
        let (namespace, name) = self.name.split_once('/').unwrap_or(("", self.name));
        let key = Key { kind: Kind::Service, namespace: namespace.to_owned(), name: name.to_owned() };
        self.parts.refusals.push(fault.about(key.to_string(), &self.stored.source));
    }
}

/// Where packets to one port of a Service go, in one family, by side and policy.
struct Sides<'s> {
    label: Arc<str>,
    affinity: Option<Affinity>,
    service: &'s Service,
    around: &'s Surroundings,
    cluster: Arc<Backends>,
    /// Of this node; empty where no policy asks for them.
    local: Arc<Backends>,
}

impl<'s> Sides<'s> {
    fn new(
        model: &Model,
        name: &str,
        service: &'s Service,
        port: &ServicePort,
        is_ipv4: bool,
        around: &'s Surroundings,
        before: Option<&Vip>,
    ) -> Self {
        let all = merged(model, name, port, is_ipv4, &around.place.node);
        let (cluster, nearness) = of_cluster(&all, &around.place);
        let known = before.map(|vip| [&vip.inside.backends, &vip.outside.backends]);
        let backends = |chosen: &[&Merged<'_>], is_nearby| {
            let again = known.into_iter().flatten().find(|known| is_of(known, chosen, is_nearby));
            again.cloned().unwrap_or_else(|| Arc::new(Backends { is_nearby, ..backends(chosen, around.scheduler) }))
        };
        let needs_local = service.internal_local || service.external_local;
        let local = if needs_local { backends(&of_this_node(&all), false) } else { Arc::default() };
        Self {
            label: port.label(name).into(),
            affinity: service.affinity_timeout_s.map(|timeout_s| Affinity { service: number_of(name), timeout_s }),
            service,
            around,
            cluster: backends(&cluster, nearness != Nearness::Any),
            local,
        }
    }

    fn route(&self, is_local: bool, masquerade: bool) -> Route {
        if !is_local {
            return Route { backends: self.cluster.clone(), masquerade, drop_without_backend: false };
        }
        // Somebody elsewhere can serve it: silence lets the client try another node. If nobody can, it is told so.
        let drop_without_backend = !self.cluster.endpoints.is_empty();
        Route { backends: self.local.clone(), masquerade, drop_without_backend }
    }

    fn cluster_ip(&self) -> Vip {
        let is_local = self.service.internal_local;
        let all = self.around.masquerade_all;
        // Whoever reaches a cluster address from outside the cluster got here by a route to this node; the answer of an
        // endpoint elsewhere must come back here to be translated. So with what the node sends for others.
        let outside = all || self.around.pods_are_known;
        let vip = self.vip(VipKind::ClusterIP, self.route(is_local, all), self.route(is_local, outside));
        Vip { masquerade_node: outside, ..vip }
    }

    /// Policy Local keeps the client's address and binds only those from outside: from inside, every endpoint is as good.
    fn external(&self, kind: VipKind) -> Vip {
        let is_local = self.service.external_local;
        let vip = self.vip(kind, self.route(false, !is_local), self.route(is_local, !is_local));
        Vip { masquerade_node: true, ..vip }
    }

    fn vip(&self, kind: VipKind, inside: Route, outside: Route) -> Vip {
        Vip { affinity: self.affinity, ..Vip::new(self.label.clone(), kind, inside, outside) }
    }
}

/// The same for every port and address of a Service, in every process: session affinity outlives them (FNV-1a, 64 bits).
fn number_of(service: &str) -> u64 {
    service.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Whether these are the backends of `chosen`: their table of choice, which takes by far the longest, can be used again.
fn is_of(backends: &Backends, chosen: &[&Merged<'_>], is_nearby: bool) -> bool {
    let is = |known: &Endpoint, e: &Merged<'_>| {
        (known.address, known.port, known.node.as_ref(), known.local) == (e.address, e.port, e.node, e.local)
    };
    backends.is_nearby == is_nearby
        && backends.endpoints.len() == chosen.len()
        && backends.endpoints.iter().zip(chosen).all(|(known, e)| is(known, e))
}

fn backends(chosen: &[&Merged<'_>], scheduler: Scheduler) -> Backends {
    let endpoints = chosen
        .iter()
        .map(|e| Endpoint { address: e.address, port: e.port, weight: 1, node: e.node.cloned(), local: e.local })
        .collect();
    match scheduler {
        Scheduler::Maglev => Backends::maglev(endpoints),
        Scheduler::Random => Backends::random(endpoints),
    }
}
