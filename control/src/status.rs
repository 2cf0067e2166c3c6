//! `atalho status`: how the daemon is. The daemon's half collects, the client's half prints.

mod command;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atalho_engine::conntrack::{ConnTable, Evictable};
use atalho_engine::tables::{Port, Tables};
use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_layout::KERNEL_COUNTERS;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::dataplane::Dataplane;
use crate::model::Refusal;
use crate::report::{FrameBooks, SlowPathReport, WorkerReport, XdpCounts};
use crate::shared::{Shared, Summary};

pub use self::command::{StatusOptions, run};

/// Rates are of so long.
pub const RATES_OVER: Duration = Duration::from_secs(1);

/// The answer to `status`. Counts grow for ever; `received = forwarded + punted + dropped` when no packet is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// starting, ready or degraded.
    pub state: String,
    pub node: String,
    pub workers: Vec<WorkerStatus>,
    pub generation: u64,
    pub services: u64,
    pub endpoints: u64,
    pub flows: u64,
    pub flows_max: u64,
    pub received: u64,
    pub forwarded: u64,
    pub punted: u64,
    pub dropped: u64,
    pub originated: u64,
    /// Answers of our own that could not be sent.
    #[serde(default)]
    pub unsent: u64,
    /// Packets that a capture wanted and had no room for.
    #[serde(default)]
    pub capture_lost: u64,
    /// By reason, those that happened.
    pub drops: BTreeMap<String, u64>,
    pub punts: BTreeMap<String, u64>,
    /// What became of the punted.
    #[serde(default)]
    pub slow_path: SlowPathStatus,
    /// The kernel programs' counters, by name; null with an explanation in `faults` where they cannot be read.
    pub kernel: BTreeMap<String, u64>,
    /// What the kernel programs dropped of each pod, by the name of the counter; those that happened, of pods that are
    /// there. Part of `kernel`.
    #[serde(default)]
    pub pod_drops: BTreeMap<String, BTreeMap<String, u64>>,
    /// Offloads of uplink or funnel that somebody had turned on, and that were turned off again.
    #[serde(default)]
    pub offloads_turned_off: u64,
    /// Snapshots.
    pub published: u64,
    pub change_to_published_ms: Summary,
    pub change_to_use_ms: Summary,
    pub refused: Vec<Refusal>,
    /// What is wrong with the API server; null if nothing is.
    pub api: Option<String>,
    pub faults: Vec<String>,
    /// Since when the API server or a part of ours fails, RFC 3339; null if none does.
    #[serde(default)]
    pub failing_since: Option<String>,
    /// How often parts of control were begun anew after a panic, those that were.
    #[serde(default)]
    pub restarts: BTreeMap<String, u64>,
    /// Resources whose first list is not complete.
    pub waiting_for: Vec<String>,
    /// Next hops whose neighbour has not answered.
    pub unresolved: Vec<String>,
    pub flows_ended: u64,
    pub flows_evicted: u64,
    /// By what they were, those that happened.
    #[serde(default)]
    pub flows_evicted_by: BTreeMap<String, u64>,
}

/// `punted = answered + resumed + waiting + dropped`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowPathStatus {
    pub punted: u64,
    pub resumed: u64,
    /// Packets that wait for a neighbour now.
    pub waiting: u64,
    /// By the reason of the punt, those that happened.
    pub answered: BTreeMap<String, u64>,
    /// By reason, those that happened. Workers count these packets as punted.
    pub dropped: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub core: u32,
    pub queues: Vec<u32>,
    /// Packets received per second, over the last second.
    pub pps: u64,
    pub busy_percent: f64,
    pub asleep: bool,
    pub received: u64,
    pub forwarded: u64,
    pub punted: u64,
    pub originated: u64,
    pub dropped: u64,
    #[serde(default)]
    pub frames: Vec<FrameBooks>,
    #[serde(default)]
    pub xdp: BTreeMap<String, XdpCounts>,
}

