//! The loop over ports in plain memory: what goes in, what comes out, and that both books stay even.

mod common;

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atalho_engine::handoff::{Handoff, Task};
use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_layout::{ifindex_of_tag, tag_mac};
use atalho_sys::xsk::{Frame, FrameBooks, FramePool};
use atalho_worker::memory_port::MemoryPort;
use atalho_worker::port::PortState;
use atalho_worker::{Port, Spin, Worker};
use common::*;

fn destination(frame: &[u8]) -> [u8; 6] {
    *frame.first_chunk().expect("an Ethernet header")
}

fn drain<P: Port>(worker: &mut Worker<P>) {
    while worker.turn() > 0 {}
}

fn assert_even(bench: &Bench) {
    let books = bench.counters.books();
    assert!(books.is_even(), "{books:?}");
}

#[test]
fn frames_cross_from_port_to_port_and_both_books_are_even() {
    let (mut worker, bench) = bench();
    for n in 0..150 {
        assert!(bench.funnel.send(&from_pod_a(POD_B_IP, 1000 + n)));
        assert!(bench.funnel.send(&from_pod_a(REMOTE_POD_IP, 2000 + n)));
        assert!(bench.uplink.send(&from_uplink(POD_A_IP, 3000 + n)));
    }
    drain(&mut worker);
    let (mut pods, mut uplink) = ([0, 0], 0);
    while let Some(frame) = bench.funnel.receive() {
        match ifindex_of_tag(destination(frame.bytes())) {
            Some(POD_A) => pods[0] += 1,
            Some(POD_B) => pods[1] += 1,
            other => panic!("a frame for {other:?}"),
        }
    }
    while let Some(frame) = bench.uplink.receive() {
        assert_eq!(destination(frame.bytes()), GATEWAY_MAC);
        uplink += 1;
    }
    assert_eq!((pods, uplink), ([150, 150], 150));
    let books = bench.counters.books();
    assert_eq!((books.received, books.forwarded), (450, 450));
    assert_even(&bench);
    worker.frame_books().check().unwrap();
    assert_eq!(worker.frame_books().free, FRAMES);
}

#[test]
fn a_funnel_frame_without_a_tag_is_dropped_by_name() {
    let (mut worker, bench) = bench();
    bench.funnel.send(&udp([2, 0, 0, 0, 0, 9], POD_A_IP, POD_B_IP, 1));
    bench.funnel.send(&udp(tag_mac(999), POD_A_IP, POD_B_IP, 1));
    bench.funnel.send(&[1, 2, 3]);
    drain(&mut worker);
    let books = bench.counters.books();
    assert_eq!(books.dropped[DropReason::UnknownPort as usize], 2);
    assert_eq!(books.dropped[DropReason::TooShort as usize], 1);
    assert_even(&bench);
    worker.frame_books().check().unwrap();
}

#[test]
fn a_punt_carries_the_unchanged_frame_and_rings_once_a_turn() {
    let (mut worker, bench) = bench();
    let sent = from_pod_a(STRANGER_IP, 7);
    bench.funnel.send(&sent);
    bench.funnel.send(&from_pod_a(STRANGER_IP, 8));
    drain(&mut worker);
    let buffer = bench.queues.punts.pop().expect("a punt");
    assert_eq!(buffer.bytes(), sent);
    assert_eq!(buffer.ingress, POD_A);
    let asked = "192.168.0.99".parse().ok();
    assert_eq!(buffer.task, Task::Punt { reason: PuntReason::NeighbourUnresolved, next_hop_address: asked, mtu: 0 });
    assert_eq!(bench.rings.load(Ordering::Relaxed), 1);
    assert_even(&bench);
}

#[test]
fn a_full_slow_path_is_a_named_drop() {
    let (mut worker, bench) = bench_with(4, Spin::Always, |port| port);
    for n in 0..10 {
        bench.funnel.send(&from_pod_a(STRANGER_IP, n));
    }
    drain(&mut worker);
    let books = bench.counters.books();
    assert_eq!((books.punted(), books.dropped[DropReason::PuntQueueFull as usize]), (4, 6));
    assert_even(&bench);
    worker.frame_books().check().unwrap();
}

