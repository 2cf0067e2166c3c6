//! Addresses that change hands. Where a pod goes and another one gets its address within the same changes, slices name the
//! same address before and after, and only the object behind it tells that what flows there was for somebody else.
//!
//! Who stood behind an address at the last scan for flows is known from who stands there now and what was added and taken
//! away since, which is all that is kept. Slices name an endpoint twice while it moves from one to another.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::{Model, ServiceName, Slice};

/// Endpoints whose address is another pod's by now, by Service.
pub type Inherited = HashMap<ServiceName, HashSet<IpAddr>>;

/// How many slices name which object behind an address.
type Named = HashMap<(IpAddr, u64), i32>;

/// What has changed in that since the last scan, by Service; nothing before the first one.
#[derive(Debug, Default)]
pub(super) struct Hands(Option<HashMap<ServiceName, Named>>);

impl Model {
    /// Notes that `new` takes the place of `old`; `None` is nothing.
    pub(super) fn note_hands(&mut self, old: Option<&Slice>, new: Option<&Slice>) {
        let Some(changed) = &mut self.hands.0 else { return };
        if let (Some(old), Some(new)) = (old, new)
            && old.service == new.service
            && targets(old).eq(targets(new))
        {
            return;
        }
        for (slice, by) in [(old, -1), (new, 1)] {
            let Some((slice, service)) = slice.and_then(|slice| Some((slice, slice.service.as_ref()?))) else {
                continue;
            };
            let named = changed.entry(service.clone()).or_default();
            targets(slice).for_each(|target| *named.entry(target).or_default() += by);
        }
    }

    /// Whether somebody else may stand behind an address since the last [`Model::take_inherited`].
    pub fn has_new_hands(&self) -> bool {
        self.hands.0.as_ref().is_some_and(|changed| changed.values().flat_map(Named::values).any(|by| *by > 0))
    }

    /// Where somebody new stands behind an address that another one had at the last call; nothing at the first one.
    pub fn take_inherited(&mut self) -> Inherited {
        let changed = self.hands.0.replace(HashMap::new()).unwrap_or_default();
        let mut inherited = Inherited::new();
        for (service, by) in changed {
            let mut now = Named::new();
            for target in self.slices_of(&service).flat_map(|(_, slice)| targets(slice)) {
                *now.entry(target).or_default() += 1;
            }
            let before = |target: &(IpAddr, u64)| now.get(target).unwrap_or(&0) - by.get(target).unwrap_or(&0);
            let had: HashSet<IpAddr> = by.keys().chain(now.keys()).filter(|t| before(t) > 0).map(|t| t.0).collect();
            let got = now.keys().filter(|target| before(target) == 0).map(|target| target.0);
            let heirs: HashSet<IpAddr> = got.filter(|address| had.contains(address)).collect();
            if !heirs.is_empty() {
                inherited.insert(service, heirs);
            }
        }
        inherited
    }
}

/// Addresses with the objects behind them, where somebody says which.
fn targets(slice: &Slice) -> impl Iterator<Item = (IpAddr, u64)> {
    slice.endpoints.iter().filter_map(|endpoint| Some((endpoint.address, endpoint.target?)))
}
