//! What is known of the cluster: the last good version of every object, reduced to what tables need.
//!
//! A bad object is refused by name and kept out; its last good version stays in force. Of two Services that want the
//! same address or node port the first stays, and the second waits, refused, until the first lets go.
//! Every change grows [`Model::revision`], and the model remembers which Services changed since when, so that compile
//! does again only what a change concerns.
//!
//! What this does not do: it never asks anybody; watches and files feed it [`Change`]s.

mod address;
pub mod api;
mod claims;
mod external;
mod node;
mod object;
mod service;
mod slice;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::flow::Protocol;
use atalho_engine::service::VipKey;
use claims::ExternalClaims;
use ipnet::IpNet;

use crate::config::Config;

pub use external::External;
pub use node::{NodeObject, PodObject};
pub(crate) use object::Fault;
pub use object::{Change, Key, Kind, Object, Refusal, Source};
pub(crate) use service::unusable;
pub use service::{NotOurs, Service, ServicePort};
pub use slice::{Condition, Hints, Slice, SliceEndpoint, SlicePort};

/// `namespace/name` of a Service.
pub type ServiceName = Arc<str>;

/// The API server's own Service.
const API_SERVER: &str = "default/kubernetes";

/// An object in force, and where it came from.
#[derive(Debug, Clone)]
pub struct Stored<T> {
    pub object: T,
    pub source: Source,
}

/// A Service that cannot be taken while another holds what it wants.
#[derive(Debug)]
struct Waiting {
    name: ServiceName,
    service: Service,
    source: Source,
}

/// Whether an endpoint of a Service is still one; the worst comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    Ready,
    /// Serving and terminating: its flows run on.
    Terminating,
    NotReady,
    /// No slice has it.
    Gone,
}

/// Every object in force.
#[derive(Debug, Default)]
pub struct Model {
    proxy_name: String,
    external_ip_cidrs: Vec<IpNet>,
    services: HashMap<ServiceName, Stored<Service>>,
    slices: HashMap<Key, Stored<Slice>>,
    slices_of: HashMap<ServiceName, BTreeSet<Key>>,
    pods: BTreeMap<Key, Stored<PodObject>>,
    nodes: BTreeMap<String, Stored<NodeObject>>,
    service_cidrs: BTreeMap<String, Stored<Vec<IpNet>>>,

    address_holders: HashMap<IpAddr, ServiceName>,
    node_port_holders: HashMap<(Protocol, u16), ServiceName>,
    external_claims: ExternalClaims,
    /// In the order of their arrival.
    waiting: BTreeMap<u64, Waiting>,

    /// Objects whose latest version is not in force.
    refused: BTreeMap<Key, Refusal>,
    /// Parts left out of objects that are in force otherwise.
    left_out: BTreeMap<Key, Vec<Refusal>>,
    unparsed: Vec<Refusal>,

    revision: u64,
    /// Of the last change to a Node, Pod or ServiceCIDR.
    node_revision: u64,
    /// Services by the revision of their last change, and back.
    changed: BTreeMap<u64, ServiceName>,
    changed_at: HashMap<ServiceName, u64>,
    names: HashSet<Arc<str>>,
}

impl Model {
    pub fn new(config: &Config) -> Self {
        Self {
            proxy_name: config.service.service_proxy_name.clone(),
            external_ip_cidrs: config.service.external_ip_cidrs.clone(),
            ..Self::default()
        }
    }