fn give(bench: &Bench, task: Task, ingress: u32, bytes: &[u8]) {
    let mut buffer: Box<Handoff> = bench.queues.free.pop().expect("a free buffer");
    buffer.task = task;
    buffer.ingress = ingress;
    buffer.len = bytes.len();
    buffer.frame[..bytes.len()].copy_from_slice(bytes);
    assert!(bench.queues.returns.push(buffer).is_ok());
}

#[test]
fn what_the_slow_path_returns_is_resumed_sent_or_put_away() {
    let (mut worker, bench) = bench();
    let buffers = bench.queues.free.len();
    // Punted first, so that the books have something to take back.
    bench.funnel.send(&from_pod_a(STRANGER_IP, 7));
    drain(&mut worker);
    let punted = bench.queues.punts.pop().expect("a punt");
    bench.queues.free.push(punted).ok().expect("room");

    give(&bench, Task::Resume, POD_A, &from_pod_a(REMOTE_POD_IP, 7));
    let (to_pod, to_uplink) =
        (udp(tag_mac(POD_A), POD_B_IP, POD_A_IP, 9), udp(GATEWAY_MAC, POD_A_IP, REMOTE_POD_IP, 9));
    give(&bench, Task::Reply, POD_A, &to_pod);
    give(&bench, Task::Reply, UPLINK, &to_uplink);
    give(&bench, Task::Drop(DropReason::NeighbourTimeout), POD_A, &to_pod);
    assert_eq!(worker.turn(), 4);

    assert_eq!(bench.funnel.receive().expect("the reply to the pod").bytes(), to_pod);
    let on_uplink: Vec<_> = std::iter::from_fn(|| bench.uplink.receive()).collect();
    assert_eq!(on_uplink.len(), 2);
    assert!(on_uplink.iter().any(|frame| frame.bytes() == to_uplink), "the reply by the uplink");
    let books = bench.counters.books();
    assert_eq!((books.received, books.forwarded, books.returned, books.originated), (1, 1, 1, 2));
    assert_even(&bench);
    assert_eq!(bench.queues.free.len(), buffers, "every buffer is back");
    worker.frame_books().check().unwrap();
}

#[test]
fn a_port_that_is_down_and_a_full_ring_are_named_drops() {
    let (mut worker, bench) = bench();
    bench.uplink.set_state(PortState::Down);
    bench.funnel.send(&from_pod_a(REMOTE_POD_IP, 1));
    drain(&mut worker);
    assert_eq!(bench.counters.books().dropped[DropReason::TxPortDown as usize], 1);
    bench.uplink.set_state(PortState::Up);
    // The wire holds 1024 frames and nobody takes any.
    for n in 0..1100 {
        bench.funnel.send(&from_pod_a(REMOTE_POD_IP, n % 8));
        drain(&mut worker);
    }
    let books = bench.counters.books();
    assert_eq!((books.forwarded, books.dropped[DropReason::TxRingFull as usize]), (1024, 76));
    assert_even(&bench);
    worker.frame_books().check().unwrap();
}

