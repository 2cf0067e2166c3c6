//! A worker on real sockets: two veths, the kernel programs, a pod in a namespace of its own, a host behind the uplink.
//! Counts are compared with the far host's own and the kernel's (XDP_STATISTICS, the programs' counters).
//!
//! Needs root; ATALHO_SKIP_ROOT_TESTS=1 skips. Every namespace is made here and taken away again.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atalho_engine::conntrack::{ConnTable, Epochs, Geometry, TableMemory};
use atalho_engine::counters::Counters;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::{NextHop, NextHops};
use atalho_engine::pipeline::{Engine, EngineParts};
use atalho_engine::tables::Tables;
use atalho_layout::{ClaimKey, ClaimKind, KERNEL_COUNTERS, KernelCounter, NextHopKind, PortRecord, hop, tag_mac};
use atalho_sys::bpf::{Kernel, Setup, Sizes, XskPort as XskPortOf};
use atalho_sys::doorbell::Doorbell;
use atalho_sys::mmap::SharedArray;
use atalho_sys::xsk::{OpenOptions, QueueOf, Side, open};
use atalho_sys::{ethtool, prefetch, random};
use atalho_worker::port::PortState;
use atalho_worker::{Spin, Worker, WorkerOptions, WorkerParts, WorkerStats, XskPort};
use common::{GATEWAY_MAC, POD_A_IP, REMOTE_POD_IP, UPLINK_MAC, eventually, tables};

const ROLE: &str = "ATALHO_TEST_ROLE";
const LAB: &str = "ATALHO_TEST_LAB";
const HOST_END_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
const ECHO_PORT: u16 = 7;

fn run(command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Namespaces of one test, gone when dropped.
struct Lab {
    prefix: String,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { prefix: format!("at-C-{}", std::process::id()) };
        let [node, far, pod] = ["node", "far", "pod"].map(|part| lab.name(part));
        for name in [&node, &far, &pod] {
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
        }
        let (uplink_mac, far_mac) = (text(UPLINK_MAC), text(GATEWAY_MAC));
        run(&format!(
            "ip -n {node} link add uplink address {uplink_mac} numrxqueues 1 numtxqueues 1 type veth \
             peer name far0 address {far_mac} numrxqueues 1 numtxqueues 1 netns {far}"
        ));
        run(&format!(
            "ip -n {node} link add f0 numrxqueues 1 numtxqueues 1 type veth peer name f1 numrxqueues 1 numtxqueues 1"
        ));
        let (host_mac, pod_mac) = (text(HOST_END_MAC), text(POD_MAC));
        run(&format!(
            "ip -n {node} link add host0 address {host_mac} type veth peer name eth0 address {pod_mac} netns {pod}"
        ));
        for (name, links) in [(&node, vec!["uplink", "f0", "f1", "host0"]), (&far, vec!["far0"]), (&pod, vec!["eth0"])]
        {
            for link in links {
                run(&format!("ip netns exec {name} sysctl -qw net.ipv6.conf.{link}.disable_ipv6=1"));
                run(&format!("ip -n {name} link set {link} up"));
            }
        }
        run(&format!("ip -n {node} addr add 192.168.0.2/24 dev uplink"));
        run(&format!("ip -n {far} addr add 192.168.0.254/24 dev far0"));
        run(&format!("ip -n {far} addr add {REMOTE_POD_IP}/32 dev lo"));
        run(&format!("ip -n {far} route add 10.244.0.0/24 via 192.168.0.2 src {REMOTE_POD_IP}"));
        run(&format!("ip netns exec {far} ethtool -K far0 tx off"));
        run(&format!("ip -n {pod} addr add {POD_A_IP}/32 dev eth0"));
        run(&format!("ip -n {pod} neigh add 169.254.1.1 lladdr {host_mac} dev eth0 nud permanent"));
        run(&format!("ip -n {pod} route add 169.254.1.1 dev eth0 scope link"));
        run(&format!("ip -n {pod} route add default via 169.254.1.1"));
        lab
    }

    fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    /// This test binary again, in a namespace, in a role.
    fn spawn(&self, part: &str, role: &str) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.name(part)])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "packets_cross_a_worker_on_real_sockets", "--nocapture"])
            .env(ROLE, role)
            .env(LAB, &self.prefix)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for part in ["pod", "far", "node"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(part)]).output();
        }
    }
}

