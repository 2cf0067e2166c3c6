//! Maps a socket's four rings from its descriptor (getsockopt XDP_MMAP_OFFSETS, then mmap at the four page offsets).
//! The same for a socket that xsk-rs opened, whose own views of the rings are left alone, and for one of ours.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::mmap::Mapping;

use super::ring::{Consumer, Desc, Parts, Producer};

/// The four rings of one socket.
pub struct Rings {
    pub rx: Consumer<Desc>,
    pub tx: Producer<Desc>,
    pub fill: Producer<u64>,
    pub completion: Consumer<u64>,
}

/// Maps the rings of `socket`, each of `entries` slots (a power of two, as they were made).
/// Call it once per socket: two mappings would be two producers of one ring.
pub fn map_rings(socket: BorrowedFd<'_>, entries: u32) -> io::Result<Rings> {
    let offsets = mmap_offsets(socket)?;
    Ok(Rings {
        rx: Consumer::new(map(socket, libc::XDP_PGOFF_RX_RING, &offsets.rx, entries)?),
        tx: Producer::new(map(socket, libc::XDP_PGOFF_TX_RING, &offsets.tx, entries)?),
        fill: Producer::new(map(socket, libc::XDP_UMEM_PGOFF_FILL_RING as i64, &offsets.fr, entries)?),
        completion: Consumer::new(map(socket, libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64, &offsets.cr, entries)?),
    })
}

fn mmap_offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    let mut offsets = std::mem::MaybeUninit::<libc::xdp_mmap_offsets>::zeroed();
    let mut len = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    // SAFETY: `offsets` is writable for `len` bytes during the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            offsets.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if len as usize != size_of::<libc::xdp_mmap_offsets>() {
        return Err(io::Error::other("the kernel reports ring offsets of an unknown size"));
    }
    // SAFETY: the structure is eight bytes times sixteen of plain integers, zeroed and then written by the kernel.
    Ok(unsafe { offsets.assume_init() })
}

fn map<T>(socket: BorrowedFd<'_>, page: i64, at: &libc::xdp_ring_offset, entries: u32) -> io::Result<Parts<T>> {
    if !entries.is_power_of_two() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{entries} ring entries: no power of two")));
    }
    let len = at.desc as usize + entries as usize * size_of::<T>();
    let mapping = Arc::new(Mapping::shared(socket, len, page)?);
    let word = |offset: u64| -> io::Result<NonNull<u8>> {
        if offset as usize + size_of::<u64>() > len || !offset.is_multiple_of(4) {
            return Err(io::Error::other("the kernel reports a ring offset outside the ring"));
        }
        // SAFETY: the offset was just checked to lie inside the mapping.
        Ok(unsafe { mapping.address().add(offset as usize) })
    };
    // The invariant of `Parts`: the words and slots lie inside the mapping (checked above; `len` covers the slots),
    // aligned by the kernel (indices on cache lines of their own, slots behind them), initialised by it, and live as
    // long as `owner`. The other end of each ring is the kernel's.
    Ok(Parts {
        producer: word(at.producer)?.cast(),
        consumer: word(at.consumer)?.cast(),
        flags: word(at.flags)?.cast(),
        slots: word(at.desc)?.cast(),
        mask: entries - 1,
        owner: mapping,
    })
}
