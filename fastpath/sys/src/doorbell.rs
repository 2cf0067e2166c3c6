//! Wakes a worker that sleeps in poll: an eventfd. Ringing is one system call, so whoever rings looks first whether
//! the worker sleeps at all (`WorkerQueues::is_asleep` in the engine).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// An eventfd; any thread may ring it.
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
}

impl Doorbell {
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a new descriptor that nobody else owns.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Makes the descriptor readable. A full counter (nobody answered 2^64 - 2 rings) rings just as well.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` is valid for reads of 8 bytes during the call; the descriptor is open as long as `self` lives.
        unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes back every ring so far, so that the next poll sleeps.
    pub fn answer(&self) {
        let mut count = [0u8; 8];
        // SAFETY: `count` is valid for writes of 8 bytes during the call; the descriptor is open as long as `self` lives.
        unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll;

    #[test]
    fn rings_gather_and_are_answered_at_once() {
        let bell = Doorbell::new().unwrap();
        assert!(!poll::wait(&[bell.as_fd()], 0).unwrap());
        bell.ring();
        bell.ring();
        assert!(poll::wait(&[bell.as_fd()], 1000).unwrap());
        bell.answer();
        assert!(!poll::wait(&[bell.as_fd()], 0).unwrap());
        bell.answer();
    }
}