#[test]
fn control_ends_a_flow_through_the_worker() {
    let (mut worker, bench) = bench();
    bench.funnel.send(&from_pod_a(POD_B_IP, 5));
    drain(&mut worker);
    let flow = bench.table.connections().next().expect("a flow").at;
    assert!(bench.queues.end_flows.push(flow).is_ok());
    assert!(bench.queues.end_flows.push(flow).is_ok());
    worker.turn();
    assert_eq!(bench.stats.flows_ended(), 1, "the second time there is none");
    assert_eq!(bench.table.count(), 0);
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

fn start(worker: Worker<MemoryPort>) -> Running {
    let stop = Arc::new(AtomicBool::new(false));
    let thread = worker.spawn(stop.clone()).unwrap();
    Running { stop, thread }
}

impl Running {
    fn end(self, bench: &Bench) -> Duration {
        let from = Instant::now();
        self.stop.store(true, Ordering::Relaxed);
        bench.doorbell.ring();
        self.thread.join().unwrap();
        from.elapsed()
    }
}

#[test]
fn an_idle_worker_sleeps_and_frames_returns_and_control_wake_it() {
    let began = Instant::now();
    let (worker, bench) = bench();
    let running = start(worker);
    let asleep = || bench.queues.is_asleep() && bench.queues.epoch.load(Ordering::SeqCst) == u64::MAX;
    eventually("it sleeps", asleep);

    // No faster than the longest sleep would prove nothing.
    let quickly = |what: &str, done: &mut dyn FnMut() -> bool| {
        let from = Instant::now();
        eventually(what, done);
        assert!(from.elapsed() < Duration::from_millis(500), "{what}: only after {:?}", from.elapsed());
    };
    bench.funnel.send(&from_pod_a(POD_B_IP, 5));
    quickly("a frame wakes it", &mut || bench.funnel.receive().is_some());

    eventually("it sleeps again", asleep);
    give(&bench, Task::Resume, POD_A, &from_pod_a(POD_B_IP, 6));
    if bench.queues.is_asleep() {
        bench.doorbell.ring();
    }
    quickly("a returned packet wakes it", &mut || bench.funnel.receive().is_some());

    eventually("it sleeps once more", asleep);
    let flow = bench.table.connections().next().expect("a flow").at;
    assert!(bench.queues.end_flows.push(flow).is_ok());
    if bench.queues.is_asleep() {
        bench.doorbell.ring();
    }
    quickly("a request of control wakes it", &mut || bench.stats.flows_ended() == 1);

    eventually("it sleeps at last", asleep);
    let took = running.end(&bench);
    assert!(took < Duration::from_millis(500), "stopping took {took:?}");
    assert!(bench.stats.sleeps() >= 4);
    let (busy, asleep) = (bench.stats.busy_ns(), bench.stats.asleep_ns());
    assert!(busy > 0 && busy + asleep <= began.elapsed().as_nanos() as u64, "busy {busy} ns, asleep {asleep} ns");
    assert_eq!(bench.stats.books_wrong(), 0);
    assert_eq!(bench.stats.books().free, FRAMES);
}

/// Pushers and the worker race for the last moment before a sleep; a lost wake-up would cost a second each.
#[test]
fn no_wake_up_is_lost() {
    let (worker, bench) = bench_with(16, Spin::Micros(0), |port| port);
    let running = start(worker);
    let from = Instant::now();
    for n in 0..3000u32 {
        while bench.queues.free.is_empty() {
            std::hint::spin_loop();
        }
        give(&bench, Task::Drop(DropReason::NeighbourTimeout), n, &[0; 60]);
        if bench.queues.is_asleep() {
            bench.doorbell.ring();
        }
        for _ in 0..n % 97 {
            std::hint::spin_loop();
        }
        if n % 50 == 0 {
            eventually("the buffer is put away", || bench.queues.returns.is_empty());
        }
    }
    assert!(from.elapsed() < Duration::from_secs(10), "{:?}", from.elapsed());
    // Before the end: a worker that is told to stop leaves what came in after its last turn.
    eventually("every buffer is free again", || bench.queues.free.len() == 16);
    running.end(&bench);
}

/// A port that notes how many frames there were to send at each flush, and loses the first ones: it takes them and neither
/// sends nor gives them back.
struct OddPort {
    inner: MemoryPort,
    to_lose: u32,
    queued: usize,
    flushed: Flushed,
}

type Flushed = Arc<Mutex<Vec<usize>>>;

impl Port for OddPort {
    fn receive(&mut self, pool: &mut FramePool, into: &mut Vec<Frame>, max: usize) -> usize {
        self.inner.receive(pool, into, max)
    }

    fn transmit(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), (Frame, DropReason)> {
        if self.to_lose > 0 {
            self.to_lose -= 1;
            return Ok(());
        }
        self.queued += 1;
        self.inner.transmit(pool, frame)
    }

    fn flush(&mut self, _: u64) {
        self.flushed.lock().unwrap().push(std::mem::take(&mut self.queued));
    }

    fn reclaim(&mut self, pool: &mut FramePool, now_ms: u64) {
        self.inner.reclaim(pool, now_ms);
    }

    fn refill(&mut self, pool: &mut FramePool) {
        self.inner.refill(pool);
    }

    fn waiting(&self) -> u32 {
        self.inner.waiting()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wake_fd()
    }

    fn add_to_books(&self, books: &mut FrameBooks) {
        self.inner.add_to_books(books);
    }

    fn state(&self) -> PortState {
        self.inner.state()
    }

    fn refused_by_kernel(&self) -> u64 {
        0
    }
}

#[test]
fn a_busy_turn_rings_each_port_once_for_four_batches_and_what_comes_alone_goes_alone() {
    let flushed = Flushed::default();
    let (mut worker, bench) =
        bench_with(16, Spin::Always, |inner| OddPort { inner, to_lose: 0, queued: 0, flushed: flushed.clone() });
    for n in 0..300 {
        assert!(bench.uplink.send(&from_uplink(POD_A_IP, 1000 + n % 8)));
    }
    assert!(bench.funnel.send(&from_pod_a(REMOTE_POD_IP, 2000)));
    // The uplink's, then the funnel's, turn by turn.
    let turns = [(257, [1, 256]), (44, [0, 44]), (0, [0, 0])];
    for (packets, sent) in turns {
        assert_eq!(worker.turn(), packets);
        assert_eq!(std::mem::take(&mut *flushed.lock().unwrap()), sent);
    }
    assert_even(&bench);
    worker.frame_books().check().unwrap();
}

#[test]
fn a_frame_lost_on_purpose_is_noticed() {
    let (worker, bench) =
        bench_with(16, Spin::Micros(0), |inner| OddPort { inner, to_lose: 1, queued: 0, flushed: Flushed::default() });
    let stop = Arc::new(AtomicBool::new(false));
    let thread = worker.spawn(stop.clone()).unwrap();
    eventually("a first report", || bench.stats.sleeps() > 0);
    assert_eq!(bench.stats.books_wrong(), 0);
    bench.funnel.send(&from_pod_a(POD_B_IP, 5));
    eventually("the loss is noticed", || bench.stats.books_wrong() > 0);
    assert_eq!(bench.stats.books().held, 1);
    stop.store(true, Ordering::Relaxed);
    bench.doorbell.ring();
    thread.join().unwrap();
}

#[test]
fn a_new_snapshot_is_used_by_the_next_turn() {
    let (mut worker, bench) = bench();
    let first = bench.snapshot.load_full();
    worker.turn();
    assert_eq!(bench.stats.generation(), 1);
    bench.snapshot.store(Arc::new(atalho_engine::tables::Tables { generation: 2, ..(*first).clone() }));
    worker.turn();
    assert_eq!(bench.stats.generation(), 2);
    assert_eq!(Arc::strong_count(&first), 1, "the worker let the old one go");
}

/// Set for the child process of the next test.
const PANIC_CHILD: &str = "ATALHO_TEST_WORKER_PANIC";

struct PanickingPort;

impl Port for PanickingPort {
    fn receive(&mut self, _: &mut FramePool, _: &mut Vec<Frame>, _: usize) -> usize {
        panic!("a bug")
    }

    fn transmit(&mut self, _: &mut FramePool, _: Frame) -> Result<(), (Frame, DropReason)> {
        Ok(())
    }

    fn flush(&mut self, _: u64) {}

    fn reclaim(&mut self, _: &mut FramePool, _: u64) {}

    fn refill(&mut self, _: &mut FramePool) {}

    fn waiting(&self) -> u32 {
        1
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn add_to_books(&self, _: &mut FrameBooks) {}

    fn state(&self) -> PortState {
        PortState::Up
    }

    fn refused_by_kernel(&self) -> u64 {
        0
    }
}

#[test]
fn a_panic_in_a_worker_ends_the_process() {
    if std::env::var_os(PANIC_CHILD).is_some() {
        let (worker, _bench) = bench_with(4, Spin::Always, |_| PanickingPort);
        let _ = worker.spawn(Arc::new(AtomicBool::new(false))).unwrap().join();
        unreachable!("the process must be over");
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_panic_in_a_worker_ends_the_process", "--nocapture"])
        .env(PANIC_CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("a bug") && text.contains("worker 0 panicked"), "{text}");
}
