//! A tap on what comes in by the ports, for whoever writes it down: packets are copied, before the engine touches them,
//! into buffers that exist from the start, and a thread beside the workers takes them from there.
//!
//! It never slows a worker: where no buffer is free the packet is not copied, and counted. Workers share one ring, so that
//! a request stands before its answer also where another worker gets the answer. Off, it costs one branch a batch.
//!
//! The time of a packet is that of its turn, by the kernel's coarse clock: it steps by a timer tick (1 to 10 ms).

mod filter;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atalho_engine::handoff::HANDOFF_FRAME_BYTES;
use atalho_engine::tables::Tables;
use atalho_sys::xsk::{Frame, FramePool};
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

pub use filter::{Filter, FilterError};

/// A packet as it came in.
pub struct Tapped {
    /// Kernel interface index of the port.
    pub ingress: u32,
    /// CLOCK_MONOTONIC_COARSE.
    pub time_ms: u64,
    len: usize,
    frame: [u8; HANDOFF_FRAME_BYTES],
}

impl Tapped {
    /// From the Ethernet header.
    pub fn bytes(&self) -> &[u8] {
        &self.frame[..self.len]
    }
}

/// What workers and writer share.
pub struct TapRing {
    free: ArrayQueue<Box<Tapped>>,
    full: ArrayQueue<Box<Tapped>>,
    /// By worker, each its only writer.
    lost: Vec<CachePadded<AtomicU64>>,
}

impl TapRing {
    /// A ring with all its buffers.
    pub fn new(buffers: usize, workers: usize) -> Arc<Self> {
        let ring = Self {
            free: ArrayQueue::new(buffers),
            full: ArrayQueue::new(buffers),
            lost: (0..workers).map(|_| CachePadded::default()).collect(),
        };
        for _ in 0..buffers {
            let buffer = Box::new(Tapped { ingress: 0, time_ms: 0, len: 0, frame: [0; HANDOFF_FRAME_BYTES] });
            // The queue holds exactly `buffers`, so this cannot fail.
            let _ = ring.free.push(buffer);
        }
        Arc::new(ring)
    }

    /// Gives `write` the oldest packet, if there is one.
    pub fn take(&self, write: impl FnOnce(&Tapped)) -> bool {
        let Some(tapped) = self.full.pop() else { return false };
        write(&tapped);
        let _ = self.free.push(tapped);
        true
    }

    /// Packets that a worker could not copy.
    pub fn lost(&self, worker: usize) -> u64 {
        self.lost.get(worker).map_or(0, |lost| lost.load(Ordering::Relaxed))
    }
}

/// One worker's end.
pub struct Tap {
    worker: usize,
    filter: Filter,
    ring: Arc<TapRing>,
}

impl Tap {
    /// `worker`: its index, below the ring's number of workers.
    pub fn new(worker: usize, filter: Filter, ring: Arc<TapRing>) -> Self {
        assert!(worker < ring.lost.len(), "worker {worker} of {}", ring.lost.len());
        Self { worker, filter, ring }
    }

    /// Copies what the filter wants of a batch: frames and the ports that they came in by.
    pub(crate) fn take(&self, pool: &FramePool, batch: &[(Frame, u32)], tables: &Tables, now_ms: u64) {
        for (frame, ingress) in batch {
            if self.filter.wants(tables, *ingress, pool.bytes(frame)) && !self.copy(pool, frame, *ingress, now_ms) {
                let lost = &self.ring.lost[self.worker];
                lost.store(lost.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
        }
    }

    fn copy(&self, pool: &FramePool, frame: &Frame, ingress: u32, now_ms: u64) -> bool {
        let Some(mut tapped) = self.ring.free.pop() else { return false };
        let (queue, is_whole) = match pool.copy_to(frame, &mut tapped.frame) {
            Some(len) => {
                (tapped.len, tapped.ingress, tapped.time_ms) = (len, ingress, now_ms);
                (&self.ring.full, true)
            }
            None => (&self.ring.free, false),
        };
        // Each queue has room for every buffer there is.
        let _ = queue.push(tapped);
        is_whole
    }
}
