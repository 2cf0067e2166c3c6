//! When a worker sleeps, and how it is sure not to sleep through something.
//!
//! Whoever pushes into the worker's queues looks at `asleep` afterwards and rings the doorbell if it is set; the worker
//! sets `asleep` and looks at its queues afterwards. Both orders are sequentially consistent, so one of them sees the
//! other: either the worker finds the work, or it is rung. Packets need no flag: poll looks at the rings itself.

use std::sync::atomic::{Ordering, fence};

use atalho_engine::conntrack::Epochs;
use atalho_engine::handoff::WorkerQueues;
use atalho_sys::doorbell::Doorbell;
use atalho_sys::poll;
use std::os::fd::{AsFd, BorrowedFd};

use crate::port::{PROBE_MS, Port, PortState};

/// How long a worker goes on looking for packets before it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spin {
    /// Never sleeps: the last microsecond, for a whole core.
    Always,
    /// Microseconds after the last packet.
    Micros(u32),
}

/// The longest sleep: what has to happen now and then (expiry, a grace period) waits no longer.
const SLEEP_MS_MAX: i32 = 1000;

/// Sleeps until a port or the doorbell wakes it. `has_work` looks at everything that could be waiting.
pub fn sleep<P: Port>(
    ports: [&P; 2],
    queues: &WorkerQueues,
    epochs: &Epochs,
    doorbell: &Doorbell,
    has_work: impl Fn() -> bool,
) {
    queues.asleep.store(true, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    if !has_work() {
        // From here until the next turn enters an epoch, this worker reads nothing of the table.
        epochs.leave(&queues.epoch);
        wait(ports, doorbell);
    }
    queues.asleep.store(false, Ordering::SeqCst);
}

fn wait<P: Port>(ports: [&P; 2], doorbell: &Doorbell) {
    let mut fds: [BorrowedFd<'_>; 3] = [doorbell.as_fd(); 3];
    let mut count = 1;
    for fd in ports.iter().filter_map(|port| port.wake_fd()) {
        fds[count] = fd;
        count += 1;
    }
    let all_up = ports.iter().all(|port| port.state() == PortState::Up);
    let timeout_ms = if all_up { SLEEP_MS_MAX } else { PROBE_MS as i32 };
    // An error (a descriptor that is none any more) must not become a spin without pause; the loop will find the port
    // dead by its own probe.
    if poll::wait(&fds[..count], timeout_ms).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    doorbell.answer();
}
