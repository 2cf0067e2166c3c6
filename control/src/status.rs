//! `atalho status`: how the daemon is. The daemon's half collects, the client's half prints.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atalho_engine::conntrack::{ConnTable, Evictable};
use atalho_engine::tables::{Port, Tables};
use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_layout::KERNEL_COUNTERS;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::dataplane::Dataplane;
use crate::model::Refusal;
use crate::report::{FrameBooks, SlowPathReport, WorkerReport, XdpCounts};
use crate::server::{self, AskError};
use crate::shared::{Shared, Summary};

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

    /// Every drop with its text, of workers and slow path together, and the kernel's.
    pub fn drops(&self) -> Value {
        let (reports, slow_path) = ((self.reports)(), (self.slow_path)());
        let drops: Vec<Value> = DropReason::ALL
            .iter()
            .map(|reason| {
                let by_workers: u64 = reports.iter().map(|r| r.dropped[*reason as usize]).sum();
                let packets = by_workers + slow_path.dropped[*reason as usize];
                json!({"reason": reason.name(), "text": reason.text(), "packets": packets})
            })
            .filter(|row| row["packets"] != 0)
            .collect();
        let kernel: Vec<Value> = self
            .kernel_counters()
            .unwrap_or_default()
            .into_iter()
            .filter(|(_, text, packets)| *packets > 0 && text.contains("dropped"))
            .map(|(name, text, packets)| json!({"reason": name, "text": text, "packets": packets}))
            .collect();
        json!({"drops": drops, "kernel": kernel})
    }

    /// Tracked connections, at most `limit` of them.
    pub fn flows(&self, limit: u64) -> Value {
        let flows: Vec<Value> = self
            .table
            .connections()
            .take(usize::try_from(limit).unwrap_or(usize::MAX))
            .map(|c| {
                json!({
                    "protocol": c.protocol.name(),
                    "state": c.state.name(),
                    "source": endpoint(c.original.key.src, c.original.key.src_port),
                    "destination": endpoint(c.original.key.dst, c.original.key.dst_port),
                    "new_source": endpoint(c.original.rewrite.src, c.original.rewrite.src_port),
                    "new_destination": endpoint(c.original.rewrite.dst, c.original.rewrite.dst_port),
                    "service": c.is_service,
                    "seen_s": c.original_seen_s.max(c.reply_seen_s),
                })
            })
            .collect();
        json!({"flows": flows, "total": self.table.count()})
    }
}

