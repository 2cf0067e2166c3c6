//! The capture's own time. It begins with the first timestamp and never runs back: where timestamps do, it stands.

/// Nanoseconds of a second.
const NS_PER_S: u64 = 1_000_000_000;

/// A longer idle time than any that a timeout waits for, and short enough that the table's 32-bit seconds stay in order
/// (they compare over half their range).
const STEP_S_MAX: u64 = 1 << 30;

/// Time since the first packet.
#[derive(Debug, Default)]
pub struct Clock {
    /// Since 1970, nanoseconds; `None` before the first timestamp.
    start_ns: Option<u64>,
    now_ns: u64,
}

impl Clock {
    /// When a packet with this timestamp (nanoseconds since 1970) comes, after the start; one without a timestamp comes
    /// now.
    pub fn arrival_ns(&mut self, time_ns: Option<u64>) -> u64 {
        let Some(time_ns) = time_ns else { return self.now_ns };
        let start_ns = *self.start_ns.get_or_insert(time_ns);
        time_ns.saturating_sub(start_ns).max(self.now_ns)
    }

    /// Goes on to `to_ns` after the start, or as far toward it as is safe before idle flows are looked for again.
    /// Returns whether it got there.
    pub fn step(&mut self, to_ns: u64) -> bool {
        let farthest_ns = self.now_ns.saturating_add(STEP_S_MAX * NS_PER_S);
        self.now_ns = self.now_ns.max(to_ns.min(farthest_ns));
        self.now_ns >= to_ns
    }

    /// Since the start, nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Since the start, milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.now_ns / 1_000_000
    }

    /// The seconds that the table counts in: 1 at the start, so that 0 is "never", and wrapping as the kernel's do.
    pub fn coarse_s(&self) -> u32 {
        (1 + self.now_ns / NS_PER_S) as u32
    }

    /// For what is sent now: nanoseconds since 1970.
    pub fn timestamp_ns(&self) -> u64 {
        self.start_ns.unwrap_or(0).saturating_add(self.now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_with_the_first_packet_and_never_runs_back() {
        let mut clock = Clock::default();
        assert_eq!(clock.arrival_ns(None), 0);
        assert_eq!((clock.arrival_ns(Some(5_000_000_000)), clock.coarse_s()), (0, 1));
        let at = clock.arrival_ns(Some(6_500_000_000));
        assert!(clock.step(at));
        assert_eq!((clock.now_ms(), clock.coarse_s(), clock.timestamp_ns()), (1500, 2, 6_500_000_000));
        assert_eq!(clock.arrival_ns(Some(1)), 1_500_000_000);
        assert_eq!(clock.arrival_ns(None), 1_500_000_000);
    }

    #[test]
    fn an_age_passes_in_steps_that_the_table_can_tell_apart() {
        let mut clock = Clock::default();
        clock.arrival_ns(Some(0));
        let (mut steps, mut before) = (0, clock.coarse_s());
        loop {
            steps += 1;
            let there = clock.step(u64::MAX);
            assert!((clock.coarse_s().wrapping_sub(before) as i32) > 0);
            before = clock.coarse_s();
            if there {
                break;
            }
        }
        assert_eq!(steps, 18);
    }
}
