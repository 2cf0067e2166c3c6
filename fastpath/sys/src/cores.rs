//! Pins the calling thread to one core.
//!
//! A pinned worker still competes with whatever else runs on its core, and `nice` does not help where sched_autogroup
//! is on: there weights hold inside a login session only, and /proc/self/autogroup sets the session's own. So keep
//! the core free (isolcpus, cpusets); this module does not do that.

use thiserror::Error;

/// Why a thread could not be pinned.
#[derive(Debug, Error)]
#[error(
    "cannot pin this thread to core {core}: the process may use cores {available:?}; \
     choose one of them, or widen its CPU affinity (taskset, cpuset, systemd AllowedCPUs)"
)]
pub struct PinError {
    pub core: usize,
    pub available: Vec<usize>,
}

/// Cores that this process may use, by the kernel's number, ascending.
pub fn available() -> Vec<usize> {
    let mut cores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    cores.sort_unstable();
    cores
}

/// Pins the calling thread. Call it first in a thread: it narrows what [`available`] answers from then on.
pub fn pin(core: usize) -> Result<(), PinError> {
    let available = available();
    if available.contains(&core) && core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        Ok(())
    } else {
        Err(PinError { core, available })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_where_it_was_pinned_and_nowhere_else() {
        std::thread::spawn(|| {
            let core = *available().last().expect("a core");
            pin(core).unwrap();
            assert_eq!(available(), [core]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_core_that_is_not_there_is_named() {
        let text = std::thread::spawn(|| pin(100_000).unwrap_err().to_string()).join().unwrap();
        assert!(text.contains("core 100000"), "{text}");
    }
}
