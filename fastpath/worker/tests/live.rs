//! A worker on real sockets: two veths, the kernel programs, a pod in a namespace of its own, a host behind the uplink.
//! Counts are compared with the far host's own and the kernel's (XDP_STATISTICS, the programs' counters).
//!
//! Needs root; ATALHO_SKIP_ROOT_TESTS=1 skips. Every namespace is made here and taken away again.

mod common;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs, Geometry, TableMemory};
use atalho_engine::counters::Counters;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::{NextHop, NextHops};
use atalho_engine::pipeline::{Engine, EngineParts};
use atalho_engine::tables::{Port as TablePort, Tables};
use atalho_engine::verdict::DropReason;
use atalho_layout::{ClaimKey, ClaimKind, KERNEL_COUNTERS, KernelCounter, NextHopKind, PortRecord, hop, tag_mac};
use atalho_sys::bpf::{Folder, Kernel, Setup, Sizes, XskPort as XskPortOf};
use atalho_sys::doorbell::Doorbell;
use atalho_sys::mmap::SharedArray;
use atalho_sys::xsk::{OpenOptions, QueueOf, Side, open};
use atalho_sys::{check, ethtool, random};
use atalho_worker::port::PortState;
use atalho_worker::{Native, Spin, Worker, WorkerOptions, WorkerParts, WorkerStats, XskPort};
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
        let _ = std::fs::remove_dir(bpffs(&self.prefix));
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
    let mut buffer = [0; 9000];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        // The answer may meet an uplink that is down.
        let _ = socket.send_to(&buffer[..len], from);
    }
}

/// This test binary in a namespace, asking; returns how many requests came back right.
fn ask(lab: &str, part: &str, count: usize, wait_ms: u64) -> usize {
    ask_sized(lab, part, count, wait_ms, 1400)
}

