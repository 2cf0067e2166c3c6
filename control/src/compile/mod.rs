//! From what is known (model, facts, configuration) to what workers read (tables) and what the kernel side needs
//! (claims, ports, next hops). Pure but for the indexes that it gives out.
//!
//! Incremental: a Service is compiled again only if it, its slices or its surroundings changed, and what comes out equal
//! is shared with the tables before. A test holds that this gives what compiling everything anew would give.

mod endpoints;
mod indexes;
mod many;
mod node;
mod offline;
mod services;
mod snat_ports;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::flow::{Protocol, mapped};
use atalho_engine::next_hops::NextHop;
use atalho_engine::route::Routes;
use atalho_engine::service::{Services, Vip, VipKey};
use atalho_engine::tables::Tables;
use atalho_layout::{ClaimKey, ClaimKind, LpmKey, PortRecord};
use ipnet::IpNet;

pub(crate) use endpoints::{Merged, Nearness, Place, merged, of_cluster};
pub use indexes::NextHopIndexes;
use many::Outcome;
use node::{NodePart, share};
pub use offline::{OfflinePorts, offline_facts, offline_mac};
pub use services::NoLocal;
use services::Surroundings;

use crate::config::Config;
use crate::facts::NodeFacts;
use crate::model::{Model, Refusal, ServiceName};

/// What came out, and what the next compilation builds on.
pub struct Compiled {
    /// The same `Arc` as before if nothing in it changed.
    pub tables: Arc<Tables>,
    /// Every claim that must be in force.
    pub claims: BTreeMap<ClaimKey, ClaimKind>,
    /// Every range that must be in force.
    pub ranges: BTreeSet<LpmKey>,
    /// What is new about claims and VIPs.
    pub delta: Delta,
    /// By interface index of the pod's host end.
    pub pod_ports: BTreeMap<u32, PortRecord>,
    /// Every next hop by index; 0 is the node.
    pub next_hops: BTreeMap<u32, NextHop>,
    /// Neighbours to be kept resolved: gateways on the uplink, pods on their ports.
    pub wanted_neighbours: BTreeSet<(u32, IpAddr)>,
    /// What was left out: Services on a node address, pods whose port is not to be found.
    pub refusals: Vec<Refusal>,

    state: State,
}

/// Against the compilation before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// There was none before: everything is new.
    pub everything: bool,
    /// New, or of another kind now.
    pub claims_added: Vec<(ClaimKey, ClaimKind)>,
    pub claims_removed: Vec<ClaimKey>,
    /// Other backends, another Service, or new.
    pub vips_changed: Vec<VipKey>,
    pub vips_removed: Vec<VipKey>,
}

/// What the next compilation compares with.
struct State {
    /// Of the model.
    revision: u64,
    node_revision: u64,
    facts: Arc<NodeFacts>,
    part: NodePart,
    around: Surroundings,
    /// VIPs of each Service.
    owned: HashMap<ServiceName, Vec<VipKey>>,
    refused: BTreeMap<ServiceName, Vec<Refusal>>,
    /// Only of those that have any.
    no_local: HashMap<ServiceName, NoLocal>,
}

/// Compiles. `previous` is taken by value, for its maps are changed in place: one changed slice must not copy ten
/// thousand claims. It must have been compiled with the same `config`, which does not change while a daemon runs.
pub fn compile(
    model: &Model,
    facts: &Arc<NodeFacts>,
    config: &Config,
    previous: Option<Compiled>,
    indexes: &mut NextHopIndexes,
) -> Compiled {
    let mut compiled = previous.unwrap_or_else(|| Compiled::empty(facts, config));
    let everything = compiled.tables.generation == 0;
    compiled.delta = Delta { everything, ..Delta::default() };
    let part = (everything || !compiled.is_node_part_current(model, facts))
        .then(|| NodePart::new(model, facts, config, indexes))
        .filter(|part| everything || *part != compiled.state.part);
    compiled.state.facts = facts.clone();
    compiled.state.node_revision = model.node_revision();

    let before = compiled.tables.clone();
    let mut tables = Tables::clone(&before);
    let mut touched: BTreeSet<IpAddr> = BTreeSet::new();
    if let Some(part) = part {
        touched.extend(compiled.addresses_of_node_part());
        compiled.take_node_part(part, &mut tables);
        touched.extend(compiled.addresses_of_node_part());
    }
    let around = Surroundings {
        place: Place { node: config.node.name.clone(), zone: compiled.state.part.zone.clone() },
        node_port_addresses: compiled.state.part.node_port_addresses.clone(),
        node_addresses: (compiled.state.part.node.addresses.iter().copied())
            .filter(|address| crate::model::unusable(*address).is_none())
            .collect(),
        primary_addresses: compiled.state.part.node.primary_addresses().collect(),
        pods_are_known: !compiled.state.part.cluster.pod_cidrs.is_empty(),
        masquerade_all: config.service.masquerade_all,
        scheduler: config.service.scheduler,
    };
    let dirty = compiled.dirty_services(model, around);
    let changes = compiled.compile_services(model, &dirty, &before.services);
    touched.extend(changes.keys().filter(|key| !is_port_only(&before, &changes, key)).map(|key| key.address));
    compiled.claim_ports(&before, &changes);
    let is_changed = !changes.is_empty();
    if is_changed {
        tables.services = before.services.with_changes(changes);
    }
    compiled.claim_addresses(&tables, touched);
    compiled.refusals =
        compiled.state.part.refusals.iter().chain(compiled.state.refused.values().flatten()).cloned().collect();
    compiled.state.revision = model.revision();

    let is_same = !everything && !is_changed && same_parts(&tables, &before);
    if !is_same {
        tables.generation = before.generation + 1;
        compiled.tables = Arc::new(tables);
    }
    compiled
}

