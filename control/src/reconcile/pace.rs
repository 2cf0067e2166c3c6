//! How much of a core work may take that comes again and again.

use std::time::{Duration, Instant};

/// Of so many parts of a core's time one is for the work.
const PARTS: u32 = 10;
/// Time of rest that counts later. A tenth of it is what work may take without a pause after a long rest: enough to walk
/// through a table of a million flows, so that only lasting changes are kept waiting.
const CREDIT: Duration = Duration::from_secs(1);

/// Keeps work to a tenth of a core: in any span of time it takes a tenth of it, [`CREDIT`] and one piece more at most.
#[derive(Debug)]
pub struct Pace {
    /// Until then, time is used up.
    spent_until: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { spent_until: now }
    }

    /// Work went on until `now` and took so much of a core.
    pub fn spend(&mut self, now: Instant, work: Duration) {
        let rested = now.checked_sub(CREDIT).unwrap_or(now);
        self.spent_until = self.spent_until.max(rested) + PARTS * work;
    }

    /// When work may go on: now or earlier while there is credit.
    pub fn due(&self) -> Instant {
        self.spent_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_without_end_takes_a_tenth_of_a_core_and_a_burst_after_a_rest_no_pause() {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut pace = Pace::new(start - Duration::from_secs(600));
        let piece = Duration::from_millis(2);
        let (mut now, mut worked, mut paused_first) = (start, Duration::ZERO, None);
        while now < start + Duration::from_secs(100) {
            now += piece;
            worked += piece;
            pace.spend(now, piece);
            if pace.due() > now {
                paused_first.get_or_insert(worked);
                now = pace.due();
            }
        }
        let burst = paused_first.unwrap();
        assert!((100..=120).contains(&burst.as_millis()), "{burst:?}");
        assert!((10_000..=10_120).contains(&worked.as_millis()), "{worked:?} of 100 s");
    }
}
