//! The loop from a change to the workers: take changes, compile, put next hops and kernel claims in place, swap the
//! tables, give up what is no longer wanted, and see to the flows that the change concerns.
//!
//! The first change is published at once; those that follow close behind gather, so that a storm of them makes at most
//! twenty publications a second. Nothing is published before every first list is complete. The tables before are kept
//! here until every worker has passed a batch: control frees them, never a worker.

mod intake;
mod next_hops;
mod retired;
mod routing;
mod scan;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use atalho_engine::conntrack::{ConnTable, Epochs};
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::NextHops;
use atalho_engine::tables::Tables;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch as latest};

use crate::compile::{Compiled, NextHopIndexes, compile};
use crate::config::Config;
use crate::dataplane::Dataplane;
use crate::health_checks::{Answers, HealthChecks};
use crate::in_force::{InForce, Wanted};
use crate::model::{Kind, Model};
use crate::node::follow::Picture;
use crate::node::neighbours::{Asked, Neighbours};
use crate::node::routes::Routes;
use crate::reconcile::{Pace, Reconciler, Walk};
use crate::shared::{Part, Shared};
use crate::watch::{Feed, KINDS};
use crate::why::View;

/// Shortest time between two publications.
const PAUSE: Duration = Duration::from_millis(50);
/// What failed is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// Asked-for neighbours are looked through for old ones so often.
const AGE: Duration = Duration::from_secs(60);

/// What the loop takes in.
pub struct Inputs<'a> {
    pub feed: mpsc::Receiver<Feed>,
    pub picture: latest::Receiver<Picture>,
    pub asks: &'a mut Asks,
}

/// What others ask of the loop; it outlives a loop that panics.
pub struct Asks {
    pub neighbours: mpsc::Receiver<IpAddr>,
    pub questions: mpsc::Receiver<Question>,
}

