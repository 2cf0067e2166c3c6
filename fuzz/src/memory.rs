//! Memory that is never given back, so that the next input uses it again, empty.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use atalho_engine::affinity::AffinityTable;
use atalho_engine::conntrack::{ConnTable, Epochs, Geometry, TableMemory};
use atalho_engine::counters::Counters;
use atalho_engine::handoff::WorkerQueues;
use atalho_engine::next_hops::NextHops;
use atalho_layout::affinity;

use crate::lab;

/// Buffers between engine and slow path: few, so that inputs run out of them.
pub const BUFFERS: usize = 16;
/// Clients that a session affinity may be kept for.
const CLIENTS: usize = 8;

thread_local! {
    static KEPT: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

/// A table, next hops, and the queues between a worker and its slow path.
pub struct Memory {
    words: [&'static [AtomicU32]; 3],
    tags: [&'static [AtomicU64]; 2],
    pub table: ConnTable,
    pub affinity: AffinityTable,
    pub hops: NextHops,
    pub queues: Arc<WorkerQueues>,
}

impl Memory {
    /// Empty: the last input's, if there was one.
    pub fn take() -> Self {
        KEPT.with_borrow_mut(Option::take).unwrap_or_else(Self::new)
    }

    fn new() -> Self {
        // The smallest table there is: inputs fill buckets.
        let geometry = Geometry::for_max_flows(1);
        let memory = TableMemory::in_memory(geometry);
        let clients: &[AtomicU32] = Vec::leak((0..CLIENTS * affinity::WORDS).map(|_| AtomicU32::new(0)).collect());
        Self {
            words: [memory.entries4, memory.entries6, clients],
            tags: [memory.tags4, memory.tags6],
            table: ConnTable::new(memory, geometry, &lab::SECRET),
            affinity: AffinityTable::new(clients, &lab::SECRET),
            hops: NextHops::in_memory(16),
            queues: WorkerQueues::new(BUFFERS),
        }
    }

    /// Empties it for the next input. `counters`: of the engine that used it.
    pub fn keep(self, counters: &Counters, epochs: &Epochs) {
        assert!(self.table.check().is_clean(), "{:?}", self.table.check());
        assert_eq!(self.queues.free.len(), BUFFERS, "a buffer was lost");
        if counters.books().admitted > 0 {
            for connection in self.table.connections() {
                self.table.end(epochs, connection.at);
            }
            self.words.iter().flat_map(|words| *words).for_each(|word| word.store(0, Ordering::Relaxed));
            self.tags.iter().flat_map(|tags| *tags).for_each(|tag| tag.store(0, Ordering::Relaxed));
        }
        KEPT.with_borrow_mut(|kept| *kept = Some(self));
    }
}
