//! Waiting until no program that runs now runs any more: after it, no reader in the kernel holds what was removed before.
//!
//! Replacing a map in a map makes the kernel wait for an RCU grace period before it returns (kernel/bpf/syscall.c,
//! `maybe_wait_bpf_programs`), and XDP and tcx programs run inside RCU read sections. membarrier would do too, but is
//! refused under nohz_full and does nothing on one CPU. Takes 8 to 130 ms and blocks: only a thread of control may wait.

use std::os::fd::{AsFd, OwnedFd};

use super::error::BpfError;
use super::syscall;

/// The means to wait for a kernel grace period; private to the process.
#[derive(Debug)]
pub struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    /// # Errors
    /// [`BpfError::Grace`] where the kernel refuses two tiny maps (no privileges, no memory).
    pub fn new() -> Result<Self, BpfError> {
        let (outer, inner) = syscall::map_in_map().map_err(BpfError::Grace)?;
        Ok(Self { outer, inner })
    }

    /// Returns after a grace period that began no earlier than this call.
    ///
    /// # Errors
    /// [`BpfError::Grace`]; then nothing was waited for.
    pub fn wait(&self) -> Result<(), BpfError> {
        syscall::put_into_map(self.outer.as_fd(), self.inner.as_fd()).map_err(BpfError::Grace)
    }
}
