//! Addresses that change hands. Where a pod goes and another one gets its address within the same changes, slices name the
//! same address before and after, and only the object behind it tells that what flows there was for somebody else.
//!
//! What is kept is who has left since the last scan for flows, no more: whoever left before it has no flows any more.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::{Model, ServiceName, Slice};

/// Endpoints whose address is another pod's by now, by Service.
pub type Inherited = HashMap<ServiceName, HashSet<IpAddr>>;

/// Those who left, by Service and address: of several at one address the first.
#[derive(Debug, Default)]
pub(super) struct Left(HashMap<ServiceName, HashMap<IpAddr, u64>>);

impl Model {
    /// Notes who left with a slice, or with its change to `new`.
    pub(super) fn note_left(&mut self, old: &Slice, new: Option<&Slice>) {
        let Some(service) = &old.service else { return };
        let new = new.filter(|new| new.service == old.service);
        let stay: HashSet<_> = new.iter().flat_map(|new| &new.endpoints).map(|e| (e.address, e.target)).collect();
        for endpoint in old.endpoints.iter().filter(|e| !stay.contains(&(e.address, e.target))) {
            if let Some(target) = endpoint.target {
                self.left.0.entry(service.clone()).or_default().entry(endpoint.address).or_insert(target);
            }
        }
    }

    /// Whether somebody has left since the last [`Model::take_inherited`].
    pub fn has_left(&self) -> bool {
        !self.left.0.is_empty()
    }

    /// Who has been succeeded since the last call. An endpoint that only moved to another slice has not.
    pub fn take_inherited(&mut self) -> Inherited {
        let left = std::mem::take(&mut self.left).0;
        let mut inherited = Inherited::new();
        for (service, mut left) in left {
            let mut heirs = HashSet::new();
            for endpoint in self.slices_of(&service).flat_map(|(_, slice)| &slice.endpoints) {
                match (left.get(&endpoint.address), endpoint.target) {
                    (Some(before), Some(now)) if *before == now => {
                        left.remove(&endpoint.address);
                    }
                    (Some(_), Some(_)) => {
                        heirs.insert(endpoint.address);
                    }
                    _ => {}
                }
            }
            heirs.retain(|address| left.contains_key(address));
            if !heirs.is_empty() {
                inherited.insert(service, heirs);
            }
        }
        inherited
    }
}
