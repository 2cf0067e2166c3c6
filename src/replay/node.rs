//! One node with one worker, in memory: the pipeline, the slow path, the connection table, and what control does to them.
//! Everything happens in one thread and at the clock's time, so nothing ever waits for another.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use atalho_control::config::Config;
use atalho_control::reconcile::{Cluster, Reconciler};
use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs, ExpiryScan};
use atalho_engine::counters::Counters;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::NextHops;
use atalho_engine::pipeline::{Engine, EngineParts};
use atalho_engine::tables::Tables;
use atalho_layout::{SECRET_WORDS, affinity};
use atalho_slowpath::{Limits, Parts, SlowPath};

use super::objects::Objects;
use super::report::End;
use super::worker::Cause;

/// As on a node.
const HANDOFF_BUFFERS: usize = 512;
/// Pods of one node, the node, and everybody on the uplink.
const NEXT_HOPS: usize = 16_384;

/// The node.
pub struct Node {
    pub(super) engine: Engine,
    pub(super) slow: SlowPath,
    pub(super) queues: Arc<WorkerQueues>,
    table: ConnTable,
    epochs: Arc<Epochs>,
    pub(super) next_hops: NextHops,
    snapshot: Arc<ArcSwap<Tables>>,
    pub(super) tables: Arc<Tables>,
    /// Next hops that are written.
    written: BTreeSet<u32>,
    reconciler: Reconciler,
    scan: ExpiryScan,
    /// Whose packet stands in a buffer that the slow path keeps, by the buffer's address.
    pub(super) waiting: HashMap<usize, Cause>,
    /// Packets whose end is known and not yet told: what they cause is all written first.
    pub(super) ended: Vec<(u64, End)>,
}

impl Node {
    /// `seed`: where secrets and draws come from.
    pub fn new(config: &Config, seed: u64) -> Self {
        let mut draws = Draws(seed);
        let secret: [u64; SECRET_WORDS] = std::array::from_fn(|_| draws.next());
        let table = ConnTable::in_memory(config.conntrack.max_flows as usize, &secret);
        let epochs = Arc::new(Epochs::new());
        let next_hops = NextHops::in_memory(NEXT_HOPS);
        let queues = WorkerQueues::new(HANDOFF_BUFFERS);
        let snapshot = Arc::new(ArcSwap::from_pointee(Tables::default()));
        let engine = Engine::new(EngineParts {
            worker: 0,
            table,
            affinity: AffinityTable::in_memory(affinity::ENTRIES, &secret),
            epochs: epochs.clone(),
            next_hops,
            counters: Arc::new(Counters::default()),
            seed: draws.next(),
            processor: (),
        });
        let read_snapshot = snapshot.clone();
        let parts = Parts {
            queues: vec![queues.clone()],
            tables: Box::new(move || read_snapshot.load_full()),
            next_hops,
            // All neighbours are known.
            ask_neighbour: Box::new(|_| {}),
            // Nobody sleeps.
            wake_worker: Box::new(|_| {}),
        };
        Self {
            engine,
            slow: SlowPath::new(parts, Limits::default()),
            queues,
            table,
            epochs,
            next_hops,
            tables: snapshot.load_full(),
            snapshot,
            written: BTreeSet::new(),
            reconciler: Reconciler::default(),
            scan: ExpiryScan::new(0, 1),
            waiting: HashMap::new(),
            ended: Vec::new(),
        }
    }

    pub fn table(&self) -> &ConnTable {
        &self.table
    }

    /// Puts the objects' tables in force and ends the flows that this concerns.
    pub fn publish(&mut self, objects: &Objects) {
        let compiled = objects.compiled();
        for (index, next_hop) in &compiled.next_hops {
            // More pods than next hops: their packets are dropped as next_hop_gone, as on a node.
            if (*index as usize) < NEXT_HOPS {
                self.next_hops.set(*index, next_hop);
                self.written.insert(*index);
            }
        }
        let before = std::mem::replace(&mut self.tables, compiled.tables.clone());
        self.snapshot.store(self.tables.clone());
        self.written.retain(|index| {
            let is_wanted = compiled.next_hops.contains_key(index);
            if !is_wanted {
                self.next_hops.clear(*index);
            }
            is_wanted
        });
        for key in &compiled.delta.vips_removed {
            if let Some(vip) = before.services.look_up(key) {
                self.reconciler.depart(*key, vip);
            }
        }
        if self.table.count() > 0 {
            self.end_flows(objects);
        }
    }

    fn end_flows(&mut self, objects: &Objects) {
        let is_known = |service: &str, endpoint| objects.knows_endpoint(service, endpoint);
        let cluster = Cluster { is_known: &is_known, inherited: &[objects.inherited()] };
        self.reconciler.scan(&self.table, 0..self.table.buckets(), &self.tables, &cluster);
        self.reconciler.tidy(&self.tables);
        loop {
            let is_all = self.reconciler.hand_over(std::slice::from_ref(&self.queues), &|_| {});
            while let Some(at) = self.queues.end_flows.pop() {
                self.table.end(&self.epochs, at);
            }
            if is_all {
                break;
            }
        }
        self.reclaim();
    }

    /// Ends what has been idle for too long at `now_s`.
    pub fn expire(&mut self, now_s: u32) {
        if self.table.count() > 0 {
            self.table.expire(&mut self.scan, u32::MAX, now_s, &self.tables.settings.timeouts, &self.epochs);
            self.reclaim();
        }
    }

    /// Nobody reads the table between two packets, so what was removed may be used again at once.
    pub(super) fn reclaim(&self) {
        if self.epochs.waits() {
            self.epochs.mark_safe(self.epochs.advance());
        }
    }

    /// Whether packets wait in the slow path, so that [`Self::tick`] has to be called as time goes by.
    pub fn has_waiting(&self) -> bool {
        self.slow.has_waiting()
    }

    /// Whether every packet that the engine saw ended in one place.
    pub fn is_even(&self) -> bool {
        self.engine.counters().books().is_even() && self.slow.counters().books().is_even()
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): from one seed many.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