/// As [`ask`], with up to `bytes_max` bytes of payload.
fn ask_sized(lab: &str, part: &str, count: usize, wait_ms: u64, bytes_max: usize) -> usize {
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{lab}-{part}"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "asks_from_another_namespace", "--nocapture"])
        .env(ROLE, format!("ask {count} {wait_ms} {bytes_max}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = text.split("answered=").nth(1).unwrap_or_else(|| panic!("no answer in {text}"));
    answer.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap()
}

/// Not a test by itself: the asking part of the one above. One numbered request after another to the pod's echo (or,
/// from the pod, to the far host, which does not answer); with a wait of 0 ms all at once and without looking at answers.
#[test]
fn asks_from_another_namespace() {
    let Some(role) = std::env::var(ROLE).ok().filter(|role| role.starts_with("ask")) else { return };
    let numbers: Vec<u64> = role.split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    let (count, wait_ms, bytes_max) = (numbers[0], numbers[1], numbers[2] as usize);
    let (socket, to) = match UdpSocket::bind((REMOTE_POD_IP, 0)) {
        Ok(socket) => (socket, POD_A_IP),
        Err(_) => (UdpSocket::bind((POD_A_IP, 0)).unwrap(), REMOTE_POD_IP),
    };
    socket.set_read_timeout((wait_ms > 0).then(|| Duration::from_millis(wait_ms))).unwrap();
    let mut answered = 0;
    for n in 0..count {
        let mut request = vec![n as u8; 18 + (n as usize * 37) % bytes_max];
        request[..8].copy_from_slice(&n.to_be_bytes());
        if socket.send_to(&request, (to, ECHO_PORT)).is_err() || wait_ms == 0 {
            continue;
        }
        let mut buffer = [0; 9000];
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            assert_eq!(from, (to, ECHO_PORT).into());
            assert_eq!(&buffer[..len], request, "request {n} came back changed");
            answered += 1;
        }
    }
    println!("answered={answered} ");
}

fn bpffs(lab: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{lab}-bpf"))
}

fn mapped(ip: Ipv4Addr) -> ClaimKey {
    ClaimKey { addr: ip.to_ipv6_mapped().octets(), ..ClaimKey::default() }
}

/// The daemon's part: programs, table, and a worker that can be stopped and started.
struct Daemon {
    lab: String,
    kernel: Kernel,
    table: ConnTable,
    next_hops: NextHops,
    snapshot: Arc<ArcSwap<Tables>>,
    uplink: u32,
    mtu: u16,
    options: OpenOptions,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
    stats: Arc<WorkerStats>,
    counters: Arc<Counters>,
    doorbell: Arc<Doorbell>,
}

impl Daemon {
    fn start(lab: String) -> Self {
        let bpffs = bpffs(&lab);
        std::fs::create_dir_all(&bpffs).unwrap();
        // `ip netns exec` gave this process a mount namespace of its own: the mount goes with it.
        run(&format!("mount -t bpf bpf {}", bpffs.display()));
        ethtool::prepare_funnel("f1").unwrap();
        ethtool::prepare_uplink("uplink").unwrap();
        let interface = |name: &str| check::interface(name).unwrap();
        let (uplink, f0, f1, host) =
            (interface("uplink").ifindex, interface("f0").ifindex, interface("f1").ifindex, interface("host0").ifindex);

        let geometry = Geometry::for_max_flows(4096);
        let buckets = geometry.buckets();
        let sizes = Sizes { buckets4: buckets, buckets6: buckets, next_hops: 8 };
        let secret = random::words64().unwrap();
        let setup = Setup { sizes, uplink, f0, f1, workers: 1, is_fair: true, secret };
        let (mut kernel, _) = Kernel::open(Folder::lock(&bpffs, "node-a").unwrap(), &setup).unwrap();
        let maps = kernel.maps();
        let memory = TableMemory {
            tags4: SharedArray::words64(maps.tags4.fd, maps.tags4.bytes).unwrap(),
            entries4: SharedArray::words32(maps.flows4.fd, maps.flows4.bytes).unwrap(),
            tags6: SharedArray::words64(maps.tags6.fd, maps.tags6.bytes).unwrap(),
            entries6: SharedArray::words32(maps.flows6.fd, maps.flows6.bytes).unwrap(),
        };
        let table = ConnTable::new(memory, geometry, &kernel.secret());
        let next_hops = NextHops::new(SharedArray::words64(maps.next_hops.fd, 8 * hop::WORDS * 8).unwrap());
        let hop = |kind, ifindex, destination, source| NextHop {
            kind,
            ifindex,
            destination: Some(destination),
            source,
            mtu: 1500,
        };
        next_hops.set(0, &hop(NextHopKind::Node, f1, interface("f1").mac, tag_mac(f1)));
        next_hops.set(1, &hop(NextHopKind::Pod, host, POD_MAC, HOST_END_MAC));
        next_hops.set(3, &hop(NextHopKind::Uplink, uplink, GATEWAY_MAC, UPLINK_MAC));

        kernel.claim(&mapped(POD_A_IP), ClaimKind::Pod).unwrap();
        kernel.claim(&mapped(Ipv4Addr::new(192, 168, 0, 2)), ClaimKind::Node).unwrap();
        let record = PortRecord { pod_mac: POD_MAC, host_mac: HOST_END_MAC, addr4: POD_A_IP.octets(), addr6: [0; 16] };
        kernel.attach_pod(host, &record).unwrap();
        let pod = TablePort::Pod { name: "default/a".into(), addresses: vec![IpAddr::V4(POD_A_IP)] };
        let ports = [(uplink, TablePort::Uplink), (f1, TablePort::Node), (host, pod)];
        let snapshot =
            Arc::new(ArcSwap::from_pointee(Tables { ports: Arc::new(ports.into_iter().collect()), ..tables() }));
        let of = |interface: &str| QueueOf { interface: interface.into(), queue: 0 };
        let options = OpenOptions::new(of("uplink"), of("f0"), 1500);
        Self { lab, kernel, table, next_hops, snapshot, uplink, mtu: 1500, options }
    }

    /// Of every link, and of the next hops.
    fn set_mtu(&mut self, mtu: u16) {
        for link in ["uplink", "f0", "f1", "host0"] {
            run(&format!("ip link set {link} mtu {mtu}"));
        }
        run(&format!("ip -n {}-far link set far0 mtu {mtu}", self.lab));
        run(&format!("ip -n {}-pod link set eth0 mtu {mtu}", self.lab));
        for index in [0, 1, 3] {
            let hop = self.next_hops.get(index).expect("a next hop");
            self.next_hops.set(index, &NextHop { mtu, ..hop });
        }
        self.mtu = mtu;
    }

    fn start_worker(&mut self) -> Running {
        let opened = open(&self.options).unwrap();
        self.kernel.set_xsk(XskPortOf::Uplink, 0, opened.uplink.as_fd()).unwrap();
        self.kernel.set_xsk(XskPortOf::Funnel, 0, opened.funnel.as_fd()).unwrap();
        let sockets = [&opened.uplink, &opened.funnel].map(|queue| Some(queue.statistics_reader().unwrap()));
        let stats = Arc::new(WorkerStats::new(0, Some(0), sockets));
        let (epochs, counters, doorbell) =
            (Arc::new(Epochs::new()), Arc::new(Counters::default()), Arc::new(Doorbell::new().unwrap()));
        let engine = Engine::new(EngineParts {
            worker: 0,
            table: self.table,
            affinity: AffinityTable::in_memory(64, &self.kernel.secret()),
            epochs: epochs.clone(),
            next_hops: self.next_hops,
            counters: counters.clone(),
            seed: 1,
            processor: Native,
        });
        let uplink_ifindex = self.uplink;
        let worker = Worker::new(
            WorkerOptions {
                index: 0,
                workers: 1,
                core: Some(0),
                spin: Spin::Micros(50),
                uplink_ifindex,
                frame_bytes_max: [usize::from(self.mtu) + 18; 2],
            },
            WorkerParts {
                pool: opened.pool,
                uplink: XskPort::new(opened.uplink),
                funnel: XskPort::new(opened.funnel),
                engine,
                epochs,
                queues: WorkerQueues::new(64),
                snapshot: self.snapshot.clone(),
                ring_slow_path: Box::new(|| {}),
                doorbell: doorbell.clone(),
                stats: stats.clone(),
                pressure: None,
            },
        );
        let stop = Arc::new(AtomicBool::new(false));
        let thread = worker.spawn(stop.clone()).unwrap();
        Running { stop, thread, stats, counters, doorbell }
    }

    fn kernel_count(&self, counter: KernelCounter) -> u64 {
        let at = KERNEL_COUNTERS.iter().position(|c| *c == counter).expect("a counter");
        self.kernel.counters().unwrap()[at]
    }

    fn requests(&self, count: usize) {
        assert_eq!(ask(&self.lab, "far", count, 2000), count);
    }

    fn traffic_flows_again(&self) {
        eventually("traffic flows again", || ask(&self.lab, "far", 20, 200) == 20);
    }
}

impl Running {
    /// Waits until nothing is on its way, and checks both books.
    fn rest(&self) {
        let sleeps = self.stats.sleeps();
        eventually("the worker rests", || self.stats.sleeps() > sleeps + 1);
        self.stats.books().check().unwrap();
        assert_eq!(self.stats.books_wrong(), 0);
        assert!(self.counters.books().is_even(), "{:?}", self.counters.books());
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.doorbell.ring();
        self.thread.join().unwrap();
    }
}

fn node() {
    let mut daemon = Daemon::start(std::env::var(LAB).unwrap());
    let worker = daemon.start_worker();
    another_process_is_refused(&daemon);
    every_request_is_answered_and_every_count_agrees(&daemon, &worker);
    a_flood_is_accounted_for(&daemon, &worker);
    a_link_goes_down_and_up(&daemon, &worker);
    idle_costs_nothing(&worker);
    worker.end();
    frames_of_several_pieces_go_through(&mut daemon);
    // The queue is bound again at once, or after the patience for a predecessor that is not quite gone.
    let worker = daemon.start_worker();
    daemon.requests(20);
    a_deleted_interface_is_told_and_its_frames_come_back(&daemon, &worker);
    worker.end();
}

fn another_process_is_refused(daemon: &Daemon) {
    let hasty = OpenOptions { bind_retry: Duration::from_millis(50), ..daemon.options.clone() };
    let refused = open(&hasty).err().expect("the queue is taken").to_string();
    assert!(refused.contains("f0 queue 0") && refused.contains("another process holds this queue"), "{refused}");
}

fn every_request_is_answered_and_every_count_agrees(daemon: &Daemon, worker: &Running) {
    const REQUESTS: u64 = 3000;
    let from = Instant::now();
    daemon.requests(REQUESTS as usize);
    println!("{REQUESTS} requests one after another in {:?}", from.elapsed());
    worker.rest();
    let books = worker.counters.books();
    assert_eq!((books.received, books.forwarded), (2 * REQUESTS, 2 * REQUESTS), "{books:?}");
    for counter in [KernelCounter::UplinkClaim, KernelCounter::FunnelClaim, KernelCounter::DeliverPod] {
        assert_eq!(daemon.kernel_count(counter), REQUESTS, "{}", counter.name());
    }
    for side in Side::ALL {
        assert_eq!(lost_before_the_worker(worker, side), 0);
        assert_eq!(worker.stats.refused_by_kernel(side), 0);
    }
    assert_eq!(worker.stats.books().total, daemon.options.frames);
}

/// What the kernel says it could not give to the worker.
fn lost_before_the_worker(worker: &Running, side: Side) -> u64 {
    let socket = worker.stats.socket(side).expect("a socket").unwrap();
    assert_eq!((socket.rx_invalid_descs, socket.tx_invalid_descs), (0, 0), "{socket:?}");
    socket.rx_dropped + socket.rx_ring_full
}

/// Packets come faster than one core serves them: what the kernel claimed is what the worker received and what the
/// socket counts as lost, to the last one.
fn a_flood_is_accounted_for(daemon: &Daemon, worker: &Running) {
    const PACKETS: usize = 30_000;
    ask(&daemon.lab, "far", PACKETS, 0);
    worker.rest();
    let claimed = daemon.kernel_count(KernelCounter::UplinkClaim) + daemon.kernel_count(KernelCounter::FunnelClaim);
    let lost: u64 = Side::ALL.iter().map(|side| lost_before_the_worker(worker, *side)).sum();
    let books = worker.counters.books();
    println!("flood: claimed {claimed}, received {}, lost by the socket {lost}", books.received);
    assert_eq!(claimed, books.received + lost);
    let delivered = daemon.kernel_count(KernelCounter::DeliverPod);
    assert!(delivered <= books.forwarded && delivered > PACKETS as u64 / 4, "{delivered} of {}", books.forwarded);
}

fn a_link_goes_down_and_up(daemon: &Daemon, worker: &Running) {
    run("ip link set uplink down");
    std::thread::sleep(Duration::from_millis(300));
    run("ip link set uplink up");
    daemon.traffic_flows_again();
    // Its neighbour goes down: no carrier.
    let far = format!("{}-far", daemon.lab);
    run(&format!("ip -n {far} link set far0 down"));
    std::thread::sleep(Duration::from_millis(300));
    run(&format!("ip -n {far} link set far0 up"));
    run(&format!("ip -n {far} route replace 10.244.0.0/24 via 192.168.0.2 src {REMOTE_POD_IP}"));
    daemon.traffic_flows_again();
    worker.rest();
    assert_eq!(worker.stats.port_state(Side::Uplink), PortState::Up);
}

fn idle_costs_nothing(worker: &Running) {
    let (busy, asleep) = (worker.stats.busy_ns(), worker.stats.asleep_ns());
    std::thread::sleep(Duration::from_millis(2500));
    let (busy, asleep) = (worker.stats.busy_ns() - busy, worker.stats.asleep_ns() - asleep);
    println!("idle for 2.5 s: busy {busy} ns, asleep {asleep} ns");
    assert!(busy < 25_000_000, "busy {busy} ns");
    assert!(asleep > 1_000_000_000, "asleep only {asleep} ns");
}

/// Over links of 9000 bytes, with chunks that hold 3840 (and, where they hold 1792, five pieces instead of three).
fn frames_of_several_pieces_go_through(daemon: &mut Daemon) {
    daemon.set_mtu(9000);
    for chunk_bytes in [4096, 2048] {
        daemon.options = OpenOptions {
            chunk_bytes,
            several_pieces: true,
            ..OpenOptions::new(daemon.options.uplink.clone(), daemon.options.funnel.clone(), 9000)
        };
        let worker = daemon.start_worker();
        daemon.requests(20);
        // Payloads of 18 + 37 n bytes: the longest make packets of nearly 9000.
        let requests = 242;
        let answered = ask_sized(&daemon.lab, "far", requests, 2000, 8960);
        worker.rest();
        let books = worker.counters.books();
        assert_eq!((answered, books.forwarded), (requests, 2 * (20 + requests as u64)), "{books:?}");
        assert!(books.received_bytes > 2 * requests as u64 * 4000, "{books:?}");
        // A flood, and its books.
        ask_sized(&daemon.lab, "far", 5000, 0, 8960);
        worker.rest();
        let lost = worker.stats.socket(Side::Uplink).unwrap().unwrap();
        println!("flood in chunks of {chunk_bytes}: {:?}, {lost:?}", worker.stats.books());
        worker.end();
    }
    daemon.set_mtu(1500);
    daemon.options = OpenOptions::new(daemon.options.uplink.clone(), daemon.options.funnel.clone(), 1500);
}

fn a_deleted_interface_is_told_and_its_frames_come_back(daemon: &Daemon, worker: &Running) {
    run("ip link del uplink");
    // A dead socket says nothing by itself; the first packet for it finds out.
    eventually("the dead port is found", || {
        ask(&daemon.lab, "pod", 5, 0);
        worker.stats.port_state(Side::Uplink) == PortState::Gone
    });
    ask(&daemon.lab, "pod", 100, 0);
    eventually("its frames come back", || {
        let books = worker.stats.books();
        books.check().is_ok() && (books.fill[Side::Uplink as usize], books.tx[Side::Uplink as usize]) == (0, 0)
    });
    let books = worker.counters.books();
    assert!(books.dropped[DropReason::TxPortDown as usize] >= 100, "{books:?}");
    assert!(books.is_even(), "{books:?}");
}