/// Who knows everything that `status` shows.
pub struct Collector {
    pub node: String,
    pub shared: Arc<Shared>,
    pub reports: Box<dyn Fn() -> Vec<WorkerReport> + Send + Sync>,
    pub slow_path: Box<dyn Fn() -> SlowPathReport + Send + Sync>,
    pub table: ConnTable,
    pub snapshot: Arc<ArcSwap<Tables>>,
    pub flows_max: u64,
    pub dataplane: Arc<Mutex<Box<dyn Dataplane>>>,
    pub rates: Rates,
    /// The clock of the connection table, seconds.
    pub now_s: fn() -> u32,
}

/// Packets per second and busy share of each worker.
#[derive(Debug, Default)]
pub struct Rates {
    state: Mutex<RateState>,
}

#[derive(Debug, Default)]
struct RateState {
    last: Vec<(u64, u64, u64)>,
    at: Option<Instant>,
    rates: Vec<(u64, f64)>,
}

impl Rates {
    /// Takes a sample; the rates are of the time since the one before.
    pub fn sample(&self, reports: &[WorkerReport], now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now_counts: Vec<_> = reports.iter().map(|r| (r.received, r.busy_ns, r.elapsed_ns)).collect();
        if let Some(at) = state.at
            && state.last.len() == now_counts.len()
        {
            let seconds = now.duration_since(at).as_secs_f64().max(1e-6);
            let rates = state.last.iter().zip(&now_counts).map(|(before, after)| {
                let pps = after.0.saturating_sub(before.0) as f64 / seconds;
                let busy = after.1.saturating_sub(before.1) as f64 / 1e9 / seconds * 100.0;
                (pps.round() as u64, (busy.clamp(0.0, 100.0) * 10.0).round() / 10.0)
            });
            state.rates = rates.collect();
        }
        state.last = now_counts;
        state.at = Some(now);
    }

    fn of(&self, worker: usize) -> (u64, f64) {
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.rates.get(worker).copied().unwrap_or_default()
    }
}

impl Collector {
    /// The kernel programs' counters by name.
    pub fn kernel_counters(&self) -> Result<Vec<(&'static str, &'static str, u64)>, String> {
        let mut dataplane = self.dataplane.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let values = dataplane.kernel_counters()?;
        Ok(KERNEL_COUNTERS.iter().zip(values).map(|(counter, value)| (counter.name(), counter.text(), value)).collect())
    }

    /// What the kernel programs dropped, by pod and the name of the counter.
    pub fn pod_drops(&self) -> Result<BTreeMap<String, BTreeMap<String, u64>>, String> {
        let drops = self.dataplane.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pod_drops()?;
        let tables = self.snapshot.load();
        let mut by_pod: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (ifindex, counter, packets) in drops {
            if let Some(Port::Pod { name, .. }) = tables.ports.get(&ifindex) {
                by_pod.entry(name.to_string()).or_default().insert(counter.name().to_owned(), packets);
            }
        }
        Ok(by_pod)
    }

