//! No free frame left: what would need one is dropped by name, what comes in waits, and it all goes on afterwards.

mod common;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atalho_engine::handoff::Task;
use atalho_engine::verdict::DropReason;
use atalho_layout::tag_mac;
use atalho_sys::xsk::{Frame, FrameBooks, FramePool};
use atalho_worker::memory_port::MemoryPort;
use atalho_worker::port::PortState;
use atalho_worker::{Port, Spin};
use common::*;

/// A port that keeps every free frame, as one does whose far side takes nothing, until it is told to let go.
struct Hog {
    port: MemoryPort,
    is_greedy: Arc<AtomicBool>,
    kept: Vec<Frame>,
}

impl Port for Hog {
    fn receive(&mut self, pool: &mut FramePool, into: &mut Vec<Frame>, max: usize) -> usize {
        self.port.receive(pool, into, max)
    }

    fn transmit(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), (Frame, DropReason)> {
        self.port.transmit(pool, frame)
    }

    fn flush(&mut self, now_ms: u64) {
        self.port.flush(now_ms);
    }

    fn reclaim(&mut self, pool: &mut FramePool, now_ms: u64) {
        self.port.reclaim(pool, now_ms);
    }

    fn refill(&mut self, pool: &mut FramePool) {
        if self.is_greedy.load(Ordering::Relaxed) {
            self.kept.extend(std::iter::from_fn(|| pool.take()));
        } else {
            self.kept.drain(..).for_each(|frame| pool.give_back(frame));
        }
    }

    fn waiting(&self) -> u32 {
        self.port.waiting()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.wake_fd()
    }

    fn add_to_books(&self, books: &mut FrameBooks) {
        self.port.add_to_books(books);
    }

    fn state(&self) -> PortState {
        self.port.state()
    }

    fn refused_by_kernel(&self) -> u64 {
        self.port.refused_by_kernel()
    }
}

#[test]
fn without_a_free_frame_packets_wait_or_are_dropped_by_name() {
    let is_greedy = Arc::new(AtomicBool::new(false));
    let (mut worker, bench) = bench_with(16, Spin::Always, |port| Hog {
        port,
        is_greedy: is_greedy.clone(),
        kept: Vec::with_capacity(FRAMES as usize),
    });
    let buffers = bench.queues.free.len();
    // Punted, so that it can come back.
    bench.funnel.send(&from_pod_a(STRANGER_IP, 7));
    assert_eq!(worker.turn(), 1);
    is_greedy.store(true, Ordering::Relaxed);
    worker.turn();
    assert_eq!((worker.frame_books().free, worker.frame_books().held), (0, FRAMES));

    let mut resumed = bench.queues.punts.pop().expect("a punt");
    let bytes = from_pod_a(REMOTE_POD_IP, 7);
    (resumed.task, resumed.ingress, resumed.len) = (Task::Resume, POD_A, bytes.len());
    resumed.frame[..bytes.len()].copy_from_slice(&bytes);
    let mut reply = bench.queues.free.pop().expect("a free buffer");
    let bytes = udp(tag_mac(POD_A), POD_B_IP, POD_A_IP, 9);
    (reply.task, reply.ingress, reply.len) = (Task::Reply, POD_A, bytes.len());
    reply.frame[..bytes.len()].copy_from_slice(&bytes);
    for buffer in [resumed, reply] {
        assert!(bench.queues.returns.push(buffer).is_ok());
    }
    bench.uplink.send(&from_uplink(POD_A_IP, 8));
    worker.turn();
    let books = bench.counters.books();
    assert_eq!(books.dropped[DropReason::TxNoFrame as usize], 1, "the resumed packet: {books:?}");
    assert_eq!((books.received, books.forwarded, books.returned, books.originated), (1, 0, 1, 0));
    assert_eq!(books.unsent, 1, "the answer");
    assert!(books.is_even(), "{books:?}");
    assert_eq!(bench.uplink.waiting(), 1, "what comes in stays where it is");
    assert_eq!(bench.queues.free.len(), buffers, "every buffer is back");

    is_greedy.store(false, Ordering::Relaxed);
    while worker.turn() > 0 || bench.uplink.waiting() > 0 {}
    let books = bench.counters.books();
    assert_eq!((books.received, books.forwarded), (2, 1));
    assert!(books.is_even(), "{books:?}");
    assert_eq!(worker.frame_books().free, FRAMES);
    worker.frame_books().check().unwrap();
}
