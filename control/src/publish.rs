//! The loop from a change to the workers: take changes, compile, put next hops and kernel claims in place, swap the
//! tables, give up what is no longer wanted, and see to the flows that the change concerns.
//!
//! The first change is published at once; those that follow close behind gather, so that a storm of them makes at most
//! twenty publications a second. Nothing is published before every first list is complete. The tables before are kept
//! here until every worker has passed a batch: control frees them, never a worker.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use atalho_engine::conntrack::{ConnTable, Epochs};
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::NextHops;
use atalho_engine::service::VipKind;
use atalho_engine::tables::Tables;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch as latest};

use crate::compile::{Compiled, NextHopIndexes, compile};
use crate::config::Config;
use crate::dataplane::Dataplane;
use crate::in_force::{InForce, Wanted};
use crate::model::{Change, EndpointState, Kind, Model, Object};
use crate::node::follow::Picture;
use crate::node::neighbours::{Asked, Neighbours};
use crate::node::routes::{Routes, Wanted as WantedRoutes};
use crate::reconcile::{self, Reconciler};
use crate::shared::{Part, Shared};
use crate::watch::{Feed, KINDS};
use crate::why::{Answer, Query, View, answer};

/// Shortest time between two publications.
const PAUSE: Duration = Duration::from_millis(50);
/// What failed is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// Asked-for neighbours are looked through for old ones so often.
const AGE: Duration = Duration::from_secs(60);
/// Retired tables are looked at so often while a reader still holds them.
const HELD: Duration = Duration::from_millis(20);

/// Trigger times kept for one publication; a storm of changes is measured by its first ones.
const TRIGGERS_MAX: usize = 1024;
/// k8s.io/api/core/v1 annotation_key_constants.go, EndpointsLastChangeTriggerTime.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What the loop takes in.
pub struct Inputs {
    pub feed: mpsc::Receiver<Feed>,
    pub picture: latest::Receiver<Picture>,
    pub neighbours: mpsc::Receiver<IpAddr>,
    pub questions: mpsc::Receiver<Question>,
}

/// A question that only the owner of the model can answer.
pub struct Question {
    pub queries: Vec<Query>,
    pub reply: oneshot::Sender<Result<Vec<Answer>, String>>,
}

