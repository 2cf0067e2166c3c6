use super::command::text_of;
use serde_json::{Value, json};

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

pub(crate) fn collector() -> Collector {
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
            Arc::new(ArcSwap::from_pointee(Tables {
                ports: Arc::new([(7, pod)].into_iter().collect()),
                ..Tables::default()
            }))
        },
        flows_max: 64,
        dataplane: Arc::new(Mutex::new(Box::new(NoKernel))),
        rates: Rates::default(),
        now_s: || 1000,
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
