//! Packets that wait for a neighbour's link address: bounded by neighbour, in neighbours, by worker and in time.
//!
//! The kernel resolves (asked through control, at most once a second for each neighbour); here they only wait. Ordered maps
//! and the caller's clock keep a replayed run the same.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use atalho_engine::handoff::Handoff;
use atalho_engine::verdict::DropReason;

use crate::slow_path::Limits;

/// Least time between two questions about one neighbour.
const ASK_EVERY_MS: u64 = 1000;
/// Least time between two releases of one neighbour's packets. The pipeline may see it otherwise than we do and punt them
/// once more; without this pause such packets would run in a circle at full speed.
const RELEASE_EVERY_MS: u64 = 20;

/// A buffer on its way back to its worker.
pub type Leaving = (usize, Box<Handoff>);

pub struct Waiting {
    neighbours: BTreeMap<IpAddr, Neighbour>,
    /// Packets that wait, by worker.
    by_worker: Vec<usize>,
    /// Most that may wait, by worker: its buffers must not all end up here.
    by_worker_max: Vec<usize>,
    limits: Limits,
}

#[derive(Default)]
struct Neighbour {
    packets: VecDeque<Parked>,
    asked_at_ms: Option<u64>,
    released_at_ms: Option<u64>,
}

struct Parked {
    since_ms: u64,
    worker: usize,
    buffer: Box<Handoff>,
}

impl Waiting {
    /// `by_worker_max`: packets of each worker that may wait at a time.
    pub fn new(limits: Limits, by_worker_max: Vec<usize>) -> Self {
        Self { neighbours: BTreeMap::new(), by_worker: vec![0; by_worker_max.len()], by_worker_max, limits }
    }

    /// Packets that wait.
    pub fn packets(&self) -> usize {
        self.by_worker.iter().sum()
    }

    /// Keeps a packet until `address` is resolved and says whether to ask for it now.
    ///
    /// # Errors
    /// The buffer, where a bound is reached.
    pub fn park(
        &mut self,
        now_ms: u64,
        address: IpAddr,
        worker: usize,
        buffer: Box<Handoff>,
    ) -> Result<bool, Box<Handoff>> {
        let (Some(waiting), Some(most)) = (self.by_worker.get_mut(worker), self.by_worker_max.get(worker)) else {
            return Err(buffer);
        };
        if *waiting >= *most {
            return Err(buffer);
        }
        if self.neighbours.len() >= self.limits.neighbours && !self.neighbours.contains_key(&address) {
            self.neighbours.retain(|_, neighbour| !neighbour.packets.is_empty());
            if self.neighbours.len() >= self.limits.neighbours {
                return Err(buffer);
            }
        }
        let neighbour = self.neighbours.entry(address).or_default();
        if neighbour.packets.len() >= self.limits.packets_per_neighbour {
            return Err(buffer);
        }
        *waiting += 1;
        neighbour.packets.push_back(Parked { since_ms: now_ms, worker, buffer });
        Ok(neighbour.is_to_be_asked(now_ms))
    }

    /// Lets go what need not wait any more: `resume` gets the packets of resolved neighbours, `give_up` those that waited too
    /// long, `ask` the neighbours to ask for once more.
    pub fn tick(
        &mut self,
        now_ms: u64,
        is_resolved: impl Fn(IpAddr) -> bool,
        mut resume: impl FnMut(Leaving),
        mut give_up: impl FnMut(Leaving, DropReason),
        mut ask: impl FnMut(IpAddr),
    ) {
        let wait_ms = self.limits.neighbour_wait_ms;
        let by_worker = &mut self.by_worker;
        self.neighbours.retain(|address, neighbour| {
            if neighbour.may_release(now_ms) && is_resolved(*address) {
                neighbour.released_at_ms = Some(now_ms);
                for parked in neighbour.packets.drain(..) {
                    by_worker[parked.worker] -= 1;
                    resume((parked.worker, parked.buffer));
                }
            }
            while let Some(parked) = neighbour.packets.pop_front_if(|first| first.since_ms + wait_ms <= now_ms) {
                by_worker[parked.worker] -= 1;
                give_up((parked.worker, parked.buffer), DropReason::NeighbourTimeout);
            }
            if !neighbour.packets.is_empty() && neighbour.is_to_be_asked(now_ms) {
                ask(*address);
            }
            // Without packets it is remembered as long as it limits questions and releases.
            !neighbour.packets.is_empty() || neighbour.asked_at_ms.is_some_and(|at| now_ms < at + ASK_EVERY_MS)
        });
    }
}

impl Neighbour {
    fn is_to_be_asked(&mut self, now_ms: u64) -> bool {
        let due = self.asked_at_ms.is_none_or(|at| now_ms >= at + ASK_EVERY_MS);
        if due {
            self.asked_at_ms = Some(now_ms);
        }
        due
    }

    fn may_release(&self, now_ms: u64) -> bool {
        !self.packets.is_empty() && self.released_at_ms.is_none_or(|at| now_ms >= at + RELEASE_EVERY_MS)
    }
}
