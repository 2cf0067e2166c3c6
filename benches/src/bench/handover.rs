//! How far the two cores are apart: nanoseconds for a cache line from one to the other.
//!
//! Sender and worker hand every packet over from core to core, and how long that takes is not the program's affair: a
//! virtual machine's host moves its processors about, from one chip's half to the other and back, within minutes. A
//! worker's figure that moved together with this one did not change its program.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::statistics::Spread;

/// Short enough that most stretches see no interruption; the median is of those.
const ROUND_TRIPS: u32 = 200;
const STRETCHES: u32 = 100;

/// One way, median over stretches.
///
/// # Errors
/// A core that this process may not use.
pub fn between_ns(one: usize, other: usize) -> Result<f64> {
    let ball = AtomicU32::new(0);
    let last = 2 * ROUND_TRIPS * STRETCHES;
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let pinned = atalho_sys::cores::pin(one);
            let mut stretches_ns = Vec::new();
            for first in (0..last).step_by(2 * ROUND_TRIPS as usize) {
                let start = Instant::now();
                for turn in (first..first + 2 * ROUND_TRIPS).step_by(2) {
                    ball.store(turn + 1, Ordering::Release);
                    wait_for(&ball, turn + 2);
                }
                stretches_ns.push(start.elapsed().as_nanos() as f64 / f64::from(2 * ROUND_TRIPS));
            }
            pinned.map(|()| stretches_ns)
        });
        let returner = scope.spawn(|| {
            let pinned = atalho_sys::cores::pin(other);
            for turn in (1..last).step_by(2) {
                wait_for(&ball, turn);
                ball.store(turn + 1, Ordering::Release);
            }
            pinned
        });
        let died = |_| anyhow!("a thread that measured the cores panicked");
        returner.join().map_err(died)??;
        let stretches_ns = server.join().map_err(died)??;
        Spread::of(stretches_ns).map(|spread| spread.median).ok_or_else(|| anyhow!("nothing was measured"))
    })
}

/// Both threads may sit on one core, where one has to make way for the other.
fn wait_for(ball: &AtomicU32, turn: u32) {
    let mut looks = 0_u32;
    while ball.load(Ordering::Acquire) != turn {
        looks += 1;
        if looks.is_multiple_of(100_000) {
            thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::between_ns;

    #[test]
    fn a_line_takes_some_time_and_a_core_that_is_not_there_is_an_error() {
        let cores = atalho_sys::cores::available();
        let ns = between_ns(cores[0], *cores.last().unwrap()).unwrap();
        assert!(ns > 1.0, "{ns}");
        assert!(between_ns(cores[0], 100_000).unwrap_err().to_string().contains("core 100000"));
    }
}
