//! The loop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use arc_swap::{ArcSwap, Cache};
use atalho_engine::conntrack::Epochs;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::pipeline::{BATCH, Engine};
use atalho_engine::tables::Tables;
use atalho_sys::doorbell::Doorbell;
use atalho_sys::xsk::{FrameBooks, FramePool, Side};
use atalho_sys::{clock, cores, no_alloc};

use crate::expiry::Expiry;
use crate::lanes::Lanes;
use crate::native::Native;
use crate::port::Port;
use crate::pressure::Pressure;
use crate::sleep::{Spin, sleep};
use crate::stats::{WorkerStats, add, store};
use crate::tap::Tap;

/// Batches that a turn takes from each port, at most, before it rings their doorbells. A system call does not only take its
/// own time: it leaves the caches and, where the kernel has page tables of its own, the TLB to the kernel. So a busy
/// worker makes one for 256 frames, as many as the kernel sends in one (XDP_MAX_TX_SKB_BUDGET); what comes alone goes alone.
const BATCHES_PER_TURN: usize = 256 / BATCH;
/// Turns after which a worker that never rests stores its figures.
const TURNS_PER_REPORT: u32 = 256;
/// Without packets for this long, a worker that does not sleep stores its figures.
const REPORT_AFTER_IDLE_NS: u64 = 1_000_000;

/// Who a worker is.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    pub index: usize,
    /// How many workers there are.
    pub workers: usize,
    /// The kernel's number of the core to pin to; `None`: float.
    pub core: Option<usize>,
    pub spin: Spin,
    /// Kernel interface index of the uplink.
    pub uplink_ifindex: u32,
    /// Bytes of the longest frame that an honest sender puts on uplink and funnel: MTU, Ethernet header and a VLAN tag.
    pub frame_bytes_max: [usize; 2],
}

/// What a worker is made of.
pub struct WorkerParts<P> {
    pub pool: FramePool,
    pub uplink: P,
    pub funnel: P,
    pub engine: Engine<Native>,
    pub epochs: Arc<Epochs>,
    pub queues: Arc<WorkerQueues>,
    pub snapshot: Arc<ArcSwap<Tables>>,
    /// Tells the slow path that something was punted. Called at most once a turn; must not allocate or wait.
    pub ring_slow_path: Box<dyn Fn() + Send>,
    pub doorbell: Arc<Doorbell>,
    pub stats: Arc<WorkerStats>,
    /// Where the kernel side reads how full the funnel's queue is.
    pub pressure: Option<Pressure>,
}

/// One worker.
pub struct Worker<P> {
    options: WorkerOptions,
    tables: Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>,
    snapshot: Arc<ArcSwap<Tables>>,
    lanes: Lanes<P>,
    ring_slow_path: Box<dyn Fn() + Send>,
    doorbell: Arc<Doorbell>,
    stats: Arc<WorkerStats>,
    /// When the present stretch of work began; `None` while there is nothing to do.
    busy_since_ns: Option<u64>,
    idle_since_ns: Option<u64>,
    /// When the clock was last read, at the end of each idle turn: work that comes then began there.
    looked_ns: u64,
    turns_unreported: u32,
}

impl<P: Port> Worker<P> {
    pub fn new(options: WorkerOptions, parts: WorkerParts<P>) -> Self {
        let geometry = parts.engine.table().geometry();
        let expiry = Expiry::new(options.index, options.workers, 2 * u64::from(geometry.slots()));
        let mut lanes = Lanes::new(
            &options,
            parts.pool,
            parts.uplink,
            parts.funnel,
            parts.engine,
            parts.queues,
            parts.epochs,
            expiry,
        );
        lanes.pressure = parts.pressure;
        Self {
            tables: Cache::new(parts.snapshot.clone()),
            snapshot: parts.snapshot,
            lanes,
            options,
            ring_slow_path: parts.ring_slow_path,
            doorbell: parts.doorbell,
            stats: parts.stats,
            busy_since_ns: None,
            idle_since_ns: None,
            looked_ns: clock::monotonic_ns(),
            turns_unreported: 0,
        }
    }

    /// Has a copy taken of what comes in.
    pub fn with_tap(mut self, tap: Tap) -> Self {
        self.lanes.tap = Some(tap);
        self
    }

