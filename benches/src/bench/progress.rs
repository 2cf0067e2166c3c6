//! What the run is at and how long it still takes, on standard error: standard output is for the result.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Time left is what parts were said to take, less those that are done.
pub struct Progress {
    start: Instant,
    left_s: Cell<f64>,
    limit_s: f64,
}

impl Progress {
    /// `expected_s`: seconds that the whole run is expected to take; `limit_s`: what it is not to take longer than.
    pub fn new(expected_s: f64, limit_s: f64) -> Self {
        Self { start: Instant::now(), left_s: Cell::new(expected_s), limit_s }
    }

    /// How often something can be done, that takes so many seconds and was not expected, with the rest in time.
    pub fn room_for(&self, seconds: f64) -> usize {
        let room_s = self.limit_s - self.elapsed().as_secs_f64() - self.left_s.get();
        (room_s / seconds).max(0.0) as usize
    }

    pub fn say(&self, what: &str) {
        eprintln!("bench: {:6.1} s  {what}; {} left", self.start.elapsed().as_secs_f64(), words(self.left_s.get()));
    }

    /// A part that was expected to take so many seconds is done.
    pub fn done(&self, expected_s: f64) {
        self.left_s.set((self.left_s.get() - expected_s).max(0.0));
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

fn words(seconds: f64) -> String {
    if seconds < 90.0 { format!("about {seconds:.0} s") } else { format!("about {:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_taken_off_and_nothing_is_ever_owed() {
        let progress = Progress::new(100.0, 1000.0);
        progress.done(40.0);
        assert_eq!(progress.left_s.get(), 60.0);
        progress.done(90.0);
        assert_eq!(progress.left_s.get(), 0.0);
    }

    #[test]
    fn what_was_not_expected_is_done_while_there_is_time_for_the_rest() {
        assert_eq!(Progress::new(100.0, 165.0).room_for(10.0), 6);
        assert_eq!(Progress::new(100.0, 90.0).room_for(10.0), 0);
    }

    #[test]
    fn minutes_are_told_where_seconds_would_say_too_much() {
        assert_eq!((words(42.4), words(630.0)), ("about 42 s".into(), "about 10 min".into()));
    }
}