/// What the loop works on, handed over by whoever starts it.
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
    scan_at: Option<Instant>,
    scanned_at: Option<Instant>,
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
            picture: Picture::default(),
            waiting_for: KINDS.into(),
            routes_stale: true,
            triggers: Vec::new(),
            changed: None,
            published_at: None,
            retry_at: None,
            scan_at: None,
            scanned_at: None,
            age_at: Instant::now() + AGE,
            parts,
        })
    }

    /// Runs until the source of changes is gone.
    pub async fn run(mut self, mut inputs: Inputs) {
        loop {
            let due = self.due();
            let sleep = tokio::time::sleep_until(due.unwrap_or(self.age_at).into());
            tokio::select! {
                feed = inputs.feed.recv() => {
                    let Some(feed) = feed else { return };
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
                Some(address) = inputs.neighbours.recv() => {
                    let mut new = self.asked.ask(address, Instant::now());
                    while let Ok(address) = inputs.neighbours.try_recv() {
                        new |= self.asked.ask(address, Instant::now());
                    }
                    if new {
                        self.sync_neighbours().await;
                    }
                }
                Some(question) = inputs.questions.recv() => self.answer(question),
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
        }
        if now >= self.age_at {
            self.age_at = now + AGE;
            self.age(now).await;
        }
    }

    fn may_publish(&self) -> bool {
        self.waiting_for.is_empty() && !self.picture.facts.links.is_empty()
    }

    fn change(&mut self) {
        let now = Instant::now();
        if self.changed.is_none() {
            self.changed = Some(now);
            self.parts.shared.lock().waiting_since = Some(now);
        }
    }

    fn take(&mut self, feed: Feed) {
        match feed {
            Feed::Changes(changes) => {
                for change in changes {
                    let before = self.model.revision();
                    let trigger = trigger_of(&change);
                    self.model.apply(change);
                    if self.model.revision() != before {
                        self.change();
                        if self.compiled.is_some() && self.triggers.len() < TRIGGERS_MAX {
                            self.triggers.extend(trigger);
                        }
                    }
                }
            }
            Feed::Unparsed(refusals) => {
                self.model.set_unparsed(refusals);
                // Shown with the next publication, which is due even if no object changed.
                self.change();
            }
            Feed::Listed(kind) => {
                self.waiting_for.remove(&kind);
                self.parts.shared.lock().waiting_for = self.waiting_for.iter().copied().collect();
                self.change();
            }
            Feed::Trouble(kind, text) => {
                let mut shared = self.parts.shared.lock();
                if shared.troubles.get(&kind) != Some(&text) {
                    tracing::warn!("{text}");
                }
                shared.troubles.insert(kind, text);
            }
            Feed::Well(kind) => {
                if self.parts.shared.lock().troubles.remove(&kind).is_some() {
                    tracing::info!("{kind:?}: the API server answers again");
                }
            }
            Feed::ManifestsFault(faults) => self.parts.shared.lock().set_faults(Part::Manifests, faults),
        }
    }

    async fn look_at(&mut self, picture: Picture) {
        if self.picture.facts.links.is_empty() {
            // The first picture: neighbours that an earlier daemon was asked for go on being kept until they are old.
            let now = Instant::now();
            for (_, address) in picture.managed.iter().filter(|(interface, _)| *interface == picture.facts.uplink) {
                self.asked.ask(*address, now);
            }
        }
        let facts_changed = self.picture.facts != picture.facts;
        let managed_changed = self.picture.managed != picture.managed;
        let own_links_changed = self.picture.own_links_told != picture.own_links_told;
        self.picture = picture;
        if own_links_changed {
            self.keep_offloads();
        }
        if facts_changed {
            self.routes_stale = true;
            self.change();
        }
        if managed_changed && self.compiled.is_some() {
            self.sync_neighbours().await;
        }
    }

    /// With the funnel's offloads on, pods' packets reach workers unfinished and leave with a wrong checksum.
    fn keep_offloads(&self) {
        let kept = lock(&self.parts.dataplane).keep_offloads();
        let mut shared = self.parts.shared.lock();
        match kept {
            Ok(turned_off) => {
                for offload in &turned_off {
                    tracing::warn!("{offload} had been turned on by somebody; it is off again");
                }
                shared.offloads_turned_off += turned_off.len() as u64;
                shared.set_faults(Part::Offloads, Vec::new());
            }
            Err(why) => shared.set_faults(Part::Offloads, vec![why]),
        }
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

        for key in &compiled.delta.vips_removed {
            if let Some(vip) = before.services.look_up(key) {
                self.reconciler.depart(*key, vip);
            }
        }
        let services_changed = !compiled.delta.vips_removed.is_empty() || !compiled.delta.vips_changed.is_empty();
        self.routes_stale |= whole
            || services_changed
            || !Arc::ptr_eq(&before.node, &compiled.tables.node)
            || !Arc::ptr_eq(&before.cluster, &compiled.tables.cluster);
        if whole || services_changed || before.ports != compiled.tables.ports {
            self.scan_at = Some(self.scanned_at.map_or(published, |at| published.max(at + reconcile::PAUSE)));
        }

        {
            let mut shared = self.parts.shared.lock();
            shared.generation = compiled.tables.generation;
            shared.services = self.model.service_count() as u64;
            shared.endpoints = self.model.endpoint_count() as u64;
            shared.refusals = self.model.refusals();
            shared.refusals.extend(compiled.refusals.iter().cloned());
            shared.unresolved = self.unresolved(&compiled);
            shared.set_faults(Part::Dataplane, failed);
            shared.waiting_since = None;
            shared.last_publication = Some(SystemTime::now());
            shared.compile_and_apply.record(started.elapsed());
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
            if let Some(node) = self.model.node(&self.parts.node) {
                shared.node_leaves = node.deleting || node.autoscaler_taint;
            }
        }
        if swapped {
            tokio::spawn(see_out(
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

    /// Writes the next hops that differ.
    fn write_next_hops(&mut self, compiled: &Compiled) -> Vec<String> {
        let mut failed = Vec::new();
        let capacity = self.parts.next_hops.capacity() as u32;
        for (index, hop) in &compiled.next_hops {
            if *index >= capacity {
                failed.push(format!(
                    "next hop {index}: the array has room for {capacity}; packets by it are dropped as next_hop_gone"
                ));
                continue;
            }
            if self.parts.next_hops.get(*index) != Some(*hop) {
                self.parts.next_hops.set_identity(*index, self.indexes.identity(*index));
                self.parts.next_hops.set(*index, hop);
            }
            self.written.insert(*index);
        }
        failed
    }

    /// Clears the next hops that this run wrote and that nothing wants any more. What an earlier run left stays:
    /// established flows may still point at it.
    fn clear_next_hops(&mut self, compiled: &Compiled) {
        self.written.retain(|index| {
            let wanted = compiled.next_hops.contains_key(index);
            if !wanted {
                self.parts.next_hops.clear(*index);
            }
            wanted
        });
    }

    fn unresolved(&self, compiled: &Compiled) -> Vec<String> {
        compiled
            .wanted_neighbours
            .iter()
            .filter(|key| !self.picture.facts.neighbours.contains_key(*key))
            .map(|(interface, address)| match self.picture.facts.links.get(interface) {
                Some(link) => format!("{address} on {}", link.name),
                None => format!("{address} on interface {interface}, which is gone"),
            })
            .collect()
    }

    /// `false`: some route could not be written.
    async fn sync_routes(&mut self) -> bool {
        let Some(compiled) = &self.compiled else { return true };
        let tables = &compiled.tables;
        let vips = tables.services.iter().filter(|(_, vip)| vip.kind != VipKind::NodePort).map(|(key, _)| key.address);
        let wanted =
            WantedRoutes::new(&tables.cluster.service_cidrs, vips, |route| tables.primary_address(route.network()));
        let errors = self.routes.sync(&wanted, &self.picture.facts).await;
        let well = errors.is_empty();
        self.routes_stale = !well;
        let faults = errors.iter().map(ToString::to_string).collect();
        self.parts.shared.lock().set_faults(Part::Routes, faults);
        if !well && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        well
    }

    async fn sync_neighbours(&mut self) {
        let Some(compiled) = &self.compiled else { return };
        let mut wanted = compiled.wanted_neighbours.clone();
        let named: BTreeSet<IpAddr> = wanted.iter().map(|(_, address)| *address).collect();
        let uplink = self.picture.facts.uplink;
        wanted.extend(self.asked.addresses().filter(|a| !named.contains(a)).map(|address| (uplink, address)));
        // A link that is down or gone takes no neighbour; it is looked at again when it changes.
        wanted.retain(|(interface, _)| self.picture.facts.links.get(interface).is_some_and(|link| link.up));
        if wanted == *self.picture.managed {
            self.parts.shared.lock().set_faults(Part::Neighbours, Vec::new());
            return;
        }
        let errors = self.neighbours.sync(&wanted, &self.picture.managed).await;
        let faults = errors.iter().map(ToString::to_string).collect();
        self.parts.shared.lock().set_faults(Part::Neighbours, faults);
    }

    async fn age(&mut self, now: Instant) {
        if !self.asked.has_old(now) {
            return;
        }
        let in_use = self
            .parts
            .table
            .connections()
            .flat_map(|c| [c.original.key.src, c.original.key.dst, c.original.rewrite.dst, c.original.rewrite.src])
            .collect();
        self.asked.forget_old(now, &in_use);
        self.sync_neighbours().await;
    }

    fn scan(&mut self) {
        let now = Instant::now();
        self.scan_at = None;
        self.scanned_at = Some(now);
        let Some(compiled) = &self.compiled else { return };
        let model = &self.model;
        self.reconciler.scan(&self.parts.table, &compiled.tables, &|service, endpoint| {
            model.endpoint_state(service, endpoint.0, endpoint.1) != EndpointState::Gone
        });
        let found = self.reconciler.waiting();
        if !self.reconciler.hand_over(&self.parts.queues, &*self.parts.wake) {
            // A queue is full: what is left is found again by the next scan.
            self.scan_at = Some(now + reconcile::PAUSE);
        }
        if found > 0 {
            let ended = found - self.reconciler.waiting();
            self.parts.shared.lock().flows_ended += ended as u64;
            tracing::info!("{ended} flows end because their endpoint or port is gone");
        }
    }

    fn answer(&self, question: Question) {
        let answers = match &self.compiled {
            None => Err("no tables yet: the first lists are not complete; see `atalho status`".to_owned()),
            Some(compiled) => {
                let view =
                    View { model: &self.model, compiled, config: &self.parts.config, facts: &self.picture.facts };
                Ok(question.queries.iter().map(|query| answer(&view, query)).collect())
            }
        };
        // Whoever asked may have gone.
        let _ = question.reply.send(answers);
    }
}

fn lock(dataplane: &Mutex<Box<dyn Dataplane>>) -> std::sync::MutexGuard<'_, Box<dyn Dataplane>> {
    dataplane.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn wanted_of(compiled: &Compiled) -> Wanted<'_> {
    Wanted { claims: &compiled.claims, ranges: &compiled.ranges, pods: &compiled.pod_ports }
}

/// When the endpoints controller saw what a slice tells of; `None` for every other change.
fn trigger_of(change: &Change) -> Option<Timestamp> {
    let Change::Put(Object::EndpointSlice(slice), _) = change else { return None };
    slice.metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?.parse().ok()
}

/// Waits until every worker has passed a batch since the swap, notes how long the change took to get there, and keeps
/// the tables before until nobody reads them.
async fn see_out(
    before: Arc<Tables>,
    epochs: Arc<Epochs>,
    queues: Vec<Arc<WorkerQueues>>,
    since: Option<Instant>,
    shared: Arc<Shared>,
) {
    let target = epochs.advance();
    let mut pause = Duration::from_micros(100);
    while !epochs.passed(target, queues.iter().map(|q| &q.epoch)) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(HELD);
    }
    if let Some(since) = since {
        shared.lock().change_to_use.record(since.elapsed());
    }
    while Arc::strong_count(&before) > 1 {
        tokio::time::sleep(HELD).await;
    }
}
