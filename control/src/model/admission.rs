//! Which Services are in force: of two that want the same address or node port the first stays, and the second waits, refused,
//! until the first lets go. What they want from outside is noted here, and settled when it is compiled.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

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
            // It may let go of what others wait for that hold what it wants.
            self.admit_waiting();
            return if self.waiting.contains_key(&turn) { Err(fault) } else { Ok(()) };
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
        loop {
            let is_free = |waiting: &Waiting| self.conflict(&waiting.name, &waiting.service).is_none();
            let free = self.waiting.iter().find(|(_, waiting)| is_free(waiting)).map(|(turn, _)| *turn);
            let turns = free.map_or_else(|| self.in_exchange(), |turn| vec![turn]);
            if turns.is_empty() {
                break;
            }
            for Waiting { name, service, source } in
                turns.iter().filter_map(|turn| self.waiting.remove(turn)).collect::<Vec<_>>()
            {
                self.refused.remove(&service_key(&name));
                self.install(name, service, source);
            }
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

    /// The turns of those that wait for nobody but each other: two node ports may have been exchanged while we did not look.
    /// Of two that want the same, the first is among them.
    fn in_exchange(&self) -> Vec<u64> {
        let mut chosen: Vec<(&u64, &Waiting)> = self.waiting.iter().collect();
        loop {
            let before = chosen.len();
            let letting_go: HashSet<&ServiceName> = chosen.iter().map(|(_, waiting)| &waiting.name).collect();
            chosen.retain(|(_, waiting)| self.holders(&waiting.service).all(|holder| letting_go.contains(holder)));
            if chosen.len() == before {
                let (mut ips, mut node_ports) = (HashSet::<IpAddr>::new(), HashSet::<(Protocol, u16)>::new());
                chosen.retain(|(_, Waiting { service, .. })| {
                    let is_first = !service.cluster_ips.iter().any(|ip| ips.contains(ip))
                        && !service.node_ports().any(|node_port| node_ports.contains(&node_port));
                    if is_first {
                        ips.extend(&service.cluster_ips);
                        node_ports.extend(service.node_ports());
                    }
                    is_first
                });
            }
            if chosen.len() == before {
                return chosen.into_iter().map(|(turn, _)| *turn).collect();
            }
        }
    }

    /// Who has the cluster IPs and node ports that `service` wants.
    fn holders(&self, service: &Service) -> impl Iterator<Item = &ServiceName> {
        let of_addresses = service.cluster_ips.iter().filter_map(|ip| self.address_holders.get(ip));
        of_addresses.chain(service.node_ports().filter_map(|node_port| self.node_port_holders.get(&node_port)))
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
