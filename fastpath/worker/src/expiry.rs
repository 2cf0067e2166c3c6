//! How much of the connection table a worker looks at in one turn for idle connections: a bounded number of slots, so that no
//! packet waits for long, and as many a second as walk its share within [`EXPIRY_PASS_S`].

use atalho_engine::conntrack::ExpiryScan;

/// Table slots scanned in one turn: a few microseconds.
pub const EXPIRY_SLOTS_PER_TURN: u32 = 2048;
/// Seconds in which the whole share of a worker is scanned once. The shortest timeout is 10 s and is meant roughly.
pub const EXPIRY_PASS_S: u32 = 8;

/// The walk over this worker's share of the table.
pub struct Expiry {
    pub scan: ExpiryScan,
    /// Slots that become due with every second.
    slots_per_s: u32,
    due: u32,
    last_s: u32,
}

impl Expiry {
    /// `slots`: of the whole table, both families.
    pub fn new(worker: usize, workers: usize, slots: u64) -> Self {
        let share = slots.div_ceil(workers.max(1) as u64);
        Self {
            scan: ExpiryScan::new(worker, workers),
            slots_per_s: share.div_ceil(u64::from(EXPIRY_PASS_S)).min(u64::from(u32::MAX)) as u32,
            due: 0,
            last_s: 0,
        }
    }

    /// Whether slots are due to be looked at.
    pub fn is_due(&self) -> bool {
        self.due > 0
    }

    /// Slots to look at in this turn. `now_s`: the kernel's coarse clock, seconds.
    pub fn take_due(&mut self, now_s: u32) -> u32 {
        if now_s != self.last_s {
            // However long the worker slept: one pass is enough.
            let seconds = now_s.wrapping_sub(self.last_s).min(EXPIRY_PASS_S);
            self.due = self
                .due
                .saturating_add(self.slots_per_s.saturating_mul(seconds))
                .min(self.slots_per_s.saturating_mul(EXPIRY_PASS_S));
            self.last_s = now_s;
        }
        let budget = self.due.min(EXPIRY_SLOTS_PER_TURN);
        self.due -= budget;
        budget
    }
}
