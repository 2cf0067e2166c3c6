//! What the kernel counts for a socket (getsockopt XDP_STATISTICS): the independent check of a worker's own books.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Counts since the socket was opened, in packets or descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XskStatistics {
    /// Received but dropped for another reason than those below (copy mode: too long for a chunk, no frame).
    pub rx_dropped: u64,
    pub rx_invalid_descs: u64,
    pub tx_invalid_descs: u64,
    /// Dropped because the worker did not take packets out of the receive ring in time.
    pub rx_ring_full: u64,
    /// Times the kernel found no frame to receive into.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the kernel found nothing to send.
    pub tx_ring_empty_descs: u64,
}

/// Reads a socket's statistics from another thread than the worker's.
#[derive(Debug)]
pub struct StatisticsReader {
    fd: OwnedFd,
}

impl StatisticsReader {
    pub(super) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { fd: socket.try_clone_to_owned()? })
    }

    pub fn read(&self) -> io::Result<XskStatistics> {
        read(self.fd.as_fd())
    }
}

pub(super) fn read(socket: BorrowedFd<'_>) -> io::Result<XskStatistics> {
    let mut raw = libc::xdp_statistics {
        rx_dropped: 0,
        rx_invalid_descs: 0,
        tx_invalid_descs: 0,
        rx_ring_full: 0,
        rx_fill_ring_empty_descs: 0,
        tx_ring_empty_descs: 0,
    };
    let mut len = size_of_val(&raw) as libc::socklen_t;
    // SAFETY: `raw` is writable for `len` bytes during the call, and any bytes are a valid value of it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_STATISTICS,
            std::ptr::from_mut(&mut raw).cast(),
            &mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(XskStatistics {
        rx_dropped: raw.rx_dropped,
        rx_invalid_descs: raw.rx_invalid_descs,
        tx_invalid_descs: raw.tx_invalid_descs,
        rx_ring_full: raw.rx_ring_full,
        rx_fill_ring_empty_descs: raw.rx_fill_ring_empty_descs,
        tx_ring_empty_descs: raw.tx_ring_empty_descs,
    })
}
