//! Which flows end because the tables changed. A scan of the whole connection table judges every connection against
//! the tables as they are now, so that it does not matter which event made them so, nor whether we were there to see it.
//! Control only finds them: workers end them.
//!
//! - A flow whose port is gone, on either side, ends: the pod that had it is gone, and its address may be given anew.
//! - UDP through a Service ends once its endpoint is no longer a choice; the next datagram is given another one.
//! - TCP and SCTP through a Service run on while any slice still has the endpoint, ready or not: they have more to lose than a
//!   datagram. What their clients send after the end is answered with a reset or an abort, and they begin anew.
//! - Whatever leads to an endpoint's address ends where that address is another pod's by now: nobody gets his predecessor's.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atalho_engine::conntrack::{ConnTable, Connection, FlowRef};
use atalho_engine::flow::Protocol;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::service::{Vip, VipKey};
use atalho_engine::tables::Tables;

use crate::model::Inherited;

/// Shortest time between two scans: changes gather meanwhile.
pub const PAUSE: Duration = Duration::from_millis(100);

/// The time from one scan, which took so long, to the next: scans take a tenth of a core at most, so that with a million flows
/// changes are not kept waiting for them.
pub fn pause_after(scan: Duration) -> Duration {
    PAUSE.max(10 * scan)
}

/// Service and endpoint of a flow that is not among the choices: is the endpoint still in a slice of that Service?
pub type IsKnown<'a> = dyn Fn(&str, (IpAddr, u16)) -> bool + 'a;

/// What is known of the cluster, as far as tables do not say it.
pub struct Cluster<'a> {
    pub is_known: &'a IsKnown<'a>,
    pub inherited: &'a Inherited,
}

/// What scans need to remember.
#[derive(Debug, Default)]
pub struct Reconciler {
    /// Names of VIPs that went away, for the TCP flows that they left.
    departed: HashMap<VipKey, Arc<str>>,
    /// Found, but not yet handed to a worker whose queue was full.
    waiting: Vec<FlowRef>,
}

impl Reconciler {
    /// Notes that `vip` went away.
    pub fn depart(&mut self, key: VipKey, vip: &Vip) {
        self.departed.insert(key, vip.service.clone());
    }

    /// Scans the table for what must end.
    pub fn scan(&mut self, table: &ConnTable, tables: &Tables, cluster: &Cluster<'_>) {
        self.departed.retain(|key, _| tables.services.look_up(key).is_none());
        let mut judge = Judge { tables, departed: &self.departed, cluster, choices: HashMap::new() };
        // Those that wait already were found by reasons that may be forgotten meanwhile.
        let wait: HashSet<FlowRef> = self.waiting.iter().copied().collect();
        let found = table.connections().filter(|connection| judge.ends(connection)).map(|c| c.at);
        self.waiting.extend(found.filter(|at| !wait.contains(at)));
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
    /// Endpoints that a VIP may choose now; one entry per VIP that has flows.
    choices: HashMap<VipKey, HashSet<(IpAddr, u16)>>,
}

impl Judge<'_> {
    fn ends(&mut self, connection: &Connection) -> bool {
        let has_port = |ifindex: u32| self.tables.ports.contains_key(&ifindex);
        if !has_port(connection.original.ingress) || !has_port(connection.reply.ingress) {
            return true;
        }
        if !connection.is_service {
            return false;
        }
        let key = &connection.original.key;
        let vip_key = VipKey { address: key.dst, protocol: key.protocol, port: key.dst_port };
        let endpoint = (connection.original.rewrite.dst, connection.original.rewrite.dst_port);
        let vip = self.tables.services.look_up(&vip_key);
        let service = vip.map(|vip| &vip.service).or_else(|| self.departed.get(&vip_key));
        if service.is_some_and(|service| self.has_heir(service, endpoint.0)) {
            return true;
        }
        if let Some(vip) = vip {
            let choices = self.choices.entry(vip_key).or_insert_with(|| choices_of(vip));
            if choices.contains(&endpoint) {
                return false;
            }
        }
        if matches!(key.protocol, Protocol::Udp) {
            return true;
        }
        // A Service that nobody can name went while we were away: nobody can vouch for its endpoint either.
        !service.is_some_and(|service| (self.cluster.is_known)(service, endpoint))
    }

    /// `service`: as in the tables, with its port.
    fn has_heir(&self, service: &str, address: IpAddr) -> bool {
        let name = service.rsplit_once(':').map_or(service, |(name, _)| name);
        self.cluster.inherited.get(name).is_some_and(|addresses| addresses.contains(&address))
    }
}

fn choices_of(vip: &Vip) -> HashSet<(IpAddr, u16)> {
    let sides = [&vip.inside, &vip.outside];
    sides.iter().flat_map(|side| side.backends.endpoints.iter()).map(|e| (e.address, e.port)).collect()
}

#[cfg(test)]
mod tests;
