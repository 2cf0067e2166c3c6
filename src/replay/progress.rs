//! How far a long run has come, said on standard error. The only thing here that looks at a real clock; nothing of it
//! gets into the results.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Packets between two looks at the clock.
const LOOK_EVERY: u64 = 4096;
/// A run that is over sooner says nothing.
const FIRST_AFTER: Duration = Duration::from_secs(2);
const ON_A_TERMINAL: Duration = Duration::from_millis(500);
const ELSEWHERE: Duration = Duration::from_secs(5);

pub struct Progress {
    started: Instant,
    next: Duration,
    pause: Duration,
    is_terminal: bool,
    has_spoken: bool,
}

impl Progress {
    pub fn start() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let pause = if is_terminal { ON_A_TERMINAL } else { ELSEWHERE };
        Self { started: Instant::now(), next: FIRST_AFTER, pause, is_terminal, has_spoken: false }
    }

    /// So many packets are done.
    pub fn at(&mut self, packets: u64) {
        if packets.is_multiple_of(LOOK_EVERY) && self.started.elapsed() >= self.next {
            self.next = self.started.elapsed() + self.pause;
            self.has_spoken = true;
            self.say(packets, if self.is_terminal { "\r" } else { "\n" });
        }
    }

    /// All are done.
    pub fn end(&self, packets: u64) {
        if self.has_spoken {
            self.say(packets, "\n");
        }
    }

    fn say(&self, packets: u64, end: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = packets as f64 / seconds;
        let _ = write!(std::io::stderr(), "{packets} packets in {seconds:.1} s, {rate:.0} packets/s{end}");
    }
}
