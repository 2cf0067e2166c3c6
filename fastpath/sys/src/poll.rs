//! Sleeps until one of a few descriptors is readable.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Descriptors of one call, at most.
pub const MAX_FDS: usize = 4;

/// Sleeps until one of `fds` is readable or in error, or `timeout_ms` have passed. `Ok(true)`: there is something.
/// A signal ends the sleep early and counts as nothing. Allocates nothing.
pub fn wait(fds: &[BorrowedFd<'_>], timeout_ms: i32) -> io::Result<bool> {
    assert!(fds.len() <= MAX_FDS, "at most {MAX_FDS} descriptors");
    let mut entries = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; MAX_FDS];
    for (entry, fd) in entries.iter_mut().zip(fds) {
        entry.fd = fd.as_raw_fd();
    }
    // SAFETY: `entries` holds at least `fds.len()` pollfds, writable during the call.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
    match ready {
        0 => Ok(false),
        n if n > 0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
    }
}
