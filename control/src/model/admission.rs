//! Which Services are in force: of two that want the same address or node port the first stays, and the second waits, refused,
//! until the first lets go. What they want from outside is noted here, and settled when it is compiled.

use std::collections::{BTreeSet, HashMap};

use atalho_engine::flow::Protocol;
use atalho_engine::service::VipKey;

use super::{Fault, Key, Kind, Model, Refusal, Service, ServiceName, Source, Stored};

/// A Service that cannot be taken while another holds what it wants.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) name: ServiceName,
    service: Service,
    source: Source,
}

impl Model {
    pub(super) fn put_service(&mut self, key: &Key, service: Service, source: &Source) -> Result<(), Fault> {
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
        let old = self.remove_service(&name);
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
        self.ours += usize::from(service.not_ours.is_none());
        self.services.insert(name, Stored { object: service, source });
    }

    pub(super) fn remove_service(&mut self, name: &ServiceName) -> Option<Stored<Service>> {
        let old = self.services.remove(name)?;
        self.ours -= usize::from(old.object.not_ours.is_none());
        Some(old)
    }

    pub(super) fn release(&mut self, name: &ServiceName, service: &Service) {
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
    pub(super) fn admit_waiting(&mut self) {
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

    /// The Service that has what `name` wants from outside: by its cluster IP, or because it came first. `None`: nobody else.
    pub fn holder_before(&self, name: &ServiceName, vip: VipKey) -> Option<&ServiceName> {
        let holder = self.address_holders.get(&vip.address).or_else(|| self.external_claims.first(vip));
        holder.filter(|holder| *holder != name)
    }

    pub fn node_port_holder(&self, protocol: Protocol, port: u16) -> Option<&ServiceName> {
        self.node_port_holders.get(&(protocol, port))
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

fn service_key(name: &ServiceName) -> Key {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Key { kind: Kind::Service, namespace: namespace.to_owned(), name: name.to_owned() }
}