    /// Starts a thread for it. A panic there ends the process: no packet is served by half a worker, and a supervisor
    /// starts the process anew.
    pub fn spawn(self, stop: Arc<AtomicBool>) -> io::Result<JoinHandle<()>>
    where
        P: Send + 'static,
    {
        let index = self.options.index;
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| self.run(&stop));
            if std::panic::catch_unwind(run).is_err() {
                no_alloc::disarm();
                eprintln!("worker {index} panicked (message above); the process ends so that it is started anew");
                std::process::exit(2);
            }
        })
    }

    /// Works until `stop` is set, which a sleeping worker sees within a second, or at once if its doorbell is rung.
    pub fn run(mut self, stop: &AtomicBool) {
        if let Some(core) = self.options.core
            && let Err(error) = cores::pin(core)
        {
            eprintln!("worker {}: {error}; it floats", self.options.index);
        }
        // arc-swap makes a thread's bookkeeping at its first load.
        drop(self.snapshot.load_full());
        self.report();
        no_alloc::arm();
        while !stop.load(Ordering::Relaxed) {
            if self.turn() == 0 {
                self.idle();
            }
        }
        no_alloc::disarm();
        self.report();
        self.lanes.epochs.leave(&self.lanes.queues.epoch);
    }

    /// One turn: read the snapshot, reclaim, receive, process, act on the verdicts, refill and flush. Returns how much
    /// there was to do.
    pub fn turn(&mut self) -> usize {
        let lanes = &mut self.lanes;
        lanes.epochs.enter(&lanes.queues.epoch);
        let tables: &Tables = self.tables.load();
        let (now_s, now_ms) = (clock::coarse_seconds(), clock::coarse_ms());

        lanes.reclaim(now_ms);
        let mut packets = 0;
        for _ in 0..BATCHES_PER_TURN {
            let count =
                lanes.serve(Side::Uplink, tables, now_s, now_ms) + lanes.serve(Side::Funnel, tables, now_s, now_ms);
            packets += count;
            if count < BATCH {
                break;
            }
        }
        packets += lanes.serve_returns(tables, now_s);
        let (asked, ended) = lanes.end_flows();
        lanes.refill_and_flush(now_ms);
        if std::mem::take(&mut lanes.has_punted) {
            (self.ring_slow_path)();
        }
        let expired = lanes.expire(tables, now_s, packets);

        let words = &self.stats.words;
        store(&words.generation, tables.generation);
        add(&words.turns, 1);
        if packets + asked > 0 || expired > 0 {
            add(&words.packets, packets as u64);
            add(&words.flows_ended, ended);
            add(&words.flows_expired, expired);
            self.note_work();
        }
        packets + asked
    }

    /// Where every frame is, now.
    pub fn frame_books(&self) -> FrameBooks {
        self.lanes.books()
    }

    /// The clock is read in idle turns and now and then in a long stretch of work, never per packet.
    fn note_work(&mut self) {
        self.idle_since_ns = None;
        self.busy_since_ns.get_or_insert(self.looked_ns);
        self.turns_unreported += 1;
        if self.turns_unreported >= TURNS_PER_REPORT {
            self.report();
        }
    }

    fn idle(&mut self) {
        self.looked_ns = clock::monotonic_ns();
        self.end_stretch();
        let idle_ns = self.looked_ns - *self.idle_since_ns.get_or_insert(self.looked_ns);
        if self.turns_unreported > 0 && idle_ns >= REPORT_AFTER_IDLE_NS {
            self.report();
        }
        match self.options.spin {
            Spin::Micros(spin_us) if idle_ns >= u64::from(spin_us) * 1000 => self.sleep(),
            _ => std::hint::spin_loop(),
        }
    }

    fn sleep(&mut self) {
        // What is due to expire comes first; a turn later it is done.
        if self.lanes.expiry.is_due() {
            return;
        }
        self.report();
        let lanes = &self.lanes;
        sleep([&lanes.uplink, &lanes.funnel], &lanes.queues, &lanes.epochs, &self.doorbell, || lanes.has_work());
        let from_ns = std::mem::replace(&mut self.looked_ns, clock::monotonic_ns());
        add(&self.stats.words.asleep_ns, self.looked_ns - from_ns);
        add(&self.stats.words.sleeps, 1);
    }

    /// Ends the present stretch of work, if there is one, at the last look at the clock.
    fn end_stretch(&mut self) {
        if let Some(since_ns) = self.busy_since_ns.take() {
            add(&self.stats.words.busy_ns, self.looked_ns - since_ns);
        }
    }

    /// Stores the figures.
    fn report(&mut self) {
        if self.busy_since_ns.is_some() {
            self.looked_ns = clock::monotonic_ns();
            self.end_stretch();
        }
        let words = &self.stats.words;
        self.turns_unreported = 0;
        self.stats.store_books(&self.lanes.books());
        for (side, port) in [(Side::Uplink, &self.lanes.uplink), (Side::Funnel, &self.lanes.funnel)] {
            store(&words.ports[side as usize].state, port.state() as u64);
            store(&words.ports[side as usize].refused_by_kernel, port.refused_by_kernel());
        }
    }
}
