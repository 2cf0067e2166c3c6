//! How much of the connection table a worker looks at in one turn for idle connections: a bounded number of slots, so that no
//! packet waits for long, and as many a second as walk its share within [`EXPIRY_PASS_S`].

use atalho_engine::conntrack::ExpiryScan;

/// Table slots scanned in one turn without packets: a few microseconds where few have a connection, tens where most do.
pub const EXPIRY_SLOTS_PER_TURN: u32 = 2048;
/// Table slots scanned for each packet of a turn with some, so that a worker that is behind, as after a pause, still gives
/// nearly all of its time to packets.
const SLOTS_PER_PACKET: u32 = 4;
/// The fewest that are worth a call.
const SLOTS_MIN: u32 = 64;
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

    /// Slots to look at in this turn, which had so many packets. `now_s`: the kernel's coarse clock, seconds.
    pub fn take_due(&mut self, now_s: u32, packets: usize) -> u32 {
        if now_s != self.last_s {
            // However long the worker slept: one pass is enough.
            let seconds = now_s.wrapping_sub(self.last_s).min(EXPIRY_PASS_S);
            self.due = self
                .due
                .saturating_add(self.slots_per_s.saturating_mul(seconds))
                .min(self.slots_per_s.saturating_mul(EXPIRY_PASS_S));
            self.last_s = now_s;
        }
        let most = match packets {
            0 => EXPIRY_SLOTS_PER_TURN,
            packets => (packets as u32).saturating_mul(SLOTS_PER_PACKET).clamp(SLOTS_MIN, EXPIRY_SLOTS_PER_TURN),
        };
        let budget = self.due.min(most);
        self.due -= budget;
        budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_spread_over_the_packets_of_a_second_and_all_of_it_is_done() {
        let slots = 80_000;
        let mut expiry = Expiry::new(0, 1, slots);
        // However long ago the last turn was: one pass.
        assert_eq!(expiry.take_due(1000, 64), 256);
        assert_eq!(expiry.take_due(1000, 1), SLOTS_MIN);
        assert_eq!(expiry.take_due(1000, 100_000), EXPIRY_SLOTS_PER_TURN);
        let mut done = 256 + SLOTS_MIN + EXPIRY_SLOTS_PER_TURN;
        while expiry.is_due() {
            done += expiry.take_due(1000, 0);
        }
        assert_eq!(u64::from(done), slots);
        assert_eq!(expiry.take_due(1000, 64), 0);
        assert_eq!(expiry.take_due(1001, 0), EXPIRY_SLOTS_PER_TURN);
    }
}