fn same_parts(new: &Tables, old: &Tables) -> bool {
    Arc::ptr_eq(&new.node, &old.node)
        && Arc::ptr_eq(&new.cluster, &old.cluster)
        && Arc::ptr_eq(&new.other_nodes, &old.other_nodes)
        && Arc::ptr_eq(&new.ports, &old.ports)
        && Arc::ptr_eq(&new.local_pods, &old.local_pods)
        && Arc::ptr_eq(&new.routes, &old.routes)
        && Arc::ptr_eq(&new.settings, &old.settings)
}

/// Whether the address of `key` is not a Service's for this VIP, before and after.
fn is_port_only(before: &Tables, changes: &Changes, key: &VipKey) -> bool {
    let is = |vip: &Vip| vip.shares_address;
    let new = changes.get(key).and_then(|vip| vip.as_deref());
    before.services.look_up(key).is_none_or(is) && new.is_none_or(is)
}

type Changes = BTreeMap<VipKey, Option<Arc<Vip>>>;

impl Compiled {
    /// Nothing, as before the first compilation.
    pub fn empty(facts: &Arc<NodeFacts>, config: &Config) -> Self {
        let around = Surroundings {
            place: Place::default(),
            node_port_addresses: BTreeSet::new(),
            node_addresses: BTreeSet::new(),
            primary_addresses: BTreeSet::new(),
            pods_are_known: false,
            masquerade_all: false,
            scheduler: config.service.scheduler,
        };
        Self {
            tables: Arc::new(Tables { settings: Arc::new(config.settings()), ..Tables::default() }),
            claims: BTreeMap::new(),
            ranges: BTreeSet::new(),
            delta: Delta::default(),
            pod_ports: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            wanted_neighbours: BTreeSet::new(),
            refusals: Vec::new(),
            state: State {
                revision: 0,
                node_revision: 0,
                facts: facts.clone(),
                part: NodePart::default(),
                around,
                owned: HashMap::new(),
                refused: BTreeMap::new(),
                no_local: HashMap::new(),
            },
        }
    }

    /// Where this node stands, as hints name it.
    pub(crate) fn place(&self) -> &Place {
        &self.state.around.place
    }

    fn is_node_part_current(&self, model: &Model, facts: &Arc<NodeFacts>) -> bool {
        model.node_revision() == self.state.node_revision
            && (Arc::ptr_eq(facts, &self.state.facts) || **facts == *self.state.facts)
    }

    fn take_node_part(&mut self, part: NodePart, tables: &mut Tables) {
        let old = (self.tables.generation > 0).then(|| self.tables.clone());
        tables.node = share(part.node.clone(), old.as_ref().map(|t| &t.node));
        tables.cluster = share(part.cluster.clone(), old.as_ref().map(|t| &t.cluster));
        tables.other_nodes = share(part.other_nodes.clone(), old.as_ref().map(|t| &t.other_nodes));
        tables.ports = share(part.ports.clone(), old.as_ref().map(|t| &t.ports));
        tables.local_pods = share(part.local_pods.clone(), old.as_ref().map(|t| &t.local_pods));
        tables.settings = share(part.settings.clone(), old.as_ref().map(|t| &t.settings));
        let is_same_way = self.state.part.routes == part.routes && self.state.part.neighbours == part.neighbours;
        if old.is_none() || !is_same_way {
            tables.routes = Arc::new(Routes::new(part.routes.clone(), part.neighbours.clone()));
        }
        self.ranges = part.cluster.service_cidrs.iter().map(lpm_key).collect();
        self.pod_ports.clone_from(&part.pod_ports);
        self.next_hops.clone_from(&part.next_hops);
        self.wanted_neighbours.clone_from(&part.wanted_neighbours);
        self.state.part = part;
    }

    fn addresses_of_node_part(&self) -> Vec<IpAddr> {
        let part = &self.state.part;
        part.node.addresses.iter().chain(part.local_pods.keys()).copied().collect()
    }

