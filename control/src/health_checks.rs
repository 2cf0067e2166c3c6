//! Health-check node ports (Service.spec.healthCheckNodePort): a load balancer asks each node whether it has endpoints of
//! a Service with externalTrafficPolicy Local. Here stands who is to be answered what; `serve` listens.

mod connection;
mod serve;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::model::{Condition, Model, ServiceName};

pub use serve::serve;

/// What to answer, by the address on which.
pub type Answers = BTreeMap<SocketAddr, Answer>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `namespace/name`.
    pub service: ServiceName,
    /// Ready endpoints on this node, of the family of the address.
    pub local_endpoints: usize,
}

/// The answers as of some revision of the model.
#[derive(Debug, Default)]
pub struct HealthChecks {
    revision: u64,
    addresses: BTreeSet<IpAddr>,
    of: BTreeMap<ServiceName, Vec<(SocketAddr, usize)>>,
}

impl HealthChecks {
    /// Brings them up to the model: looks only at Services that changed. `addresses`: those on which node ports are served.
    /// `None`: the answers are as before.
    pub fn update(&mut self, model: &Model, node: &str, addresses: &BTreeSet<IpAddr>) -> Option<Arc<Answers>> {
        let changed: Vec<ServiceName> = if *addresses == self.addresses {
            model.services_changed_since(self.revision).cloned().collect()
        } else {
            self.addresses.clone_from(addresses);
            self.of.clear();
            model.services().map(|(name, _)| name.clone()).collect()
        };
        let is_first = std::mem::replace(&mut self.revision, model.revision()) == 0;
        let mut is_changed = is_first;
        for name in changed {
            let answers = of(model, &name, node, addresses);
            let before = match answers.is_empty() {
                true => self.of.remove(&name),
                false => self.of.insert(name.clone(), answers),
            };
            is_changed |= before.as_ref() != self.of.get(&name);
        }
        is_changed.then(|| Arc::new(self.answers()))
    }

    /// An API server gives a port to one Service only; of two that claim one the first by name has it.
    fn answers(&self) -> Answers {
        let mut answers = Answers::new();
        for (service, own) in &self.of {
            for (address, local_endpoints) in own {
                let answer = Answer { service: service.clone(), local_endpoints: *local_endpoints };
                answers.entry(*address).or_insert(answer);
            }
        }
        answers
    }
}

/// Of one Service: on which addresses it is asked after, and how many ready endpoints it has here. An endpoint that
/// serves several ports counts once.
fn of(model: &Model, name: &str, node: &str, addresses: &BTreeSet<IpAddr>) -> Vec<(SocketAddr, usize)> {
    let Some(stored) = model.service(name) else { return Vec::new() };
    let service = &stored.object;
    let Some(port) = service.health_check_node_port else { return Vec::new() };
    let local: HashSet<IpAddr> = (model.slices_of(name))
        .flat_map(|(_, slice)| &slice.endpoints)
        .filter(|endpoint| endpoint.condition == Condition::Ready && endpoint.node.as_deref() == Some(node))
        .map(|endpoint| endpoint.address)
        .collect();
    let of_family = |is_ipv4: bool| local.iter().filter(|address| address.is_ipv4() == is_ipv4).count();
    let serves = |address: &&IpAddr| service.cluster_ips.iter().any(|ip| ip.is_ipv4() == address.is_ipv4());
    let addresses = addresses.iter().filter(serves);
    addresses.map(|address| (SocketAddr::new(*address, port), of_family(address.is_ipv4()))).collect()
}

#[cfg(test)]
mod tests;
