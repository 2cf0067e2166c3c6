//! Idle connections go. Each worker walks its own share of the table, a bounded number of slots at a time, and judges a
//! connection by both of its directions where it meets the original entry.
//!
//! It skips slots without a tag 4 at a time, so an empty table costs little, and reads the other direction only of what has
//! been silent for a while; a bucket's entries stand side by side. A packet that passes between the judgement
//! and the end finds no flow afterwards and is admitted anew.

use atalho_layout::state::KIND_REPLY;

use super::ConnTable;
use super::epochs::Epochs;
use super::family::{Family, SLOTS, TICK};
use super::find::slots_of;
use super::half::Half;
use crate::atomic::Ordering;
use crate::flow::Protocol;
use crate::tables::Timeouts;

/// Where a worker's walk stands.
#[derive(Debug, Clone)]
pub struct ExpiryScan {
    worker: usize,
    workers: usize,
    /// Next bucket of the share, both families counted through.
    next: u32,
    rounds: u64,
}

impl ExpiryScan {
    /// The walk of worker `worker` of `workers`.
    pub fn new(worker: usize, workers: usize) -> Self {
        assert!(worker < workers, "worker {worker} of {workers}");
        Self { worker, workers, next: 0, rounds: 0 }
    }

    /// How often the whole share has been walked.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// First bucket of the share, and its length.
    fn share(&self, buckets: u32) -> (u32, u32) {
        let start = |worker: usize| (u64::from(buckets) * worker as u64 / self.workers as u64) as u32;
        let first = start(self.worker);
        (first, start(self.worker + 1) - first)
    }
}

/// What one step of the walk did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Slots that were looked at.
    pub scanned: u32,
    /// Connections that were ended.
    pub ended: u32,
}

pub(super) fn expire(
    table: &ConnTable,
    scan: &mut ExpiryScan,
    budget_slots: u32,
    now_s: u32,
    timeouts: &Timeouts,
    epochs: &Epochs,
) -> Expired {
    let mut expired = Expired::default();
    let (first, share) = scan.share(table.geometry.buckets());
    if share == 0 {
        scan.rounds += 1;
        return expired;
    }
    // One round at most, whatever the budget.
    for _ in 0..budget_slots.div_ceil(SLOTS as u32).min(2 * share) {
        let ended = if scan.next < share {
            table.v4.expire_bucket(first + scan.next, now_s, timeouts, epochs)
        } else {
            table.v6.expire_bucket(first + scan.next - share, now_s, timeouts, epochs)
        };
        expired.scanned += SLOTS as u32;
        expired.ended += ended;
        scan.next += 1;
        if scan.next == 2 * share {
            scan.next = 0;
            scan.rounds += 1;
        }
    }
    // Cells of the count have no owner; any will do.
    (0..expired.ended).for_each(|_| table.counts.sub_live(scan.worker));
    expired
}

impl<F: Family> Half<F> {
    pub(super) fn expire_bucket(&self, bucket: u32, now_s: u32, timeouts: &Timeouts, epochs: &Epochs) -> u32 {
        // What has just been active costs no look at its other direction, which stands anywhere in the table.
        let may_be_idle = |slot: &u32| {
            let entry = self.entry(*slot);
            let kind = entry[F::KIND].load(Ordering::Relaxed);
            let idle_s = now_s.wrapping_sub(entry[TICK].load(Ordering::Relaxed));
            kind & KIND_REPLY == 0
                && Protocol::from_number(kind as u8).is_none_or(|protocol| idle_s >= timeouts.shortest_s(protocol))
        };
        slots_of(bucket, self.tagged(bucket))
            .filter(may_be_idle)
            .filter_map(|slot| self.judge(slot))
            .filter(|judged| judged.is_expired(now_s, timeouts))
            .filter(|judged| self.end(epochs, judged.original))
            .count() as u32
    }
}