    /// Takes a change. An object equal to the one in force changes nothing.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Put(object, source) => self.put(&object, source),
            Change::Delete(key) => self.delete(&key),
        }
    }

    fn put(&mut self, object: &Object, source: Source) {
        let key = object.key();
        let result = match object {
            Object::Service(service) => {
                Service::new(service, &self.proxy_name, &self.external_ip_cidrs).and_then(|(reduced, faults)| {
                    self.leave_out(&key, faults, &source);
                    self.put_service(&key, reduced, &source)
                })
            }
            Object::EndpointSlice(slice) => self.put_slice(&key, slice, &source),
            Object::Pod(pod) => PodObject::new(pod).map(|pod| {
                let changed = replace(&mut self.pods, key.clone(), pod, &source);
                self.touch_node(changed);
            }),
            Object::Node(node) => NodeObject::new(node).map(|node| {
                let changed = replace(&mut self.nodes, key.name.clone(), node, &source);
                self.touch_node(changed);
            }),
            Object::ServiceCidr(cidr) => node::service_cidrs(cidr).map(|cidrs| {
                let changed = replace(&mut self.service_cidrs, key.name.clone(), cidrs, &source);
                self.touch_node(changed);
            }),
        };
        match result {
            Ok(()) => self.refused.remove(&key),
            Err(fault) => {
                let text = key.to_string();
                self.refused.insert(key, fault.about(text, &source))
            }
        };
    }

    fn delete(&mut self, key: &Key) {
        self.refused.remove(key);
        self.left_out.remove(key);
        match key.kind {
            Kind::Service => {
                let name = self.intern(&format!("{}/{}", key.namespace, key.name));
                self.waiting.retain(|_, waiting| waiting.name != name);
                if let Some(old) = self.services.remove(&name) {
                    self.release(&name, &old.object);
                    self.touch_service(name);
                    self.admit_waiting();
                }
            }
            Kind::EndpointSlice => {
                if let Some(old) = self.slices.remove(key) {
                    self.untie(key, old.object.service);
                }
            }
            Kind::Pod => {
                let changed = self.pods.remove(key).is_some();
                self.touch_node(changed);
            }
            Kind::Node => {
                let changed = self.nodes.remove(&key.name).is_some();
                self.touch_node(changed);
            }
            Kind::ServiceCidr => {
                let changed = self.service_cidrs.remove(&key.name).is_some();
                self.touch_node(changed);
            }
        }
    }

    fn put_service(&mut self, key: &Key, service: Service, source: &Source) -> Result<(), Fault> {
        let name = self.intern(&format!("{}/{}", key.namespace, key.name));
        // A newer version takes the place of one that waits, and its turn.
        let turn = self.waiting.iter().find(|(_, waiting)| waiting.name == name).map(|(turn, _)| *turn);
        if let Some(turn) = turn {
            self.waiting.remove(&turn);
        }
        if let Some(fault) = self.conflict(&name, &service) {
            self.revision += 1;
            let turn = turn.unwrap_or(self.revision);
            self.waiting.insert(turn, Waiting { name, service, source: source.clone() });
            return Err(fault);
        }
        self.install(name, service, source.clone());
        self.admit_waiting();
        Ok(())
    }

    /// Why `service` cannot be taken beside those in force.
    fn conflict(&self, name: &ServiceName, service: &Service) -> Option<Fault> {
        let other = |holder: Option<&ServiceName>| holder.filter(|holder| *holder != name).cloned();
        for ip in &service.cluster_ips {
            if let Some(holder) = other(self.address_holders.get(ip)) {
                let reason = format!("clusterIP {ip} belongs to {}", self.named(&holder));
                return Some(Fault::new(reason, "the first stays in force; give one of the two another clusterIP"));
            }
        }
        for (protocol, port) in service.node_ports() {
            if let Some(holder) = other(self.node_port_holders.get(&(protocol, port))) {
                let reason = format!("{} nodePort {port} belongs to {}", protocol.name(), self.named(&holder));
                return Some(Fault::new(reason, "the first stays in force; give one of the two another nodePort"));
            }
        }
        None
    }

    fn named(&self, service: &ServiceName) -> String {
        match self.services.get(service).map(|stored| &stored.source) {
            Some(source @ Source::File { .. }) => format!("Service {service} ({source})"),
            _ => format!("Service {service}"),
        }
    }

    fn install(&mut self, name: ServiceName, service: Service, source: Source) {
        let old = self.services.remove(&name);
        let changed = old.as_ref().is_none_or(|old| old.object != service);
        if let Some(old) = old
            && changed
        {
            self.release(&name, &old.object);
        }
        if changed {
            for ip in &service.cluster_ips {
                self.address_holders.insert(*ip, name.clone());
            }
            for node_port in service.node_ports() {
                self.node_port_holders.insert(node_port, name.clone());
            }
            for vip in service.external_vips() {
                self.external_claims.add(vip, &name);
            }
            self.touch_rivals(&service);
            self.touch_service(name.clone());
        }
        self.services.insert(name, Stored { object: service, source });
    }

    fn release(&mut self, name: &ServiceName, service: &Service) {
        for ip in &service.cluster_ips {
            self.address_holders.retain_if_other(ip, name);
        }
        for node_port in service.node_ports() {
            self.node_port_holders.retain_if_other(&node_port, name);
        }
        for vip in service.external_vips() {
            self.external_claims.remove(vip, name);
        }
        self.touch_rivals(service);
    }

    /// What `service` takes or lets go of, others may want as external addresses.
    fn touch_rivals(&mut self, service: &Service) {
        let claims = &self.external_claims;
        let at_addresses = service.cluster_ips.iter().flat_map(|ip| claims.at(*ip));
        let of_node_ports = service.node_ports().flat_map(|(protocol, port)| claims.of_port(protocol, port));
        let of_the_same = service.external_vips().flat_map(|vip| claims.claimants(vip));
        let rivals: BTreeSet<ServiceName> = at_addresses.chain(of_node_ports).chain(of_the_same).cloned().collect();
        for rival in rivals {
            self.touch_service(rival);
        }
    }

    /// Takes those that wait and can be taken now, the first come first. One may let go of what another wants, so it
    /// goes round until nothing moves; every round takes at least one.
    fn admit_waiting(&mut self) {
        while let Some(turn) = self
            .waiting
            .iter()
            .find(|(_, waiting)| self.conflict(&waiting.name, &waiting.service).is_none())
            .map(|(turn, _)| *turn)
        {
            let Some(Waiting { name, service, source }) = self.waiting.remove(&turn) else { return };
            self.refused.remove(&service_key(&name));
            self.install(name, service, source);
        }
        // The holder that a refusal names may be another one now.
        let renewed: Vec<(Key, Refusal)> = self
            .waiting
            .values()
            .filter_map(|waiting| {
                let key = service_key(&waiting.name);
                let fault = self.conflict(&waiting.name, &waiting.service)?;
                let text = key.to_string();
                Some((key, fault.about(text, &waiting.source)))
            })
            .collect();
        self.refused.extend(renewed);
    }

    fn put_slice(&mut self, key: &Key, slice: &api::EndpointSlice, source: &Source) -> Result<(), Fault> {
        let names = &mut self.names;
        let (mut slice, faults) = Slice::new(slice, &mut |text: &str| intern_in(names, text))?;
        self.leave_out(key, faults, source);
        let old = self.slices.get(key);
        if slice.service.as_deref() == Some(API_SERVER) && slice.endpoints.is_empty() {
            // An API server that is going away empties its own slice; who forgot it could never hear of its return.
            slice.endpoints = old.map(|old| old.object.endpoints.clone()).unwrap_or_default();
        }
        if old.is_none_or(|old| old.object != slice) {
            let service = slice.service.clone();
            if let Some(old) = self.slices.remove(key) {
                self.untie(key, old.object.service);
            }
            if let Some(service) = service {
                self.slices_of.entry(service.clone()).or_default().insert(key.clone());
                self.touch_service(service);
            }
        }
        self.slices.insert(key.clone(), Stored { object: slice, source: source.clone() });
        Ok(())
    }

    /// Parts of an object that are not in force, all of them.
    fn leave_out(&mut self, key: &Key, faults: Vec<Fault>, source: &Source) {
        match faults.is_empty() {
            true => self.left_out.remove(key),
            false => {
                let about = |fault: Fault| fault.about(key.to_string(), source);
                self.left_out.insert(key.clone(), faults.into_iter().map(about).collect())
            }
        };
    }

    fn untie(&mut self, slice: &Key, service: Option<ServiceName>) {
        let Some(service) = service else { return };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.touch_service(service);
    }

    fn touch_service(&mut self, name: ServiceName) {
        self.revision += 1;
        if let Some(before) = self.changed_at.insert(name.clone(), self.revision) {
            self.changed.remove(&before);
        }
        self.changed.insert(self.revision, name);
    }

    fn touch_node(&mut self, changed: bool) {
        if changed {
            self.revision += 1;
            self.node_revision = self.revision;
        }
    }

    fn intern(&mut self, text: &str) -> Arc<str> {
        intern_in(&mut self.names, text)
    }

    /// What the manifests could not even tell the object of; the whole list each time.
    pub fn set_unparsed(&mut self, unparsed: Vec<Refusal>) {
        self.unparsed = unparsed;
    }

    /// Everything refused at this moment.
    pub fn refusals(&self) -> Vec<Refusal> {
        let left_out = self.left_out.values().flatten();
        self.unparsed.iter().chain(self.refused.values()).chain(left_out).cloned().collect()
    }

    /// Grows whenever something changed that compile would see.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// [`Model::revision`] as of the last change to a Node, Pod or ServiceCIDR.
    pub fn node_revision(&self) -> u64 {
        self.node_revision
    }

    /// Services that changed, or whose slices did, after `revision`; deleted ones among them.
    pub fn services_changed_since(&self, revision: u64) -> impl Iterator<Item = &ServiceName> {
        self.changed.range(revision + 1..).map(|(_, name)| name)
    }

    /// Services in force, in no order; those of others among them.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &Stored<Service>)> {
        self.services.iter()
    }

    pub fn service(&self, name: &str) -> Option<&Stored<Service>> {
        self.services.get(name)
    }

    /// The Service that has what `name` wants from outside: by its cluster IP, or because it came first. `None`: nobody else.
    pub fn holder_before(&self, name: &ServiceName, vip: VipKey) -> Option<&ServiceName> {
        let holder = self.address_holders.get(&vip.address).or_else(|| self.external_claims.first(vip));
        holder.filter(|holder| *holder != name)
    }

    pub fn node_port_holder(&self, protocol: Protocol, port: u16) -> Option<&ServiceName> {
        self.node_port_holders.get(&(protocol, port))
    }

    /// The slices of a Service, by name.
    pub fn slices_of(&self, service: &str) -> impl Iterator<Item = (&Key, &Slice)> {
        let keys = self.slices_of.get(service).into_iter().flatten();
        keys.filter_map(|key| Some((key, &self.slices.get(key)?.object)))
    }

    pub fn pods(&self) -> impl Iterator<Item = &Stored<PodObject>> {
        self.pods.values()
    }

    pub fn node(&self, name: &str) -> Option<&NodeObject> {
        self.nodes.get(name).map(|stored| &stored.object)
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&str, &NodeObject)> {
        self.nodes.iter().map(|(name, stored)| (name.as_str(), &stored.object))
    }

    /// Ranges of all ServiceCIDR objects, each once.
    pub fn service_cidrs(&self) -> BTreeSet<IpNet> {
        self.service_cidrs.values().flat_map(|stored| stored.object.iter().copied()).collect()
    }

    /// Services that are ours.
    pub fn service_count(&self) -> usize {
        self.services.values().filter(|stored| stored.object.not_ours.is_none()).count()
    }

    /// Endpoints of all slices in force; one that serves several ports counts once.
    pub fn endpoint_count(&self) -> usize {
        self.slices.values().map(|stored| stored.object.endpoints.len()).sum()
    }

    /// What has become of an endpoint. `service`: as in the tables, `namespace/name:port`.
    pub fn endpoint_state(&self, service: &str, address: IpAddr, port: u16) -> EndpointState {
        let Some((name, port_label)) = service.rsplit_once(':') else { return EndpointState::Gone };
        let Some(stored) = self.services.get(name) else { return EndpointState::Gone };
        let is_labelled = |p: &&ServicePort| p.label("").strip_prefix(':') == Some(port_label);
        let Some(service_port) = stored.object.ports.iter().find(is_labelled) else { return EndpointState::Gone };
        let mut best = None;
        for (_, slice) in self.slices_of(name) {
            let serves =
                |p: &SlicePort| p.name == service_port.name && p.protocol == service_port.protocol && p.port == port;
            if slice.ports.iter().any(serves) {
                best = best.max(slice.endpoints.iter().filter(|e| e.address == address).map(|e| e.condition).max());
            }
        }
        match best {
            Some(Condition::Ready) => EndpointState::Ready,
            Some(Condition::Terminating) => EndpointState::Terminating,
            Some(Condition::NotReady) => EndpointState::NotReady,
            None => EndpointState::Gone,
        }
    }
}

/// Removing only what is one's own: a holder that has been taken over already stays.
trait Holders<K> {
    fn retain_if_other(&mut self, key: &K, name: &ServiceName);
}

impl<K: std::hash::Hash + Eq> Holders<K> for HashMap<K, ServiceName> {
    fn retain_if_other(&mut self, key: &K, name: &ServiceName) {
        if self.get(key) == Some(name) {
            self.remove(key);
        }
    }
}

fn replace<K: Ord, T: PartialEq>(map: &mut BTreeMap<K, Stored<T>>, key: K, object: T, source: &Source) -> bool {
    let changed = map.get(&key).is_none_or(|old| old.object != object);
    map.insert(key, Stored { object, source: source.clone() });
    changed
}

/// Names of Nodes and Services repeat by the thousand; one copy of each is kept. They are as many as the cluster has.
fn intern_in(names: &mut HashSet<Arc<str>>, text: &str) -> Arc<str> {
    if let Some(known) = names.get(text) {
        return known.clone();
    }
    let name: Arc<str> = text.into();
    names.insert(name.clone());
    name
}

fn service_key(name: &ServiceName) -> Key {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Key { kind: Kind::Service, namespace: namespace.to_owned(), name: name.to_owned() }
}

#[cfg(test)]
mod tests;