    pub fn status(&self) -> Status {
        let reports = (self.reports)();
        let sum = |of: fn(&WorkerReport) -> u64| reports.iter().map(of).sum::<u64>();
        let (kernel, pod_drops) = (self.kernel_counters(), self.pod_drops());
        let shared = self.shared.lock();
        let mut faults: Vec<String> = shared.faults.values().flatten().cloned().collect();
        let kernel = match kernel {
            Ok(counters) => counters.into_iter().map(|(name, _, value)| (name.to_owned(), value)).collect(),
            Err(why) => {
                faults.push(format!("reading the kernel's counters: {why}"));
                BTreeMap::new()
            }
        };
        let pod_drops = pod_drops.unwrap_or_else(|why| {
            faults.push(format!("reading the pods' drops: {why}"));
            BTreeMap::new()
        });
        Status {
            state: shared.state().to_owned(),
            node: self.node.clone(),
            workers: reports.iter().enumerate().map(|(i, report)| worker_status(report, self.rates.of(i))).collect(),
            generation: shared.generation,
            services: shared.services,
            endpoints: shared.endpoints,
            flows: self.table.count(),
            flows_max: self.flows_max,
            received: sum(|r| r.received),
            forwarded: sum(|r| r.forwarded),
            punted: sum(|r| r.punted),
            dropped: sum(WorkerReport::dropped_in_all),
            originated: sum(|r| r.originated),
            unsent: sum(|r| r.unsent),
            capture_lost: sum(|r| r.capture_lost),
            drops: drops_of(&reports),
            punts: punts_of(&reports),
            slow_path: slow_path_status(&(self.slow_path)()),
            kernel,
            pod_drops,
            offloads_turned_off: shared.offloads_turned_off,
            published: shared.snapshots,
            change_to_published_ms: shared.change_to_published.summary(),
            change_to_use_ms: shared.change_to_use.summary(),
            refused: shared.refusals.clone(),
            api: shared.api(),
            faults,
            failing_since: shared.failing_since().and_then(|at| Timestamp::try_from(at).ok()).map(seconds_of),
            restarts: shared.restarts.iter().map(|(what, times)| (what.name().to_owned(), *times)).collect(),
            waiting_for: match shared.ready {
                true => Vec::new(),
                false => shared.waiting_for.iter().map(|kind| kind.name().to_owned()).collect(),
            },
            unresolved: shared.unresolved.clone(),
            flows_ended: shared.flows_ended,
            flows_evicted: self.table.evicted(),
            flows_evicted_by: Evictable::ALL
                .into_iter()
                .map(|kind| (kind.name().to_owned(), self.table.evicted_as(kind)))
                .filter(|(_, evicted)| *evicted > 0)
                .collect(),
        }
    }
}

/// RFC 3339, to the second.
fn seconds_of(at: Timestamp) -> String {
    format!("{at:.0}")
}

fn worker_status(report: &WorkerReport, (pps, busy_percent): (u64, f64)) -> WorkerStatus {
    WorkerStatus {
        core: report.core,
        queues: report.queues.clone(),
        pps,
        busy_percent,
        asleep: report.asleep,
        received: report.received,
        forwarded: report.forwarded,
        punted: report.punted,
        originated: report.originated,
        dropped: report.dropped_in_all(),
        frames: report.frames.clone(),
        xdp: report.xdp.iter().cloned().collect(),
    }
}

fn drops_of(reports: &[WorkerReport]) -> BTreeMap<String, u64> {
    drops_by_name(|reason| reports.iter().map(|r| r.dropped[reason as usize]).sum())
}

/// Those that happened.
fn drops_by_name(of: impl Fn(DropReason) -> u64) -> BTreeMap<String, u64> {
    DropReason::ALL.iter().map(|r| (r.name().to_owned(), of(*r))).filter(|(_, n)| *n > 0).collect()
}

fn punts_of(reports: &[WorkerReport]) -> BTreeMap<String, u64> {
    punts_by_name(|reason| reports.iter().map(|r| r.punts[reason as usize]).sum())
}

/// Those that happened.
fn punts_by_name(of: impl Fn(PuntReason) -> u64) -> BTreeMap<String, u64> {
    PuntReason::ALL.iter().map(|r| (r.name().to_owned(), of(*r))).filter(|(_, n)| *n > 0).collect()
}

fn slow_path_status(report: &SlowPathReport) -> SlowPathStatus {
    SlowPathStatus {
        punted: report.punted,
        resumed: report.resumed,
        waiting: report.waiting,
        answered: punts_by_name(|reason| report.answered[reason as usize]),
        dropped: drops_by_name(|reason| report.dropped[reason as usize]),
    }
}

#[cfg(test)]
pub(crate) mod tests;
