//! EndpointSlices in force, each tied to its Service, and what they say of an endpoint together.

use std::net::IpAddr;

use super::{Condition, Fault, Key, Model, ServicePort, Slice, SlicePort, Source, Stored, api, intern_in};

/// The API server's own Service.
const API_SERVER: &str = "default/kubernetes";

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

impl Model {
    pub(super) fn put_slice(&mut self, key: &Key, slice: &api::EndpointSlice, source: &Source) -> Result<(), Fault> {
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
            self.drop_slice(key, Some(&slice));
            if let Some(service) = service {
                self.slices_of.entry(service.clone()).or_default().insert(key.clone());
                self.touch_service(service);
            }
        }
        self.endpoints += slice.endpoints.len();
        let same = self.slices.insert(key.clone(), Stored { object: slice, source: source.clone() });
        self.endpoints -= same.map_or(0, |same| same.object.endpoints.len());
        self.outlive(key);
        Ok(())
    }

    pub(super) fn delete_slice(&mut self, key: &Key) {
        let is_api_servers = self.slices.get(key).is_some_and(|slice| leads_to_api_server(&slice.object));
        // Or deletes it, see above.
        if is_api_servers && !self.has_other_of_api_server(key) {
            self.outlived.insert(key.clone());
            return;
        }
        self.outlived.remove(key);
        self.drop_slice(key, None);
    }

    /// The slice `key` is there again, or another one in the place of those that were deleted.
    fn outlive(&mut self, key: &Key) {
        self.outlived.remove(key);
        let over: Vec<Key> = self.outlived.iter().filter(|old| self.has_other_of_api_server(old)).cloned().collect();
        over.iter().for_each(|old| self.delete_slice(old));
    }

    /// Whether another slice of the API server's, of the same family, has endpoints and has not been deleted.
    fn has_other_of_api_server(&self, key: &Key) -> bool {
        let is_ipv4 = self.slices.get(key).map(|slice| slice.object.is_ipv4);
        self.slices_of(API_SERVER).any(|(other, slice)| {
            other != key
                && Some(slice.is_ipv4) == is_ipv4
                && !slice.endpoints.is_empty()
                && !self.outlived.contains(other)
        })
    }

    /// Takes a slice out of force, for `next` to come in its place.
    fn drop_slice(&mut self, key: &Key, next: Option<&Slice>) {
        let old = self.slices.remove(key).map(|old| old.object);
        self.note_hands(old.as_ref(), next);
        let Some(old) = old else { return };
        self.endpoints -= old.endpoints.len();
        let Some(service) = old.service else { return };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.touch_service(service);
    }

    /// The slices of a Service, by name.
    pub fn slices_of(&self, service: &str) -> impl Iterator<Item = (&Key, &Slice)> {
        let keys = self.slices_of.get(service).into_iter().flatten();
        keys.filter_map(|key| Some((key, &self.slices.get(key)?.object)))
    }

    /// Endpoints of all slices in force; one that serves several ports counts once.
    pub fn endpoint_count(&self) -> usize {
        self.endpoints
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

fn leads_to_api_server(slice: &Slice) -> bool {
    slice.service.as_deref() == Some(API_SERVER) && !slice.endpoints.is_empty()
}
