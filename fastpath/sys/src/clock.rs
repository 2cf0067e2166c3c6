//! Clocks of the kernel. The coarse one is what the kernel programs write into the connection table
//! (`bpf_ktime_get_coarse_ns`), so both tiers count in the same seconds; it costs a few nanoseconds and steps by a
//! timer tick (1 to 10 ms). What this does not do: wall-clock time, which nothing in the dataplane needs.

use libc::{CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_THREAD_CPUTIME_ID, clockid_t, timespec};

fn read(clock: clockid_t) -> timespec {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the whole call, which keeps no pointer to it.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    // All of them exist on every Linux since 2.6.32; the call can fail for nothing else.
    assert_eq!(result, 0, "clock_gettime({clock}) failed: {}", std::io::Error::last_os_error());
    time
}

/// Seconds of CLOCK_MONOTONIC_COARSE.
#[inline]
pub fn coarse_seconds() -> u32 {
    read(CLOCK_MONOTONIC_COARSE).tv_sec as u32
}

/// Milliseconds of CLOCK_MONOTONIC_COARSE.
#[inline]
pub fn coarse_ms() -> u64 {
    let time = read(CLOCK_MONOTONIC_COARSE);
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Nanoseconds of CLOCK_MONOTONIC.
#[inline]
pub fn monotonic_ns() -> u64 {
    let time = read(CLOCK_MONOTONIC);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds for which the calling thread has had a core (CLOCK_THREAD_CPUTIME_ID): for measurements.
#[inline]
pub fn thread_cpu_ns() -> u64 {
    let time = read(CLOCK_THREAD_CPUTIME_ID);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_run_and_agree_within_a_tick() {
        let (fine, coarse) = (monotonic_ns() / 1_000_000, coarse_ms());
        assert!(coarse <= fine + 1, "coarse {coarse} ms is ahead of {fine} ms");
        assert!(fine - coarse < 1000, "coarse {coarse} ms lags behind {fine} ms");
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(coarse_ms() > coarse);
    }

    #[test]
    fn a_thread_that_sleeps_has_no_core() {
        let began_ns = thread_cpu_ns();
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(thread_cpu_ns() - began_ns < 100_000_000);
    }
}
