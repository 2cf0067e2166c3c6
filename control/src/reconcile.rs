//! Which flows end because the tables changed. A walk through the connection table judges every connection against
//! the tables as they are now, so that it does not matter which event made them so, nor whether we were there to see it.
//! It goes in small steps, so that control publishes and answers in between (`walk.rs`), and takes a share of a core at
//! most (`pace.rs`). Control only finds flows: workers end them.
//!
//! - A flow whose port is gone, on either side, ends: the pod that had it is gone, and its address may be given anew.
//! - UDP through a Service ends once its endpoint is no longer a choice; the next datagram is given another one.
//! - TCP and SCTP through a Service run on while any slice still has the endpoint, ready or not: they have more to lose than a
//!   datagram. What their clients send after the end is answered with a reset or an abort, and they begin anew.
//! - Whatever leads to an endpoint's address ends where that address is another pod's by now: nobody gets his predecessor's.

mod pace;
mod walk;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use atalho_engine::conntrack::{ConnTable, FlowRef, Suspect, Suspicion};
use atalho_engine::flow::Protocol;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::service::{Backends, Vip, VipKey};
use atalho_engine::tables::{FastMap, Tables};

use crate::model::Inherited;

pub use pace::Pace;
pub use walk::Walk;

/// Buckets between two looks at whether it is enough: some microseconds.
const STEP: u64 = 8;
/// The walk waits for workers while so many flows wait for room in their queues: a table of flows that all end is neither
/// held twice nor gone through again for each that finds room.
const WAITING_MAX: usize = 8192;

/// Service and endpoint of a flow that is not among the choices: is the endpoint still in a slice of that Service?
pub type IsKnown<'a> = dyn Fn(&str, (IpAddr, u16)) -> bool + 'a;

/// What is known of the cluster, as far as tables do not say it.
pub struct Cluster<'a> {
    pub is_known: &'a IsKnown<'a>,
    pub inherited: &'a [&'a Inherited],
}

/// What looking for flows needs to remember.
#[derive(Debug, Default)]
pub struct Reconciler {
    /// Names of VIPs that went away, for the TCP flows that they left.
    departed: HashMap<VipKey, Arc<str>>,
    /// Endpoints that a VIP may choose; of VIPs that have flows.
    choices: FastMap<VipKey, Choices>,
    /// Found, but not yet handed to a worker whose queue was full.
    waiting: HashSet<FlowRef>,
}

impl Reconciler {
    /// Notes that `vip` went away.
    pub fn depart(&mut self, key: VipKey, vip: &Vip) {
        self.departed.insert(key, vip.service.clone());
    }

    /// Forgets what these tables say themselves, and what can be made again.
    pub fn tidy(&mut self, tables: &Tables) {
        self.departed.retain(|key, _| tables.services.look_up(key).is_none());
        self.choices = FastMap::default();
    }

    /// Goes on with the walk until it is enough, it rests, or many wait for workers. Returns since when the changes waited
    /// whose rounds are over.
    pub fn walk(
        &mut self,
        walk: &mut Walk,
        table: &ConnTable,
        tables: &Tables,
        is_known: &IsKnown<'_>,
        mut is_enough: impl FnMut() -> bool,
    ) -> Vec<Instant> {
        let mut over = Vec::new();
        while self.waiting.len() < WAITING_MAX
            && let Some(buckets) = walk.ahead(STEP)
        {
            let inherited: Vec<&Inherited> = walk.inherited().collect();
            self.scan(table, buckets.clone(), tables, &Cluster { is_known, inherited: &inherited });
            over.extend(walk.go(&buckets));
            if is_enough() {
                break;
            }
        }
        over
    }

    /// Looks for what must end in some of the table's buckets.
    pub fn scan(&mut self, table: &ConnTable, buckets: Range<u64>, tables: &Tables, cluster: &Cluster<'_>) {
        let Self { departed, choices, waiting } = self;
        let mut judge = Judge { tables, departed, cluster, choices };
        table.suspects_in(buckets, &tables.ports, &mut |suspect| {
            if judge.ends(&suspect) {
                waiting.insert(suspect.at);
            }
        });
    }

    /// How many of those that were found wait for room in a worker's queue.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Hands what was found to the workers and wakes those that sleep. `true`: all of it found room.
    pub fn hand_over(&mut self, queues: &[Arc<WorkerQueues>], wake: &(dyn Fn(usize) + Send + Sync)) -> bool {
        let mut rung = vec![false; queues.len()];
        self.waiting.retain(|at| {
            // Any worker may end any flow; by slot they share the work evenly.
            let Some(worker) = (at.slot as usize).checked_rem(queues.len()) else { return false };
            let taken = queues[worker].end_flows.push(*at).is_ok();
            rung[worker] |= taken;
            !taken
        });
        for (worker, _) in rung.iter().enumerate().filter(|(_, pushed)| **pushed) {
            if queues[worker].is_asleep() {
                wake(worker);
            }
        }
        self.waiting.is_empty()
    }
}

struct Judge<'a> {
    tables: &'a Tables,
    departed: &'a HashMap<VipKey, Arc<str>>,
    cluster: &'a Cluster<'a>,
    choices: &'a mut FastMap<VipKey, Choices>,
}

impl Judge<'_> {
    fn ends(&mut self, suspect: &Suspect) -> bool {
        let Suspicion::Chosen { vip: key, endpoint } = suspect.why else { return true };
        let vip = self.tables.services.look_up(&key);
        let service = vip.map(|vip| &vip.service).or_else(|| self.departed.get(&key));
        if service.is_some_and(|service| self.has_heir(service, endpoint.0)) {
            return true;
        }
        if vip.is_some_and(|vip| self.is_choice(key, vip, endpoint)) {
            return false;
        }
        if matches!(key.protocol, Protocol::Udp) {
            return true;
        }
        // A Service that nobody can name went while we were away: nobody can vouch for its endpoint either.
        !service.is_some_and(|service| (self.cluster.is_known)(service, endpoint))
    }

    fn is_choice(&mut self, key: VipKey, vip: &Vip, endpoint: (IpAddr, u16)) -> bool {
        let choices = self.choices.entry(key).or_insert_with(|| Choices::of(vip));
        if !choices.are_of(vip) {
            *choices = Choices::of(vip);
        }
        choices.endpoints.contains_key(&endpoint)
    }

    /// `service`: as in the tables, with its port.
    fn has_heir(&self, service: &str, address: IpAddr) -> bool {
        let name = service.rsplit_once(':').map_or(service, |(name, _)| name);
        let inherited = self.cluster.inherited.iter().filter_map(|inherited| inherited.get(name));
        inherited.into_iter().any(|addresses| addresses.contains(&address))
    }
}

/// The endpoints that a VIP may choose, for clients on either side.
#[derive(Debug)]
struct Choices {
    of: [Arc<Backends>; 2],
    endpoints: FastMap<(IpAddr, u16), ()>,
}

impl Choices {
    fn of(vip: &Vip) -> Self {
        let of = [&vip.inside, &vip.outside].map(|side| side.backends.clone());
        let endpoints = of.iter().flat_map(|backends| &backends.endpoints).map(|e| ((e.address, e.port), ())).collect();
        Self { of, endpoints }
    }

    /// Whether the VIP has not changed since.
    fn are_of(&self, vip: &Vip) -> bool {
        Arc::ptr_eq(&self.of[0], &vip.inside.backends) && Arc::ptr_eq(&self.of[1], &vip.outside.backends)
    }
}

#[cfg(test)]
mod tests;
