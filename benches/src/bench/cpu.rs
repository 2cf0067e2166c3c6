//! CPU time by what the scheduler kept: thread by thread, so that whatever else runs on the machine does not count.
//!
//! Work in soft interrupts counts for the thread that they interrupt, or for ksoftirqd where the kernel moved it there.
//! That is so where the kernel is built without IRQ_TIME_ACCOUNTING; with it, that time stands in /proc/stat only, and
//! [`softirq_ns`] tells how much of it there was. Readings are up to one timer tick late.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use atalho_sys::clock;

/// CPU nanoseconds of the calling thread, now.
pub fn of_this_thread_ns() -> u64 {
    clock::thread_cpu_ns()
}

/// CPU nanoseconds so far of the threads of a process whose name begins so; a thread that ended takes its own along.
pub fn of_process_ns(pid: u32, name: &str) -> Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let mut sum = 0;
    for thread in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}: did it end?"))? {
        let thread = thread?.path();
        if fs::read_to_string(thread.join("comm")).is_ok_and(|is| is.starts_with(name)) {
            // It may end between the two readings.
            sum += on_cpu_ns(&thread.join("schedstat")).unwrap_or(0);
        }
    }
    Ok(sum)
}

/// CPU nanoseconds of the kernel's ksoftirqd threads, all together.
pub fn of_ksoftirqd_ns() -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let is_process =
            path.file_name().is_some_and(|name| name.to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
        if is_process && fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/")) {
            sum += on_cpu_ns(&path.join("schedstat")).unwrap_or(0);
        }
    }
    Ok(sum)
}

/// Nanoseconds of the whole machine in soft interrupts, by the kernel's own samples: exact to a tick a core at best.
pub fn softirq_ns() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    // proc(5): cpu user nice system idle iowait irq softirq ..., in ticks of 10 ms.
    let ticks = stat.lines().next().and_then(|line| line.split_whitespace().nth(7)?.parse::<u64>().ok());
    Ok(ticks.context("cannot read /proc/stat")? * 10_000_000)
}

/// The first number of a schedstat file (Linux Documentation/scheduler/sched-stats.rst).
fn on_cpu_ns(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_busy_thread_is_seen_and_a_process_that_is_not_there_is_an_error() {
        // By name: threads of other tests come and go meanwhile.
        let busy = std::thread::Builder::new().name("busy".into()).spawn(|| {
            let end = Instant::now() + Duration::from_millis(60);
            while Instant::now() < end {
                std::hint::black_box(0);
            }
            of_process_ns(std::process::id(), "busy").unwrap()
        });
        // Others on a busy machine may have had the core for part of it.
        assert!(busy.unwrap().join().unwrap() > 5_000_000);
        assert_eq!(of_process_ns(std::process::id(), "no such thread").unwrap(), 0);
        assert!(of_process_ns(u32::MAX, "").is_err());
    }

    #[test]
    fn the_kernel_has_soft_interrupt_threads() {
        assert!(of_ksoftirqd_ns().unwrap() > 0);
    }
}
