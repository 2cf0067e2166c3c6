//! What control is joined to in these tests: a kernel side in memory that writes down what is asked of it, a table, and
//! the queues of one worker that sleeps.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atalho_control::config::Config;
use atalho_control::dataplane::{Dataplane, InForce};
use atalho_control::node::{PrepareOptions, prepare};
use atalho_control::report::{SlowPathReport, WorkerReport};
use atalho_control::server;
use atalho_control::start::{Control, ControlOptions, Source};
use atalho_engine::conntrack::{ConnTable, Direction, Epochs, NewConnection, Rewrite, Segment};
use atalho_engine::flow::{FlowKey, Protocol};
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::NextHops;
use atalho_engine::service::VipKey;
use atalho_engine::tables::Tables;
use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_layout::{ClaimKey, ClaimKind, KERNEL_COUNTERS, LpmKey, PortRecord, SECRET_WORDS};
use serde_json::{Value, json};

use crate::namespace::ip;
use crate::objects::{SERVICE, slice};

/// The kernel side, in memory.
#[derive(Clone, Default)]
pub struct Kernel(pub Arc<Mutex<InForce>>);

impl Dataplane for Kernel {
    fn claim(&mut self, key: ClaimKey, kind: ClaimKind) -> Result<(), String> {
        let mut held = self.0.lock().unwrap();
        held.claims.retain(|(k, _)| *k != key);
        held.claims.push((key, kind));
        Ok(())
    }
    fn unclaim(&mut self, key: ClaimKey) -> Result<(), String> {
        self.0.lock().unwrap().claims.retain(|(k, _)| *k != key);
        Ok(())
    }
    fn claim_range(&mut self, key: LpmKey) -> Result<(), String> {
        self.0.lock().unwrap().ranges.push(key);
        Ok(())
    }
    fn unclaim_range(&mut self, key: LpmKey) -> Result<(), String> {
        self.0.lock().unwrap().ranges.retain(|k| *k != key);
        Ok(())
    }
    fn attach_pod(&mut self, ifindex: u32, record: PortRecord) -> Result<(), String> {
        let mut held = self.0.lock().unwrap();
        held.pods.retain(|(i, _)| *i != ifindex);
        held.pods.push((ifindex, record));
        Ok(())
    }
    fn detach_pod(&mut self, ifindex: u32) -> Result<(), String> {
        self.0.lock().unwrap().pods.retain(|(i, _)| *i != ifindex);
        Ok(())
    }
    fn current(&mut self) -> Result<InForce, String> {
        Ok(self.0.lock().unwrap().clone())
    }
    fn kernel_counters(&mut self) -> Result<Vec<u64>, String> {
        Ok(vec![5; KERNEL_COUNTERS.len()])
    }
    fn pod_drops(&mut self) -> Result<Vec<(u32, atalho_layout::KernelCounter, u64)>, String> {
        Ok(Vec::new())
    }
    fn keep_offloads(&mut self) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }
}

fn report() -> WorkerReport {
    WorkerReport {
        core: 0,
        queues: vec![0],
        received: 10,
        forwarded: 9,
        punted: 0,
        originated: 0,
        unsent: 0,
        capture_lost: 0,
        dropped: std::array::from_fn(|i| u64::from(i == DropReason::NoRoute as usize)),
        punts: [0; PuntReason::COUNT],
        busy_ns: 0,
        elapsed_ns: 1,
        asleep: true,
        frames: Vec::new(),
        xdp: Vec::new(),
    }
}

