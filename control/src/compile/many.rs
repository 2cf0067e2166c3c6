//! Many Services at once. None needs to know of another, so for the first tables they are shared out among as many threads
//! as control has cores; later the cores belong to the workers, and most tables of choice stand already. They are shared
//! out a few at a time: a core that others use as well gets less done.

use std::collections::BTreeSet;
use std::iter;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use atalho_engine::service::{Services, Vip, VipKey};

use super::services::{self, NoLocal, Parts, Surroundings};
use crate::model::{Model, Refusal, ServiceName};

/// So many are compiled sooner than a thread has started.
const ALONE_MAX: usize = 64;
/// So many at a time.
const SHARE: usize = 16;

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
    let shares = Mutex::new(names.chunks(SHARE).enumerate());
    let next = || shares.lock().unwrap_or_else(PoisonError::into_inner).next();
    let until_all_are_taken =
        || -> Vec<(usize, Vec<Outcome>)> { iter::from_fn(next).map(|(place, share)| (place, some(share))).collect() };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(until_all_are_taken)).collect();
        let mut done = until_all_are_taken();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().flat_map(|(_, outcomes)| outcomes).collect()
}

fn one(model: &Model, name: &ServiceName, around: &Surroundings, before: &Services) -> Option<Outcome> {
    let Parts { vips, refusals, no_local } = services::vips(model, name, model.service(name)?, around, before);
    let owned = vips.keys().copied().collect();
    let changed = vips.into_iter().filter(|(key, vip)| before.look_up(key) != Some(vip));
    let changed = changed.map(|(key, vip)| (key, Arc::new(vip))).collect();
    Some(Outcome { name: name.clone(), owned, changed, refusals, no_local })
}
