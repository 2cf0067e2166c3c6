//! What others may see of a worker: written by it a few hundred times a second at most, read at any time.
//! Packets by their end are the engine's [`atalho_engine::counters::Counters`]; this is about the loop and its frames.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use atalho_sys::xsk::{FrameBooks, Side, StatisticsReader, XskStatistics};

use crate::port::PortState;

/// One worker's figures. One writer; relaxed.
#[derive(Debug)]
pub struct WorkerStats {
    /// Index of the worker.
    pub worker: usize,
    /// The kernel's number of the core that it is pinned to; `None`: it floats.
    pub core: Option<usize>,
    sockets: [Option<StatisticsReader>; 2],
    pub(crate) words: Words,
}

/// The words that the loop stores.
#[derive(Debug, Default)]
pub(crate) struct Words {
    pub turns: AtomicU64,
    pub packets: AtomicU64,
    pub busy_ns: AtomicU64,
    pub asleep_ns: AtomicU64,
    pub sleeps: AtomicU64,
    pub generation: AtomicU64,
    pub flows_expired: AtomicU64,
    pub flows_ended: AtomicU64,
    pub books_wrong: AtomicU64,
    pub ports: [PortWords; 2],
    pub frames_total: AtomicU64,
    pub frames_free: AtomicU64,
    pub frames_held: AtomicU64,
    pub frames_refused: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct PortWords {
    pub state: AtomicU64,
    pub refused_by_kernel: AtomicU64,
    pub fill: AtomicU64,
    pub rx: AtomicU64,
    pub tx: AtomicU64,
    pub completion: AtomicU64,
}

impl WorkerStats {
    /// `sockets`: uplink and funnel; `None` for ports without a socket.
    pub fn new(worker: usize, core: Option<usize>, sockets: [Option<StatisticsReader>; 2]) -> Self {
        Self { worker, core, sockets, words: Words::default() }
    }

    /// Turns of the loop; one that stands still while the worker is awake means a hung worker.
    pub fn turns(&self) -> u64 {
        read(&self.words.turns)
    }

    /// Packets taken from ports and from the slow path.
    pub fn packets(&self) -> u64 {
        read(&self.words.packets)
    }

    /// Nanoseconds in which there was something to do.
    pub fn busy_ns(&self) -> u64 {
        read(&self.words.busy_ns)
    }

    /// Nanoseconds asleep; what is neither busy nor asleep was spent looking for packets.
    pub fn asleep_ns(&self) -> u64 {
        read(&self.words.asleep_ns)
    }

    pub fn sleeps(&self) -> u64 {
        read(&self.words.sleeps)
    }

    /// Generation of the tables of the last turn. A sleeping worker takes the newest when it wakes.
    pub fn generation(&self) -> u64 {
        read(&self.words.generation)
    }

    /// Connections that this worker's scan found idle for too long.
    pub fn flows_expired(&self) -> u64 {
        read(&self.words.flows_expired)
    }

    /// Connections ended because control asked.
    pub fn flows_ended(&self) -> u64 {
        read(&self.words.flows_ended)
    }

    /// Times the frame books did not add up between two turns.
    pub fn books_wrong(&self) -> u64 {
        read(&self.words.books_wrong)
    }

    pub fn port_state(&self, side: Side) -> PortState {
        PortState::of(read(&self.words.ports[side as usize].state))
    }

    /// Frames that the kernel took and dropped instead of sending.
    pub fn refused_by_kernel(&self, side: Side) -> u64 {
        read(&self.words.ports[side as usize].refused_by_kernel)
    }

    /// The frame books as last stored.
    pub fn books(&self) -> FrameBooks {
        let both = |word: fn(&PortWords) -> &AtomicU64| self.words.ports.each_ref().map(|port| read(word(port)) as u32);
        FrameBooks {
            total: read(&self.words.frames_total) as u32,
            free: read(&self.words.frames_free) as u32,
            held: read(&self.words.frames_held) as u32,
            fill: both(|port| &port.fill),
            rx: both(|port| &port.rx),
            tx: both(|port| &port.tx),
            completion: both(|port| &port.completion),
            refused: read(&self.words.frames_refused),
        }
    }

    /// The kernel's own counts of a port's socket, read now; `None` for a port without one.
    pub fn socket(&self, side: Side) -> Option<io::Result<XskStatistics>> {
        self.sockets[side as usize].as_ref().map(StatisticsReader::read)
    }

    pub(crate) fn store_books(&self, books: &FrameBooks) {
        store(&self.words.frames_total, u64::from(books.total));
        store(&self.words.frames_free, u64::from(books.free));
        store(&self.words.frames_held, u64::from(books.held));
        store(&self.words.frames_refused, books.refused);
        for side in Side::ALL {
            let (port, at) = (&self.words.ports[side as usize], side as usize);
            store(&port.fill, u64::from(books.fill[at]));
            store(&port.rx, u64::from(books.rx[at]));
            store(&port.tx, u64::from(books.tx[at]));
            store(&port.completion, u64::from(books.completion[at]));
        }
        if books.check().is_err() {
            add(&self.words.books_wrong, 1);
        }
    }
}

fn read(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

pub(crate) fn store(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

/// One writer, so no atomic addition.
pub(crate) fn add(word: &AtomicU64, n: u64) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}