fn endpoint(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
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

/// What `atalho status` is asked for.
pub struct StatusOptions {
    pub run_dir: PathBuf,
    pub node: String,
    pub json: bool,
}

/// Prints the daemon's status. 0: ready; 1: starting or degraded; 2: no daemon, the reason on stderr.
pub fn run(options: &StatusOptions, out: &mut dyn Write) -> u8 {
    let answer = match server::ask(&options.run_dir, &options.node, &json!({"ask": "status"})) {
        Ok(answer) => answer,
        Err(error @ (AskError::NoDaemon(_) | AskError::Refused(_))) => {
            eprintln!("{error}");
            return 2;
        }
    };
    let text = if options.json {
        answer.to_string()
    } else {
        match serde_json::from_value::<Status>(answer.clone()) {
            Ok(status) => text_of(&status),
            Err(error) => {
                eprintln!("the daemon is of another version than this command: {error}; use its own `atalho status`");
                return 2;
            }
        }
    };
    // A closed pipe is the reader's choice.
    let _ = writeln!(out, "{}", text.trim_end());
    u8::from(answer["state"] != "ready")
}

/// The status for people.
fn text_of(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let s = &mut text;
    let _ = writeln!(s, "{}: {}", status.node, status.state);
    if let Some(api) = &status.api {
        let _ = writeln!(s, "  API server: {api}");
    }
    if !status.waiting_for.is_empty() {
        let _ = writeln!(s, "  waiting for the first list of: {}", status.waiting_for.join(", "));
    }
    for fault in &status.faults {
        let _ = writeln!(s, "  fault: {fault}");
    }
    let _ = writeln!(
        s,
        "\ntables    generation {}, {} snapshots, {} Services, {} endpoints",
        status.generation, status.published, status.services, status.endpoints
    );
    let change = &status.change_to_use_ms;
    if let (Some(last), Some(p50), Some(p99)) = (change.last, change.p50, change.p99) {
        let _ = writeln!(s, "          change to use: last {last} ms, p50 {p50} ms, p99 {p99} ms");
    }
    let _ = writeln!(
        s,
        "flows     {} of {}, {} ended by changes, {} evicted",
        status.flows, status.flows_max, status.flows_ended, status.flows_evicted
    );
    let _ = writeln!(
        s,
        "packets   received {} = forwarded {} + punted {} + dropped {}; answers of our own {}, not sent {}",
        status.received, status.forwarded, status.punted, status.dropped, status.originated, status.unsent
    );
    let slow_path = &status.slow_path;
    let lists = [
        ("drops", &status.drops),
        ("punts", &status.punts),
        ("answered", &slow_path.answered),
        ("given up", &slow_path.dropped),
        ("kernel", &status.kernel),
    ];
    for (title, counts) in lists {
        let mut title = title;
        for (name, count) in counts.iter().filter(|(_, count)| **count > 0) {
            let _ = writeln!(s, "{title:<9} {count:>12}  {name}");
            title = "";
        }
    }
    for (pod, drops) in &status.pod_drops {
        let drops: Vec<String> = drops.iter().map(|(name, packets)| format!("{name} {packets}")).collect();
        let _ = writeln!(s, "pod       {:>12}  {}", pod, drops.join(", "));
    }
    if slow_path.waiting > 0 {
        let _ = writeln!(s, "waiting   {:>12}  for a neighbour", slow_path.waiting);
    }
    let _ = writeln!(s, "\nworker  core  queues       packets/s   busy %      received     forwarded       dropped");
    for (i, worker) in status.workers.iter().enumerate() {
        let queues: Vec<String> = worker.queues.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            s,
            "{i:>6}  {:>4}  {:<8} {:>13} {:>8.1} {:>13} {:>13} {:>13}{}",
            worker.core,
            queues.join(","),
            worker.pps,
            worker.busy_percent,
            worker.received,
            worker.forwarded,
            worker.dropped,
            if worker.asleep { "  asleep" } else { "" }
        );
    }
    for (title, lines) in [("neighbours that have not answered", &status.unresolved)] {
        if !lines.is_empty() {
            let _ = writeln!(s, "\n{title}:");
        }
        for line in lines {
            let _ = writeln!(s, "  {line}");
        }
    }
    if !status.refused.is_empty() {
        let _ = writeln!(s, "\nrefused:");
    }
    for refusal in &status.refused {
        let _ = writeln!(s, "  {refusal}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Source;

    pub(crate) fn report() -> WorkerReport {
        let mut dropped = [0; DropReason::COUNT];
        dropped[DropReason::NoRoute as usize] = 3;
        WorkerReport {
            core: 1,
            queues: vec![0],
            received: 110,
            forwarded: 100,
            punted: 7,
            originated: 2,
            unsent: 0,
            capture_lost: 0,
            dropped,
            punts: [0; PuntReason::COUNT],
            busy_ns: 500_000_000,
            elapsed_ns: 1_000_000_000,
            asleep: false,
            frames: Vec::new(),
            xdp: vec![("uplink".into(), XdpCounts::default())],
        }
    }

    struct NoKernel;

    impl Dataplane for NoKernel {
        fn claim(&mut self, _: atalho_layout::ClaimKey, _: atalho_layout::ClaimKind) -> Result<(), String> {
            Ok(())
        }
        fn unclaim(&mut self, _: atalho_layout::ClaimKey) -> Result<(), String> {
            Ok(())
        }
        fn claim_range(&mut self, _: atalho_layout::LpmKey) -> Result<(), String> {
            Ok(())
        }
        fn unclaim_range(&mut self, _: atalho_layout::LpmKey) -> Result<(), String> {
            Ok(())
        }
        fn attach_pod(&mut self, _: u32, _: atalho_layout::PortRecord) -> Result<(), String> {
            Ok(())
        }
        fn detach_pod(&mut self, _: u32) -> Result<(), String> {
            Ok(())
        }
        fn current(&mut self) -> Result<crate::dataplane::InForce, String> {
            Ok(crate::dataplane::InForce::default())
        }
        fn kernel_counters(&mut self) -> Result<Vec<u64>, String> {
            Ok((0..KERNEL_COUNTERS.len() as u64).collect())
        }
        fn pod_drops(&mut self) -> Result<Vec<(u32, atalho_layout::KernelCounter, u64)>, String> {
            Ok(vec![(7, atalho_layout::KernelCounter::PodSpoof, 5), (8, atalho_layout::KernelCounter::PodVlan, 2)])
        }
        fn keep_offloads(&mut self) -> Result<Vec<String>, String> {
            Ok(Vec::new())
        }
    }

    fn collector() -> Collector {
        Collector {
            node: "node-a".into(),
            shared: Arc::default(),
            reports: Box::new(|| vec![report()]),
            slow_path: Box::new(|| {
                let mut of = SlowPathReport { punted: 9, waiting: 4, ..SlowPathReport::default() };
                of.answered[PuntReason::EchoToVip as usize] = 3;
                of.dropped[DropReason::NeighbourTimeout as usize] = 1;
                of.dropped[DropReason::NoRoute as usize] = 1;
                of
            }),
            table: ConnTable::in_memory(64, &[1; atalho_layout::SECRET_WORDS]),
            snapshot: {
                let pod = Port::Pod { name: "default/loud".into(), addresses: Vec::new() };
                Arc::new(ArcSwap::from_pointee(Tables { ports: Arc::new([(7, pod)].into()), ..Tables::default() }))
            },
            flows_max: 64,
            dataplane: Arc::new(Mutex::new(Box::new(NoKernel))),
            rates: Rates::default(),
        }
    }

    #[test]
    fn the_json_has_every_promised_field() {
        let collector = collector();
        {
            let mut shared = collector.shared.lock();
            shared.ready = true;
            shared.refusals.push(Refusal {
                object: "Service default/web".into(),
                source: Source::File { path: "a.yaml".into(), line: 7 },
                reason: "port 0".into(),
                next_step: "give it a port from 1 to 65535".into(),
            });
        }
        let value = serde_json::to_value(collector.status()).unwrap();
        for field in [
            "state",
            "node",
            "workers",
            "generation",
            "services",
            "endpoints",
            "flows",
            "flows_max",
            "received",
            "forwarded",
            "dropped",
            "punted",
            "drops",
            "published",
            "change_to_use_ms",
            "refused",
            "api",
        ] {
            assert!(value.get(field).is_some(), "{field} is missing");
        }
        assert_eq!(value["state"], "degraded");
        assert_eq!(value["refused"][0]["source"], "a.yaml:7");
        assert_eq!(value["drops"], json!({"no_route": 3}));
        assert_eq!(value["received"], 110);
        assert_eq!(value["pod_drops"], json!({"default/loud": {"pod_spoof": 5}}), "a pod that is gone has no name");
        let slow_path = &value["slow_path"];
        assert_eq!((&slow_path["punted"], &slow_path["waiting"]), (&json!(9), &json!(4)));
        assert_eq!(slow_path["answered"], json!({"echo_to_vip": 3}));
        assert_eq!(slow_path["dropped"], json!({"neighbour_timeout": 1, "no_route": 1}));
        assert_eq!(value["api"], Value::Null);
        for field in ["core", "queues", "pps", "busy_percent"] {
            assert!(value["workers"][0].get(field).is_some(), "workers[].{field} is missing");
        }
        // What the daemon writes, the client reads.
        let text = text_of(&serde_json::from_value(value).unwrap());
        for part in ["node-a: degraded", "no_route", "a.yaml:7", "neighbour_timeout", "4  for a neighbour"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn rates_are_of_the_time_between_two_samples() {
        let rates = Rates::default();
        let start = Instant::now();
        let mut report = report();
        rates.sample(std::slice::from_ref(&report), start);
        assert_eq!(rates.of(0), (0, 0.0));
        report.received += 5000;
        report.busy_ns += 500_000_000;
        rates.sample(&[report], start + Duration::from_secs(2));
        assert_eq!(rates.of(0), (2500, 25.0));
    }

    #[test]
    fn a_drop_comes_with_its_text() {
        let drops = collector().drops();
        assert_eq!(drops["drops"][0]["reason"], "no_route");
        assert_eq!(drops["drops"][0]["packets"], 4, "three of a worker and one of the slow path");
        assert_eq!(drops["drops"][1]["reason"], "neighbour_timeout");
        assert!(drops["kernel"].as_array().is_some_and(|rows| !rows.is_empty()));
    }
}