/// A question that only the owner of the model can answer: called with a view of it, or with why there is none.
pub type Question = Box<dyn FnOnce(Result<&View<'_>, String>) + Send>;

/// What the loop works on, handed over by whoever starts it.
#[derive(Clone)]
pub struct Parts {
    pub config: Config,
    pub node: String,
    pub snapshot: Arc<ArcSwap<Tables>>,
    pub next_hops: NextHops,
    pub table: ConnTable,
    pub epochs: Arc<Epochs>,
    pub queues: Vec<Arc<WorkerQueues>>,
    pub wake: Arc<dyn Fn(usize) + Send + Sync>,
    /// Called after every publication and every changed next hop.
    pub published: Arc<dyn Fn() + Send + Sync>,
    pub dataplane: Arc<Mutex<Box<dyn Dataplane>>>,
    pub shared: Arc<Shared>,
    /// Told what to answer on the health-check node ports.
    pub health_checks: latest::Sender<Arc<Answers>>,
    pub f1: u32,
}

/// The loop's state.
pub struct Publisher {
    parts: Parts,
    model: Model,
    indexes: NextHopIndexes,
    compiled: Option<Compiled>,
    in_force: InForce,
    routes: Routes,
    neighbours: Neighbours,
    asked: Asked,
    /// Next hops that this run wrote.
    written: BTreeSet<u32>,
    reconciler: Reconciler,
    health_checks: HealthChecks,
    /// The Node object of this node has been known.
    node_was_there: bool,
    picture: Picture,
    waiting_for: BTreeSet<Kind>,
    /// Something that routes into the funnel depend on has changed since they were last compared.
    routes_stale: bool,
    /// When the endpoints controller saw what the waiting changes of slices tell of.
    triggers: Vec<Timestamp>,
    /// When the first change that is not published came.
    changed: Option<Instant>,
    published_at: Option<Instant>,
    retry_at: Option<Instant>,
    /// When the walk for flows that end goes on.
    scan_at: Option<Instant>,
    walk: Walk,
    pace: Pace,
    lap: scan::Lap,
    age_at: Instant,
}

impl Publisher {
    /// Takes over what an earlier daemon left in the kernel. Runs inside the runtime.
    pub fn new(parts: Parts) -> Result<Self, String> {
        let in_force = InForce::adopt(&mut **lock(&parts.dataplane))
            .map_err(|why| format!("reading what the kernel side has in force: {why}"))?;
        let routes = Routes::new(parts.f1).map_err(|error| error.to_string())?;
        let neighbours = Neighbours::new().map_err(|error| error.to_string())?;
        parts.shared.lock().waiting_for = KINDS.to_vec();
        Ok(Self {
            model: Model::new(&parts.config),
            indexes: NextHopIndexes::adopt(&parts.next_hops),
            compiled: None,
            in_force,
            routes,
            neighbours,
            asked: Asked::default(),
            written: BTreeSet::new(),
            reconciler: Reconciler::default(),
            health_checks: HealthChecks::default(),
            node_was_there: false,
            picture: Picture::default(),
            waiting_for: KINDS.into(),
            routes_stale: true,
            triggers: Vec::new(),
            changed: None,
            published_at: None,
            retry_at: None,
            scan_at: None,
            walk: Walk::new(parts.table.buckets()),
            pace: Pace::new(Instant::now()),
            lap: scan::Lap::default(),
            age_at: Instant::now() + AGE,
            parts,
        })
    }

    /// Runs until the source of changes is gone.
    pub async fn run(mut self, mut inputs: Inputs<'_>) {
        loop {
            let due = self.due();
            let sleep = tokio::time::sleep_until(due.unwrap_or(self.age_at).into());
            tokio::select! {
                feed = inputs.feed.recv() => {
                    let Some(feed) = feed else { return };
                    self.note_waiting(1 + inputs.feed.len());
                    self.take(feed);
                    while let Ok(feed) = inputs.feed.try_recv() {
                        self.take(feed);
                    }
                }
                changed = inputs.picture.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let picture = inputs.picture.borrow_and_update().clone();
                    self.look_at(picture).await;
                }
                Some(address) = inputs.asks.neighbours.recv() => {
                    let mut new = self.asked.ask(address, Instant::now());
                    while let Ok(address) = inputs.asks.neighbours.try_recv() {
                        new |= self.asked.ask(address, Instant::now());
                    }
                    if new {
                        self.sync_neighbours().await;
                    }
                }
                Some(question) = inputs.asks.questions.recv() => self.answer(question),
                () = sleep => {}
            }
            self.act(Instant::now()).await;
        }
    }

    /// When the next piece of work is due; `None`: nothing waits.
    fn due(&self) -> Option<Instant> {
        let publication = self.changed.filter(|_| self.may_publish()).map(|since| match self.published_at {
            Some(at) => since.max(at + PAUSE),
            None => since,
        });
        [publication, self.retry_at, self.scan_at].into_iter().flatten().min()
    }

    async fn act(&mut self, now: Instant) {
        let rested = self.published_at.is_none_or(|at| now >= at + PAUSE);
        if self.changed.is_some() && self.may_publish() && rested {
            self.publish().await;
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry().await;
        }
        if self.scan_at.is_some_and(|at| now >= at) {
            self.scan();
            // While there is credit the next slice is due at once: whoever else lives on this thread comes first.
            tokio::task::yield_now().await;
        }
        if now >= self.age_at {
            self.age_at = now + AGE;
            self.age(now).await;
        }
    }

    fn may_publish(&self) -> bool {
        self.waiting_for.is_empty() && !self.picture.facts.links.is_empty()
    }

    async fn publish(&mut self) {
        let Some(since) = self.changed.take() else { return };
        let started = Instant::now();
        let before = self.parts.snapshot.load_full();
        let first = self.compiled.is_none();
        let previous = self.compiled.take();
        let compiled = compile(&self.model, &self.picture.facts, &self.parts.config, previous, &mut self.indexes);

        let mut failed = self.write_next_hops(&compiled);
        let whole = first || compiled.delta.everything || self.retry_at.is_some();
        let wanted = wanted_of(&compiled);
        let claims = (!whole).then_some(compiled.delta.claims_added.as_slice());
        failed.extend(self.in_force.add(wanted, claims, &mut **lock(&self.parts.dataplane)));

        let swapped = first || !Arc::ptr_eq(&before, &compiled.tables);
        if swapped {
            self.parts.snapshot.store(compiled.tables.clone());
        }
        let published = Instant::now();
        (self.parts.published)();

        let claims = (!whole).then_some(compiled.delta.claims_removed.as_slice());
        failed.extend(self.in_force.remove(wanted_of(&compiled), claims, &mut **lock(&self.parts.dataplane)));
        self.clear_next_hops(&compiled);
        self.retry_at = (!failed.is_empty()).then(|| published + RETRY);

        // A life of control that follows one that panicked finds its tables in the snapshot.
        let keys = if first {
            before.services.iter().map(|(key, _)| *key).collect()
        } else {
            compiled.delta.vips_removed.clone()
        };
        for key in keys.iter().filter(|key| compiled.tables.services.look_up(key).is_none()) {
            if let Some(vip) = before.services.look_up(key) {
                self.reconciler.depart(*key, vip);
            }
        }
        let node_ports = compiled.node_port_addresses();
        if let Some(answers) = self.health_checks.update(&self.model, &self.parts.node, node_ports) {
            // Nobody listens while control ends.
            let _ = self.parts.health_checks.send(answers);
        }
        // An address that becomes a Service's, or is one no longer, is claimed or given up: of all others no route tells.
        let addresses_changed = !compiled.delta.claims_added.is_empty() || !compiled.delta.claims_removed.is_empty();
        let services_changed = !compiled.delta.vips_removed.is_empty() || !compiled.delta.vips_changed.is_empty();
        self.routes_stale |= whole
            || addresses_changed
            || !Arc::ptr_eq(&before.node, &compiled.tables.node)
            || !Arc::ptr_eq(&before.cluster, &compiled.tables.cluster);
        if whole || services_changed || self.model.has_new_hands() || before.ports != compiled.tables.ports {
            // The time from the start to the first tables is no answer to a change.
            self.walk.publish(self.parts.epochs.advance(), if first { published } else { since });
            self.scan_at.get_or_insert(self.pace.due());
        }

        {
            let mut shared = self.parts.shared.lock();
            shared.generation = compiled.tables.generation;
            shared.services = self.model.service_count() as u64;
            shared.endpoints = self.model.endpoint_count() as u64;
            shared.no_local_endpoints = compiled.no_local_endpoints();
            shared.refusals = self.model.refusals();
            shared.refusals.extend(compiled.refusals.iter().cloned());
            shared.unresolved = self.unresolved(&compiled);
            shared.set_faults(Part::Dataplane, failed);
            shared.waiting_since = None;
            shared.last_publication = Some(SystemTime::now());
            shared.changes.put_in_force();
            shared.compile_and_apply.record(started.elapsed());
            let of_its_kind =
                if compiled.delta.everything { &mut shared.compile_everything } else { &mut shared.compile_changes };
            of_its_kind.record(started.elapsed());
            let now = Timestamp::now();
            for trigger in self.triggers.drain(..) {
                // Another machine's clock may be ahead of ours.
                shared.network_programming.record(now.duration_since(trigger).try_into().unwrap_or_default());
            }
            if swapped {
                shared.snapshots += 1;
                // The time from the start to the first tables is no answer to a change.
                if !first {
                    shared.change_to_published.record(published - since);
                }
            }
            shared.node_leaves = match self.model.node(&self.parts.node) {
                Some(node) => {
                    self.node_was_there = true;
                    node.deleting || node.autoscaler_taint
                }
                // Manifests may do without it.
                None => self.node_was_there,
            };
        }
        if swapped {
            tokio::spawn(retired::see_out(
                before,
                self.parts.epochs.clone(),
                self.parts.queues.clone(),
                (!first).then_some(since),
                self.parts.shared.clone(),
            ));
        }
        self.compiled = Some(compiled);
        self.published_at = Some(published);
        if self.routes_stale {
            self.sync_routes().await;
        }
        self.sync_neighbours().await;
        if first {
            self.parts.shared.lock().ready = true;
            tracing::info!("the first tables are in use");
            crate::notify::sd_notify("READY=1");
        }
    }

    /// Tries again what failed, without compiling.
    async fn retry(&mut self) {
        self.retry_at = None;
        let Some(compiled) = &self.compiled else { return };
        let mut failed = self.in_force.add(wanted_of(compiled), None, &mut **lock(&self.parts.dataplane));
        failed.extend(self.in_force.remove(wanted_of(compiled), None, &mut **lock(&self.parts.dataplane)));
        let again = !failed.is_empty();
        self.parts.shared.lock().set_faults(Part::Dataplane, failed);
        let routes = self.sync_routes().await;
        if again || !routes {
            self.retry_at = Some(Instant::now() + RETRY);
        }
    }

    fn answer(&self, question: Question) {
        let Some(compiled) = &self.compiled else {
            return question(Err("no tables yet: the first lists are not complete; see `atalho status`".to_owned()));
        };
        let view = View { model: &self.model, compiled, config: &self.parts.config, facts: &self.picture.facts };
        question(Ok(&view));
    }
}

fn lock(dataplane: &Mutex<Box<dyn Dataplane>>) -> std::sync::MutexGuard<'_, Box<dyn Dataplane>> {
    dataplane.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn wanted_of(compiled: &Compiled) -> Wanted<'_> {
    Wanted { claims: &compiled.claims, ranges: &compiled.ranges, pods: &compiled.pod_ports }
}
