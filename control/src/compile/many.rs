//! Many Services at once. None needs to know of another, so for the first tables they are shared out among as many threads
//! as control has cores; later the cores belong to the workers, and most tables of choice stand already.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use atalho_engine::service::{Services, Vip, VipKey};

use super::services::{self, NoLocal, Parts, Surroundings};
use crate::model::{Model, Refusal, ServiceName};

/// So many are compiled sooner than a thread has started.
const ALONE_MAX: usize = 64;

/// What came of one Service.
pub(super) struct Outcome {
    pub name: ServiceName,
    /// All its VIPs, in order.
    pub owned: Vec<VipKey>,
    /// Of them, those that are new or other than before.
    pub changed: Vec<(VipKey, Arc<Vip>)>,
    pub refusals: Vec<Refusal>,
    pub no_local: NoLocal,
}

/// Compiles those of `dirty` that are in force, in their order.
pub(super) fn compiled(
    model: &Model,
    dirty: &BTreeSet<ServiceName>,
    around: &Surroundings,
    before: &Services,
) -> Vec<Outcome> {
    let names: Vec<&ServiceName> = dirty.iter().collect();
    let some = |names: &[&ServiceName]| -> Vec<Outcome> {
        names.iter().filter_map(|name| one(model, name, around, before)).collect()
    };
    let is_first = before.is_empty() && names.len() > ALONE_MAX;
    let threads = if is_first { thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    let mut parts = names.chunks(names.len().div_ceil(threads).max(1));
    let own = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(move || some(part))).collect();
        let mut all = some(own);
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        all
    })
}

fn one(model: &Model, name: &ServiceName, around: &Surroundings, before: &Services) -> Option<Outcome> {
    let Parts { vips, refusals, no_local } = services::vips(model, name, model.service(name)?, around, before);
    let owned = vips.keys().copied().collect();
    let changed = vips.into_iter().filter(|(key, vip)| before.look_up(key) != Some(vip));
    let changed = changed.map(|(key, vip)| (key, Arc::new(vip))).collect();
    Some(Outcome { name: name.clone(), owned, changed, refusals, no_local })
}