    /// Services to compile: those that changed, or all if what surrounds them did.
    fn dirty_services(&mut self, model: &Model, around: Surroundings) -> BTreeSet<ServiceName> {
        if self.state.around == around && !self.delta.everything {
            return model.services_changed_since(self.state.revision).cloned().collect();
        }
        self.state.around = around;
        let known = self.state.owned.keys().chain(self.state.refused.keys()).cloned();
        model.services().map(|(name, _)| name.clone()).chain(known).collect()
    }

    /// Compiles `dirty` and says what differs from `before`.
    fn compile_services(&mut self, model: &Model, dirty: &BTreeSet<ServiceName>, before: &Services) -> Changes {
        // Removals first: a VIP may go from one Service to another.
        let mut changes: Changes = BTreeMap::new();
        for name in dirty {
            for key in self.state.owned.remove(name).unwrap_or_default() {
                changes.insert(key, None);
            }
            self.state.refused.remove(name);
            self.state.no_local.remove(name);
        }
        for Outcome { name, owned, changed, refusals, no_local } in
            many::compiled(model, dirty, &self.state.around, before)
        {
            if !refusals.is_empty() {
                self.state.refused.insert(name.clone(), refusals);
            }
            if no_local != NoLocal::default() {
                self.state.no_local.insert(name.clone(), no_local);
            }
            for key in &owned {
                changes.remove(key);
            }
            changes.extend(changed.into_iter().map(|(key, vip)| (key, Some(vip))));
            if !owned.is_empty() {
                self.state.owned.insert(name, owned);
            }
        }
        for (key, vip) in &changes {
            match vip {
                Some(_) => self.delta.vips_changed.push(*key),
                None => self.delta.vips_removed.push(*key),
            }
        }
        changes
    }

    /// Claims of single ports on addresses that are the node's.
    fn claim_ports(&mut self, before: &Tables, changes: &Changes) {
        for (key, vip) in changes {
            let is = |vip: &Vip| vip.shares_address;
            let claim = ClaimKey {
                addr: mapped(key.address),
                port: key.port.to_be_bytes(),
                protocol: key.protocol as u8,
                pad: 0,
            };
            let now = vip.as_deref().is_some_and(is).then_some(ClaimKind::NodePort);
            if now.is_some() || before.services.look_up(key).is_some_and(is) {
                self.set_claim(claim, now);
            }
        }
    }

    /// Claims of whole addresses: a Service's, else a pod's, else the node's.
    fn claim_addresses(&mut self, tables: &Tables, addresses: BTreeSet<IpAddr>) {
        for address in addresses {
            let kind = if tables.services.has_address(address) {
                Some(ClaimKind::Vip)
            } else if tables.local_pods.contains_key(&address) {
                Some(ClaimKind::Pod)
            } else if tables.is_node_address(address) && !address.is_loopback() {
                Some(ClaimKind::Node)
            } else {
                None
            };
            self.set_claim(ClaimKey { addr: mapped(address), ..ClaimKey::default() }, kind);
        }
    }

    fn set_claim(&mut self, key: ClaimKey, kind: Option<ClaimKind>) {
        match kind {
            Some(kind) => {
                if self.claims.insert(key, kind) != Some(kind) {
                    self.delta.claims_added.push((key, kind));
                }
            }
            None => {
                if self.claims.remove(&key).is_some() {
                    self.delta.claims_removed.push(key);
                }
            }
        }
    }

    /// The node's addresses on which node ports are served.
    pub fn node_port_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.state.around.node_port_addresses
    }

    /// Of all Services.
    pub fn no_local_endpoints(&self) -> NoLocal {
        self.state.no_local.values().fold(NoLocal::default(), |sum, of| NoLocal {
            internal: sum.internal + of.internal,
            external: sum.external + of.external,
        })
    }

    /// The VIPs of a Service.
    pub fn vips_of(&self, service: &str) -> &[VipKey] {
        self.state.owned.get(service).map_or(&[], Vec::as_slice)
    }

    /// The claim that `steer` would find for this destination: its port's, the address's, then a range's.
    pub fn claim_of(&self, address: IpAddr, protocol: Protocol, port: u16) -> Option<ClaimKind> {
        let addr = mapped(address);
        let exact = ClaimKey { addr, port: port.to_be_bytes(), protocol: protocol as u8, pad: 0 };
        let whole = ClaimKey { addr, ..ClaimKey::default() };
        let range = || self.tables.is_service_address(address).then_some(ClaimKind::ServiceCidr);
        self.claims.get(&exact).or_else(|| self.claims.get(&whole)).copied().or_else(range)
    }
}

fn lpm_key(cidr: &IpNet) -> LpmKey {
    let offset = if cidr.addr().is_ipv4() { 96 } else { 0 };
    LpmKey { prefix_len: u32::from(cidr.prefix_len()) + offset, addr: mapped(cidr.network()) }
}

#[cfg(test)]
mod tests;