/// Everything that a started control is joined to.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub kernel: Kernel,
    pub snapshot: Arc<ArcSwap<Tables>>,
    pub table: ConnTable,
    pub epochs: Arc<Epochs>,
    pub queues: Vec<Arc<WorkerQueues>>,
    pub next_hops: NextHops,
    pub asks: crossbeam::channel::Sender<IpAddr>,
    pub requests: crossbeam::channel::Receiver<IpAddr>,
    pub uplink: u32,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("objects")).unwrap();
        std::fs::write(
            folder.path().join("atalho.toml"),
            format!(
                "[node]\nname = 'node-a'\nrun_dir = '{}'\n[cluster]\npod_cidrs = ['10.244.0.0/16']\nservice_cidrs = \
                 ['10.96.0.0/16']\n[funnel]\nnames = ['at-f0', 'at-f1']\n[uplink]\ninterface = 'up0'\n",
                folder.path().join("run").display()
            ),
        )
        .unwrap();
        let (asks, requests) = crossbeam::channel::bounded(16);
        let bench = Self {
            folder,
            kernel: Kernel::default(),
            snapshot: Arc::default(),
            table: ConnTable::in_memory(1024, &[9; SECRET_WORDS]),
            epochs: Arc::new(Epochs::new()),
            queues: vec![WorkerQueues::new(1)],
            next_hops: NextHops::in_memory(256),
            asks,
            requests,
            uplink: ip("-o link show up0").split(':').next().unwrap().trim().parse().unwrap(),
        };
        bench.epochs.leave(&bench.queues[0].epoch);
        bench
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join("objects").join(file), text).unwrap();
    }

    fn config(&self) -> Config {
        Config::load(Some(&self.folder.path().join("atalho.toml"))).unwrap()
    }

    /// One with a Service that has an endpoint, and control that is ready.
    pub fn serving() -> (Self, Control) {
        let bench = Self::new();
        bench.write("service.yaml", SERVICE);
        bench.write("slice.yaml", &slice(&["10.244.2.7"]));
        let control = bench.start().unwrap();
        assert!(control.wait_ready(Duration::from_secs(5)), "{}", bench.status());
        (bench, control)
    }

    pub fn start(&self) -> Result<Control, String> {
        self.start_from(Source::Manifests(self.folder.path().join("objects")))
    }

    pub fn start_from(&self, source: Source) -> Result<Control, String> {
        let none = |_: &str| Ok(());
        let options = PrepareOptions { uplink: "up0", f0: "at-f0", f1: "at-f1", queues: 1, offloads: &none };
        let prepared = prepare(&options).unwrap();
        let queues = self.queues.clone();
        Control::start(ControlOptions {
            config: self.config(),
            node_name: "node-a".into(),
            source,
            prepared,
            snapshot: self.snapshot.clone(),
            next_hops: self.next_hops,
            table: self.table,
            flows_max: 1024,
            epochs: self.epochs.clone(),
            queues: queues.clone(),
            wake: Arc::new(|_| {}),
            published: Arc::new(|| {}),
            dataplane: Box::new(self.kernel.clone()),
            neighbour_requests: self.requests.clone(),
            worker_reports: Box::new(|| vec![report()]),
            slow_path_report: Box::new(SlowPathReport::default),
            now_s: || 0,
            kernel_grace: Box::new(|| Ok(())),
        })
        .map_err(|error| error.to_string())
    }

    pub fn run_dir(&self) -> std::path::PathBuf {
        self.folder.path().join("run")
    }

    pub fn ask(&self, request: &Value) -> Value {
        server::ask(&self.run_dir(), "node-a", request).unwrap()
    }

    pub fn status(&self) -> Value {
        self.ask(&json!({"ask": "status"}))
    }

    /// Endpoints of the VIP 10.96.0.10, in order.
    pub fn endpoints(&self, protocol: Protocol, port: u16) -> Vec<IpAddr> {
        let tables = self.snapshot.load();
        let key = VipKey { address: "10.96.0.10".parse().unwrap(), protocol, port };
        let vip = tables.services.look_up(&key);
        vip.map(|vip| vip.inside.backends.endpoints.iter().map(|e| e.address).collect()).unwrap_or_default()
    }

    /// A connection from the uplink to the VIP, translated to 10.244.2.7.
    pub fn connect(&self, protocol: Protocol, port: u16, target: u16) {
        let a = |text: &str| text.parse::<IpAddr>().unwrap();
        let (client, vip, endpoint) = (a("198.51.100.1"), a("10.96.0.10"), a("10.244.2.7"));
        let key = FlowKey { src: client, dst: vip, src_port: 999, dst_port: port, protocol };
        let reply = FlowKey { src: endpoint, dst: client, src_port: target, dst_port: 999, protocol };
        let ingress = self.uplink;
        let original = Direction {
            key,
            rewrite: Rewrite { src: client, dst: endpoint, src_port: 999, dst_port: target },
            next_hop: 1,
            ingress,
        };
        let answers = Direction {
            key: reply,
            rewrite: Rewrite { src: vip, dst: client, src_port: port, dst_port: 999 },
            next_hop: 1,
            ingress,
        };
        let new = NewConnection { original, reply: answers, is_service: true, first: Segment::Other };
        self.table.insert(0, &self.epochs, &new, 1).unwrap();
    }

    /// Does what a worker does with what control asks of it, until the connections are as many as wished.
    pub fn work_until(&self, connections: u64) {
        until(&format!("{connections} connections"), || {
            self.epochs.enter(&self.queues[0].epoch);
            while let Some(at) = self.queues[0].end_flows.pop() {
                self.table.end(&self.epochs, at);
            }
            self.epochs.leave(&self.queues[0].epoch);
            self.table.count() == connections
        });
    }
}

pub fn until(what: &str, wish: impl FnMut() -> bool) {
    until_within(Duration::from_secs(5), what, wish);
}

pub fn until_within(at_most: Duration, what: &str, mut wish: impl FnMut() -> bool) {
    let end = Instant::now() + at_most;
    while !wish() {
        assert!(Instant::now() < end, "not within {at_most:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
