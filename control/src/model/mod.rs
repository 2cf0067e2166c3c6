//! What is known of the cluster: the last good version of every object, reduced to what tables need.
//!
//! A bad object is refused by name and kept out; its last good version stays in force. Of two Services that want the
//! same address or node port the first stays, and the second waits, refused, until the first lets go.
//! Every change grows [`Model::revision`], and the model remembers which Services changed since when, so that compile
//! does again only what a change concerns.
//!
//! What this does not do: it never asks anybody; watches and files feed it [`Change`]s.

mod address;
mod admission;
pub mod api;
mod claims;
mod external;
mod heirs;
mod node;
mod object;
mod service;
mod slice;
mod slices;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use admission::Waiting;
use atalho_engine::flow::Protocol;
use claims::ExternalClaims;
use ipnet::IpNet;

use crate::config::Config;

pub use external::External;
pub use heirs::Inherited;
pub use node::{NodeObject, PodObject};
pub(crate) use object::Fault;
pub use object::{Change, Key, Kind, Object, Refusal, Source};
pub(crate) use service::unusable;
pub use service::{NotOurs, Service, ServicePort};
pub use slice::{Condition, Hints, Slice, SliceEndpoint, SlicePort};
pub use slices::EndpointState;

/// `namespace/name` of a Service.
pub type ServiceName = Arc<str>;

/// An object in force, and where it came from.
#[derive(Debug, Clone)]
pub struct Stored<T> {
    pub object: T,
    pub source: Source,
}

/// Every object in force.
#[derive(Debug, Default)]
pub struct Model {
    proxy_name: String,
    external_ip_cidrs: Vec<IpNet>,
    services: HashMap<ServiceName, Stored<Service>>,
    slices: HashMap<Key, Stored<Slice>>,
    slices_of: HashMap<ServiceName, BTreeSet<Key>>,
    /// Of `services`, those that are ours; of all `slices` together. Counted as they come and go.
    ours: usize,
    endpoints: usize,
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
    hands: heirs::Hands,
    /// The API server's own slices that were deleted and stay in force, for want of others.
    outlived: BTreeSet<Key>,
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
                if let Some(old) = self.remove_service(&name) {
                    self.release(&name, &old.object);
                    self.touch_service(name);
                    self.admit_waiting();
                }
            }
            Kind::EndpointSlice => {
                self.delete_slice(key);
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
        self.ours
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

#[cfg(test)]
mod tests;
