//! A worker over two wires in plain memory: one uplink, one funnel, two pods, a table, real tables to read.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs};
use atalho_engine::counters::Counters;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::{NextHop, NextHops};
use atalho_engine::pipeline::{Engine, EngineParts};
use atalho_engine::route::{Route, RouteTarget, Routes};
use atalho_engine::tables::{Cluster, FastMap, Node, Port as TablePort, Tables};
use atalho_layout::{NextHopKind, tag_mac};
use atalho_sys::doorbell::Doorbell;
use atalho_sys::random;
use atalho_sys::xsk::FramePool;
use atalho_worker::memory_port::{MemoryPort, Wire};
use atalho_worker::{Native, Port, Spin, Worker, WorkerOptions, WorkerParts, WorkerStats};
use etherparse::PacketBuilder;

pub const UPLINK: u32 = 2;
pub const NODE: u32 = 10;
pub const POD_A: u32 = 20;
pub const POD_B: u32 = 21;
pub const POD_A_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 20);
pub const POD_B_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 21);
pub const REMOTE_POD_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
pub const STRANGER_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 7);
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 254];
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const FRAMES: u32 = 512;

/// Everything that a test may hold on to.
pub struct Bench {
    pub uplink: Arc<Wire>,
    pub funnel: Arc<Wire>,
    pub queues: Arc<WorkerQueues>,
    pub counters: Arc<Counters>,
    pub stats: Arc<WorkerStats>,
    pub doorbell: Arc<Doorbell>,
    pub snapshot: Arc<ArcSwap<Tables>>,
    pub table: ConnTable,
    pub next_hops: NextHops,
    /// How often the slow path was told.
    pub rings: Arc<AtomicU64>,
}

pub fn tables() -> Tables {
    let pod = |name: &str, ip: Ipv4Addr| TablePort::Pod { name: name.into(), addresses: vec![IpAddr::V4(ip)] };
    let route = |to: &str, target| Route { destination: to.parse().unwrap(), target };
    let gateway: IpAddr = "192.168.0.254".parse().unwrap();
    let silent: IpAddr = "192.168.0.99".parse().unwrap();
    Tables {
        generation: 1,
        node: Arc::new(Node {
            name: "node-a".into(),
            addresses: vec!["192.168.0.2".parse().unwrap()],
            primary_v4: Some(Ipv4Addr::new(192, 168, 0, 2)),
            primary_v6: None,
        }),
        cluster: Arc::new(Cluster { pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()], service_cidrs: vec![] }),
        ports: Arc::new(FastMap::from_iter([
            (UPLINK, TablePort::Uplink),
            (NODE, TablePort::Node),
            (POD_A, pod("default/a", POD_A_IP)),
            (POD_B, pod("default/b", POD_B_IP)),
        ])),
        local_pods: Arc::new(FastMap::from_iter([(IpAddr::V4(POD_A_IP), 1), (IpAddr::V4(POD_B_IP), 2)])),
        routes: Arc::new(Routes::new(
            vec![
                route("10.244.1.0/24", RouteTarget::Gateway(gateway)),
                route("10.244.2.0/24", RouteTarget::Gateway(silent)),
                route("192.168.0.2/32", RouteTarget::Local),
            ],
            [(gateway, 3)],
        )),
        ..Tables::default()
    }
}

/// A worker whose ports are `wrap`ped, and the other ends of all it touches.
pub fn bench_with<P: Port>(buffers: usize, spin: Spin, wrap: impl Fn(MemoryPort) -> P) -> (Worker<P>, Bench) {
    bench_of(1500, FramePool::in_memory(2048, FRAMES).unwrap(), buffers, spin, wrap)
}

/// As [`bench_with`], over links of this MTU, bytes, with this memory.
pub fn bench_of<P: Port>(
    mtu: u16,
    pool: FramePool,
    buffers: usize,
    spin: Spin,
    wrap: impl Fn(MemoryPort) -> P,
) -> (Worker<P>, Bench) {
    let table = ConnTable::in_memory(4096, &random::words64().unwrap());
    let next_hops = NextHops::in_memory(8);
    let hop =
        |kind, ifindex, destination, source| NextHop { kind, ifindex, destination: Some(destination), source, mtu };
    next_hops.set(0, &hop(NextHopKind::Node, NODE, [2, 0, 0, 0, 0, 10], tag_mac(NODE)));
    next_hops.set(1, &hop(NextHopKind::Pod, POD_A, [2, 1, 0, 0, 0, 20], [2, 2, 0, 0, 0, 20]));
    next_hops.set(2, &hop(NextHopKind::Pod, POD_B, [2, 1, 0, 0, 0, 21], [2, 2, 0, 0, 0, 21]));
    next_hops.set(3, &hop(NextHopKind::Uplink, UPLINK, GATEWAY_MAC, UPLINK_MAC));
    let epochs = Arc::new(Epochs::new());
    let counters = Arc::new(Counters::default());
    let queues = WorkerQueues::new(buffers);
    let bench = Bench {
        uplink: Wire::new(1024).unwrap(),
        funnel: Wire::new(1024).unwrap(),
        queues: queues.clone(),
        counters: counters.clone(),
        stats: Arc::new(WorkerStats::new(0, None, [None, None])),
        doorbell: Arc::new(Doorbell::new().unwrap()),
        snapshot: Arc::new(ArcSwap::from_pointee(tables())),
        table,
        next_hops,
        rings: Arc::default(),
    };
    let engine = Engine::new(EngineParts {
        worker: 0,
        table,
        affinity: AffinityTable::in_memory(64, &random::words64().unwrap()),
        epochs: epochs.clone(),
        next_hops,
        counters,
        seed: 1,
        processor: Native,
    });
    let rings = bench.rings.clone();
    let worker = Worker::new(
        WorkerOptions {
            index: 0,
            workers: 1,
            core: None,
            spin,
            uplink_ifindex: UPLINK,
            frame_bytes_max: [usize::from(mtu) + 18; 2],
        },
        WorkerParts {
            pool,
            uplink: wrap(MemoryPort::new(bench.uplink.clone())),
            funnel: wrap(MemoryPort::new(bench.funnel.clone())),
            engine,
            epochs,
            queues,
            snapshot: bench.snapshot.clone(),
            ring_slow_path: Box::new(move || {
                rings.fetch_add(1, Ordering::Relaxed);
            }),
            doorbell: bench.doorbell.clone(),
            stats: bench.stats.clone(),
            pressure: None,
        },
    );
    (worker, bench)
}

pub fn bench() -> (Worker<MemoryPort>, Bench) {
    bench_with(16, Spin::Micros(50), |port| port)
}

/// A UDP frame that pod A sends, tagged as the kernel side does.
pub fn from_pod_a(to: Ipv4Addr, src_port: u16) -> Vec<u8> {
    udp(tag_mac(POD_A), POD_A_IP, to, src_port)
}

/// A UDP frame by the uplink.
pub fn from_uplink(to: Ipv4Addr, src_port: u16) -> Vec<u8> {
    udp(UPLINK_MAC, REMOTE_POD_IP, to, src_port)
}

pub fn udp(to_mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, src_port: u16) -> Vec<u8> {
    udp_with(&[0x5a; 32], to_mac, from, to, src_port)
}

pub fn udp_with(payload: &[u8], to_mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, src_port: u16) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], to_mac).ipv4(from.octets(), to.octets(), 64).udp(src_port, 53);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// Waits until `done`; fails after ten seconds.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
