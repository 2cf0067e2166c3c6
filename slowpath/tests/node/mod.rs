//! A node with an uplink, its own port and one pod, and a slow path over one worker's queues.
#![allow(dead_code)] // each test binary uses its part

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use atalho_engine::handoff::{HANDOFF_FRAME_BYTES, Handoff, Task, WorkerQueues};
use atalho_engine::next_hops::{Mac, NextHop, NextHops};
use atalho_engine::route::{Route, RouteTarget, Routes};
use atalho_engine::tables::{FastMap, Node, Port, Tables};
use atalho_engine::verdict::PuntReason;
use atalho_layout::NextHopKind;
use atalho_slowpath::{Limits, Parts, SlowPath};

pub const UPLINK: u32 = 4;
pub const NODE_PORT: u32 = 9;
pub const POD_PORT: u32 = 70_007;
/// Buffers of the worker.
pub const BUFFERS: usize = 512;

pub const NODE_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub const FAR_MAC: Mac = [2, 0, 0, 0, 0, 0xfa];
pub const FUNNEL_MAC: Mac = [2, 0, 0, 0, 0, 0xf1];
pub const POD_HOST_MAC: Mac = [2, 0, 0, 0, 0, 0x70];

pub const NEIGHBOUR: &str = "192.0.2.1";
pub const NEIGHBOUR_INDEX: u32 = 20;
pub const POD_INDEX: u32 = 30;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub struct TestNode {
    pub slow: SlowPath,
    pub next_hops: NextHops,
    pub tables: Arc<Mutex<Arc<Tables>>>,
    pub queues: Vec<Arc<WorkerQueues>>,
    pub asked: Arc<Mutex<Vec<IpAddr>>>,
    pub woken: Arc<AtomicUsize>,
}

pub fn tables() -> Tables {
    let pod = Port::Pod { name: "default/pod".into(), addresses: vec![ip("10.244.0.7"), ip("fd00:244::7")] };
    let routes = vec![
        Route { destination: "0.0.0.0/0".parse().unwrap(), target: RouteTarget::Gateway(ip(NEIGHBOUR)) },
        Route { destination: "192.0.2.0/24".parse().unwrap(), target: RouteTarget::OnLink },
    ];
    Tables {
        node: Arc::new(Node {
            name: "node-a".to_owned(),
            addresses: vec![ip("192.0.2.10"), ip("2001:db8::10")],
            primary_v4: Some("192.0.2.10".parse().unwrap()),
            primary_v6: Some("2001:db8::10".parse().unwrap()),
        }),
        ports: Arc::new(FastMap::from_iter([(UPLINK, Port::Uplink), (NODE_PORT, Port::Node), (POD_PORT, pod)])),
        local_pods: Arc::new(FastMap::from_iter([(ip("10.244.0.7"), POD_INDEX), (ip("fd00:244::7"), POD_INDEX)])),
        routes: Arc::new(Routes::new(routes, [(ip(NEIGHBOUR), NEIGHBOUR_INDEX)])),
        ..Tables::default()
    }
}

fn next_hop(kind: NextHopKind, destination: Option<Mac>, source: Mac) -> NextHop {
    NextHop { kind, ifindex: 1, destination, source, mtu: 1500 }
}

impl TestNode {
    pub fn new() -> Self {
        Self::with(Limits::default(), 1)
    }

    pub fn with(limits: Limits, workers: usize) -> Self {
        let next_hops = NextHops::in_memory(64);
        next_hops.set(0, &next_hop(NextHopKind::Node, Some(FUNNEL_MAC), [2; 6]));
        next_hops.set(NEIGHBOUR_INDEX, &next_hop(NextHopKind::Uplink, None, NODE_MAC));
        next_hops.set(POD_INDEX, &next_hop(NextHopKind::Pod, Some([2; 6]), POD_HOST_MAC));
        let tables = Arc::new(Mutex::new(Arc::new(tables())));
        let queues: Vec<_> = (0..workers).map(|_| WorkerQueues::new(BUFFERS)).collect();
        let (asked, woken) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (tables_read, asked_write, woken_write) = (tables.clone(), asked.clone(), woken.clone());
        let parts = Parts {
            queues: queues.clone(),
            tables: Box::new(move || tables_read.lock().unwrap().clone()),
            next_hops,
            ask_neighbour: Box::new(move |address| asked_write.lock().unwrap().push(address)),
            wake_worker: Box::new(move |_| {
                woken_write.fetch_add(1, Ordering::Relaxed);
            }),
        };
        Self { slow: SlowPath::new(parts, limits), next_hops, tables, queues, asked, woken }
    }

    /// The neighbour's link address becomes known.
    pub fn resolve(&self) {
        self.next_hops.set(NEIGHBOUR_INDEX, &next_hop(NextHopKind::Uplink, Some(FAR_MAC), NODE_MAC));
    }

    /// Punts `frame` and returns the buffer that comes back at once.
    pub fn punt(
        &mut self,
        now_ms: u64,
        reason: PuntReason,
        ingress: u32,
        mtu: u16,
        frame: &[u8],
    ) -> Option<Box<Handoff>> {
        self.handle(now_ms, 0, punt(reason, None, ingress, mtu, frame)).pop().map(|(_, buffer)| buffer)
    }

    /// Punts `frame` to wait for `address`.
    pub fn wait_for(&mut self, now_ms: u64, worker: usize, address: IpAddr, frame: &[u8]) -> Option<Task> {
        let buffer = punt(PuntReason::NeighbourUnresolved, Some(address), POD_PORT, 0, frame);
        self.handle(now_ms, worker, buffer).pop().map(|(_, buffer)| buffer.task)
    }

    /// What comes back at once when `buffer` is punted.
    pub fn handle(&mut self, now_ms: u64, worker: usize, buffer: Box<Handoff>) -> Vec<(usize, Box<Handoff>)> {
        let mut out = Vec::new();
        self.slow.handle(now_ms, worker, buffer, |worker, buffer| out.push((worker, buffer)));
        self.check_books();
        out
    }

    /// What a look at the waiting packets lets go.
    pub fn tick(&mut self, now_ms: u64) -> Vec<(usize, Box<Handoff>)> {
        let mut out = Vec::new();
        self.slow.tick(now_ms, |worker, buffer| out.push((worker, buffer)));
        self.check_books();
        out
    }

    pub fn asked(&self) -> Vec<IpAddr> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    pub fn check_books(&self) {
        let books = self.slow.counters().books();
        assert!(books.is_even(), "{books:?}");
    }
}

/// A buffer as a worker hands it over.
pub fn punt(
    reason: PuntReason,
    next_hop_address: Option<IpAddr>,
    ingress: u32,
    mtu: u16,
    frame: &[u8],
) -> Box<Handoff> {
    let task = Task::Punt { reason, next_hop_address, mtu };
    // What an earlier packet left in the buffer must never show.
    let mut buffer = Handoff::new();
    buffer.fill(&[0xee; HANDOFF_FRAME_BYTES], ingress);
    assert!(buffer.fill(frame, ingress));
    buffer.task = task;
    buffer
}

/// A flag that the thread of the slow path reads.
pub fn flag() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}
