//! Which Services want an external address and port: load balancers may share an address among Services by port, and two may
//! be given the same by mistake. The first stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use atalho_engine::flow::Protocol;
use atalho_engine::service::VipKey;

use super::ServiceName;

/// Who wants what, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct ExternalClaims {
    by_address: HashMap<IpAddr, BTreeMap<(Protocol, u16), Vec<ServiceName>>>,
    /// Where a port is claimed.
    addresses: HashMap<(Protocol, u16), BTreeSet<IpAddr>>,
}

impl ExternalClaims {
    pub fn add(&mut self, vip: VipKey, name: &ServiceName) {
        let port = (vip.protocol, vip.port);
        let claimants = self.by_address.entry(vip.address).or_default().entry(port).or_default();
        if !claimants.contains(name) {
            claimants.push(name.clone());
        }
        self.addresses.entry(port).or_default().insert(vip.address);
    }

    pub fn remove(&mut self, vip: VipKey, name: &ServiceName) {
        let port = (vip.protocol, vip.port);
        let Some(ports) = self.by_address.get_mut(&vip.address) else { return };
        let Some(claimants) = ports.get_mut(&port) else { return };
        claimants.retain(|other| other != name);
        if !claimants.is_empty() {
            return;
        }
        ports.remove(&port);
        if ports.is_empty() {
            self.by_address.remove(&vip.address);
        }
        if let Some(addresses) = self.addresses.get_mut(&port) {
            addresses.remove(&vip.address);
            if addresses.is_empty() {
                self.addresses.remove(&port);
            }
        }
    }

    /// Whose it is.
    pub fn first(&self, vip: VipKey) -> Option<&ServiceName> {
        self.claimants(vip).next()
    }

    pub fn claimants(&self, vip: VipKey) -> impl Iterator<Item = &ServiceName> {
        self.by_address.get(&vip.address).and_then(|ports| ports.get(&(vip.protocol, vip.port))).into_iter().flatten()
    }

    /// All who want a port of `address`.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = &ServiceName> {
        self.by_address.get(&address).into_iter().flat_map(BTreeMap::values).flatten()
    }

    /// All who want this port, whatever the address.
    pub fn of_port(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = &ServiceName> {
        let addresses = self.addresses.get(&(protocol, port)).into_iter().flatten();
        addresses.flat_map(move |address| self.claimants(VipKey { address: *address, protocol, port }))
    }
}
