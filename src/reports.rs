//! What the workers and the slow path say of themselves, put into control's terms.

use std::sync::Arc;
use std::time::Instant;

use atalho_control::report::{FrameBooks, SlowPathReport, WorkerReport, XdpCounts};
use atalho_engine::counters::Counters;
use atalho_engine::handoff::WorkerQueues;
use atalho_slowpath::SlowPathCounters;
use atalho_sys::xsk::{Side, XskStatistics};
use atalho_worker::WorkerStats;
use atalho_worker::tap::TapRing;

/// One worker, as it can be read from outside.
#[derive(Clone)]
pub struct Readable {
    pub core: u32,
    pub queue: u32,
    pub queues: Arc<WorkerQueues>,
    pub counters: Arc<Counters>,
    pub stats: Arc<WorkerStats>,
    /// Where its packets are captured.
    pub tap: Option<Arc<TapRing>>,
}

/// The figures of every worker since the start.
pub fn read(workers: &[Readable], started: Instant) -> Vec<WorkerReport> {
    workers.iter().map(|worker| report(worker, started)).collect()
}

fn report(worker: &Readable, started: Instant) -> WorkerReport {
    let (books, frames) = (worker.counters.books(), worker.stats.books());
    let both = |counts: [u32; 2]| u64::from(counts[0]) + u64::from(counts[1]);
    let xdp = |side: Side, port: &str| Some((port.to_owned(), xdp_counts(worker.stats.socket(side)?.ok()?)));
    WorkerReport {
        core: worker.core,
        queues: vec![worker.queue],
        received: books.received,
        forwarded: books.forwarded,
        punted: books.punted(),
        originated: books.originated,
        unsent: books.unsent,
        capture_lost: worker.tap.as_ref().map_or(0, |ring| ring.lost(worker.stats.worker)),
        dropped: books.dropped,
        punts: books.punted_by,
        busy_ns: worker.stats.busy_ns(),
        elapsed_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        asleep: worker.queues.is_asleep(),
        frames: vec![FrameBooks {
            port: "uplink and funnel".to_owned(),
            fill: both(frames.fill),
            rx: both(frames.rx),
            held: u64::from(frames.held),
            tx: both(frames.tx),
            completion: both(frames.completion),
            free: u64::from(frames.free),
            total: u64::from(frames.total),
        }],
        xdp: [xdp(Side::Uplink, "uplink"), xdp(Side::Funnel, "funnel")].into_iter().flatten().collect(),
    }
}

/// What became of the punted since the start.
pub fn read_slow_path(counters: &SlowPathCounters) -> SlowPathReport {
    let books = counters.books();
    SlowPathReport {
        punted: books.punted,
        resumed: books.resumed,
        waiting: books.waiting,
        answered: books.answered,
        dropped: books.dropped,
    }
}

fn xdp_counts(of: XskStatistics) -> XdpCounts {
    XdpCounts {
        rx_dropped: of.rx_dropped,
        rx_invalid_descs: of.rx_invalid_descs,
        tx_invalid_descs: of.tx_invalid_descs,
        rx_ring_full: of.rx_ring_full,
        rx_fill_ring_empty_descs: of.rx_fill_ring_empty_descs,
        tx_ring_empty_descs: of.tx_ring_empty_descs,
    }
}