#[test]
fn packets_cross_a_worker_on_real_sockets() {
    match std::env::var(ROLE).as_deref() {
        Ok("echo") => return echo(),
        Ok("node") => return node(),
        _ => {}
    }
    if std::env::var_os("ATALHO_SKIP_ROOT_TESTS").is_some() {
        println!("SKIPPED: packets_cross_a_worker_on_real_sockets: ATALHO_SKIP_ROOT_TESTS is set");
        return;
    }
    let lab = Lab::new();
    let mut echo = lab.spawn("pod", "echo");
    let output = lab.spawn("node", "node").wait_with_output().unwrap();
    let _ = echo.kill();
    let _ = echo.wait();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "the node failed");
}

/// Answers every datagram, in the pod.
fn echo() {
    let socket = UdpSocket::bind((POD_A_IP, ECHO_PORT)).unwrap();
    let mut buffer = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        // The answer may meet an uplink that is down.
        let _ = socket.send_to(&buffer[..len], from);
    }
}

/// One numbered request after another from the far host; returns how many came back right.
fn requests(lab: &str, count: usize, wait_ms: u64) -> usize {
    // A thread of its own would need setns; the shell's tools need none. The far host's socket is this process's, made
    // by a child that hands nothing back: so the child does the asking.
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{lab}-far"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "asks_from_the_far_host", "--nocapture"])
        .env(ROLE, format!("ask {count} {wait_ms}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = text.split("answered=").nth(1).unwrap_or_else(|| panic!("no answer in {text}"));
    answer.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap()
}

/// Not a test by itself: the far host's part of the one above.
#[test]
fn asks_from_the_far_host() {
    let Some(role) = std::env::var(ROLE).ok().filter(|role| role.starts_with("ask")) else { return };
    let numbers: Vec<u64> = role.split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    let (count, wait_ms) = (numbers[0], numbers[1]);
    let socket = UdpSocket::bind((REMOTE_POD_IP, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(wait_ms))).unwrap();
    let mut answered = 0;
    for n in 0..count {
        let mut request = vec![n as u8; 18 + (n as usize * 37) % 1400];
        request[..8].copy_from_slice(&n.to_be_bytes());
        if socket.send_to(&request, (POD_A_IP, ECHO_PORT)).is_err() {
            continue;
        }
        let mut buffer = [0; 2048];
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            assert_eq!(from, (POD_A_IP, ECHO_PORT).into());
            assert_eq!(&buffer[..len], request, "request {n} came back changed");
            answered += 1;
        }
    }
    println!("answered={answered} ");
}

fn mapped(ip: Ipv4Addr) -> ClaimKey {
    ClaimKey { addr: Ipv6Addr::from(ip.to_ipv6_mapped()).octets(), ..ClaimKey::default() }
}

/// The daemon's part: programs, sockets, a worker.
fn node() {
    let lab = std::env::var(LAB).unwrap();
    let bpffs = PathBuf::from(format!("/tmp/{lab}-bpf"));
    std::fs::create_dir_all(&bpffs).unwrap();
    // `ip netns exec` gave this process a mount namespace of its own: the mount goes with it.
    run(&format!("mount -t bpf bpf {}", bpffs.display()));
    ethtool::prepare_funnel("f1").unwrap();
    ethtool::prepare_uplink("uplink").unwrap();
    let index = |name: &str| atalho_sys::check::interface(name).unwrap().ifindex;
    let (uplink, f0, f1, host) = (index("uplink"), index("f0"), index("f1"), index("host0"));

    let geometry = Geometry::for_max_flows(4096);
    let buckets = geometry.buckets().next_power_of_two();
    let sizes = Sizes { buckets4: buckets, buckets6: buckets, next_hops: 8 };
    let secret = random::words64().unwrap();
    let setup = Setup { bpffs: &bpffs, node: "node-a", sizes, uplink, f0, f1, workers: 1, secret };
    let (mut kernel, _) = Kernel::open(&setup).unwrap();
    let maps = kernel.maps();
    let table = ConnTable::new(
        TableMemory {
            tags4: SharedArray::words64(maps.tags4.fd, maps.tags4.bytes).unwrap(),
            entries4: SharedArray::words32(maps.flows4.fd, maps.flows4.bytes).unwrap(),
            tags6: SharedArray::words64(maps.tags6.fd, maps.tags6.bytes).unwrap(),
            entries6: SharedArray::words32(maps.flows6.fd, maps.flows6.bytes).unwrap(),
        },
        geometry,
        &kernel.secret(),
    );
    let words = SharedArray::words64(maps.next_hops.fd, 8 * hop::WORDS * 8).unwrap();
    let next_hops = NextHops::new(words);
    let hop = |kind, ifindex, destination, source| NextHop {
        kind,
        ifindex,
        destination: Some(destination),
        source,
        mtu: 1500,
    };
    let f1_mac = atalho_sys::check::interface("f1").unwrap().mac;
    next_hops.set(0, &hop(NextHopKind::Node, f1, f1_mac, tag_mac(f1)));
    next_hops.set(1, &hop(NextHopKind::Pod, host, POD_MAC, HOST_END_MAC));
    next_hops.set(3, &hop(NextHopKind::Uplink, uplink, GATEWAY_MAC, UPLINK_MAC));

    kernel.claim(&mapped(POD_A_IP), ClaimKind::Pod).unwrap();
    kernel.claim(&mapped(Ipv4Addr::new(192, 168, 0, 2)), ClaimKind::Node).unwrap();
    let record = PortRecord { pod_mac: POD_MAC, host_mac: HOST_END_MAC, addr4: POD_A_IP.octets(), addr6: [0; 16] };
    kernel.attach_pod(host, &record).unwrap();

    let of = |interface: &str| QueueOf { interface: interface.into(), queue: 0 };
    let options = OpenOptions::new(of("uplink"), of("f0"), 1500);
    let opened = open(&options).unwrap();
    // A second process for the same queue is refused by name once the patience is over.
    let hasty = OpenOptions { bind_retry: Duration::from_millis(50), ..options.clone() };
    let refused = open(&hasty).err().expect("the queue is taken").to_string();
    assert!(refused.contains("f0 queue 0") && refused.contains("another process holds this queue"), "{refused}");
    kernel.set_xsk(XskPortOf::Uplink, 0, opened.uplink.as_fd()).unwrap();
    kernel.set_xsk(XskPortOf::Funnel, 0, opened.funnel.as_fd()).unwrap();
    println!("modes: uplink {:?}, funnel {:?}", opened.uplink.mode(), opened.funnel.mode());

    let readers = [opened.uplink.statistics_reader().unwrap(), opened.funnel.statistics_reader().unwrap()].map(Some);
    let stats = Arc::new(WorkerStats::new(0, None, readers));
    let (epochs, counters, doorbell) =
        (Arc::new(Epochs::new()), Arc::new(Counters::default()), Arc::new(Doorbell::new().unwrap()));
    let engine = Engine::new(EngineParts {
        worker: 0,
        table,
        epochs: epochs.clone(),
        next_hops,
        counters: counters.clone(),
        seed: 1,
        prefetch: prefetch::line,
    });
    let mut tables = tables();
    use atalho_engine::tables::Port as TablePort;
    tables.ports = Arc::new(
        [
            (uplink, TablePort::Uplink),
            (f1, TablePort::Node),
            (host, TablePort::Pod { name: "default/a".into(), addresses: vec![IpAddr::V4(POD_A_IP)] }),
        ]
        .into(),
    );
    let worker = Worker::new(
        WorkerOptions { index: 0, workers: 1, core: Some(0), spin: Spin::Micros(50), uplink_ifindex: uplink },
        WorkerParts {
            pool: opened.pool,
            uplink: XskPort::new(opened.uplink),
            funnel: XskPort::new(opened.funnel),
            engine,
            epochs,
            queues: WorkerQueues::new(64),
            snapshot: Arc::new(ArcSwap::from_pointee(Tables { ..tables })),
            ring_slow_path: Box::new(|| {}),
            doorbell: doorbell.clone(),
            stats: stats.clone(),
        },
    );
    let stop = Arc::new(AtomicBool::new(false));
    let thread = worker.spawn(stop.clone()).unwrap();

    // 1. Every request is answered, and every count agrees.
    const REQUESTS: usize = 3000;
    let from = Instant::now();
    assert_eq!(requests(&lab, REQUESTS, 2000), REQUESTS);
    println!("{REQUESTS} requests in {:?}", from.elapsed());
    let sleeps = stats.sleeps();
    eventually("the worker rests", || stats.sleeps() > sleeps + 1);
    let books = counters.books();
    assert!(books.is_even(), "{books:?}");
    assert_eq!((books.received, books.forwarded), (2 * REQUESTS as u64, 2 * REQUESTS as u64), "{books:?}");
    let kernel_counts = kernel.counters().unwrap();
    let count =
        |counter: KernelCounter| kernel_counts[KERNEL_COUNTERS.iter().position(|c| *c == counter).expect("a counter")];
    assert_eq!(count(KernelCounter::UplinkClaim), REQUESTS as u64);
    assert_eq!(count(KernelCounter::FunnelClaim), REQUESTS as u64);
    assert_eq!(count(KernelCounter::DeliverPod), REQUESTS as u64);
    for side in Side::ALL {
        let socket = stats.socket(side).expect("a socket").unwrap();
        assert_eq!(
            (socket.rx_dropped, socket.rx_ring_full, socket.rx_invalid_descs, socket.tx_invalid_descs),
            (0, 0, 0, 0)
        );
        assert_eq!(stats.refused_by_kernel(side), 0);
    }
    stats.books().check().unwrap();
    assert_eq!(stats.books().total, options.frames);
    println!("frame books at rest: {:?}", stats.books());

    // 2. The uplink goes down and up again: the socket lives, nothing is lost but packets, by name.
    run("ip link set uplink down");
    std::thread::sleep(Duration::from_millis(300));
    run("ip link set uplink up");
    let from = Instant::now();
    eventually("traffic flows again", || requests(&lab, 20, 200) == 20);
    println!("traffic again {:?} after link up", from.elapsed());
    assert_eq!(stats.port_state(Side::Uplink), PortState::Up);
    // Its neighbour goes down: no carrier.
    run(&format!("ip -n {lab}-far link set far0 down"));
    std::thread::sleep(Duration::from_millis(200));
    run(&format!("ip -n {lab}-far link set far0 up"));
    run(&format!("ip -n {lab}-far route replace 10.244.0.0/24 via 192.168.0.2 src {REMOTE_POD_IP}"));
    eventually("traffic flows again", || requests(&lab, 20, 200) == 20);
    let sleeps = stats.sleeps();
    eventually("the worker rests", || stats.sleeps() > sleeps + 1);
    stats.books().check().unwrap();
    assert!(counters.books().is_even(), "{:?}", counters.books());

    // 3. Idle costs nothing.
    let (busy, asleep, from) = (stats.busy_ns(), stats.asleep_ns(), Instant::now());
    std::thread::sleep(Duration::from_millis(2500));
    let (busy, asleep) = (stats.busy_ns() - busy, stats.asleep_ns() - asleep);
    assert!(busy < 25_000_000, "busy {busy} ns of {:?}", from.elapsed());
    assert!(asleep > 1_000_000_000, "asleep only {asleep} ns of {:?}", from.elapsed());

    // 4. The interface is deleted: the worker says so, and its frames come back.
    run("ip link del uplink");
    let send_answers_to_nowhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let _ = send_answers_to_nowhere.send_to(&[0], (Ipv4Addr::LOCALHOST, 9));
    stop.store(true, Ordering::Relaxed);
    doorbell.ring();
    thread.join().unwrap();
    assert_eq!(stats.books_wrong(), 0, "{:?}", stats.books());
}
