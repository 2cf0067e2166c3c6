//! Memory mapped from descriptors and from nowhere: a socket's rings, the arrays of the connection table, frames.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A mapping of this process, unmapped when dropped. Memory is readable and writable and starts out as the kernel
/// gives it (zeroes, or the file's content).
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; this type hands out only its address.
unsafe impl Send for Mapping {}
// SAFETY: as above; every access through the address is proved where it is made.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` at `offset`, shared with everybody who maps the same.
    pub fn shared(fd: BorrowedFd<'_>, len: usize, offset: i64) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset)
    }

    /// `len` bytes of zeroes that belong to this process alone.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn map(len: usize, flags: i32, fd: i32, offset: i64) -> io::Result<Self> {
        // SAFETY: no fixed address is asked for, so the kernel chooses a range that nothing else uses.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(address.cast()) {
            Some(address) => Ok(Self { address, len }),
            None => Err(io::Error::other("mmap returned address 0")),
        }
    }

    pub(crate) fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range came from mmap with this length and is unmapped only here; holders of its address keep
        // the mapping alive.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.len) };
    }
}

/// A BPF array (`BPF_F_MMAPABLE`) as atomic words, for the connection table and the next hops. The mapping is never
/// taken back: workers, control and the slow path all hold views of it until the process ends.
pub struct SharedArray;

impl SharedArray {
    /// The first `bytes` bytes (a multiple of 4) of the array behind `fd`, as 32-bit words.
    /// Errors: what mmap says; EINVAL or ENOTSUP if the map is not mmapable or smaller than `bytes`.
    pub fn words32(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<&'static [AtomicU32]> {
        let address = Self::leak(fd, bytes, size_of::<AtomicU32>())?;
        // SAFETY: the mapping is page-aligned, `bytes` long, initialised, never unmapped, and all who write it, the
        // kernel included, do so by word-sized stores, which is what AtomicU32 allows.
        Ok(unsafe { std::slice::from_raw_parts(address.cast().as_ptr(), bytes / size_of::<AtomicU32>()) })
    }

    /// As [`Self::words32`], in 64-bit words (`bytes` a multiple of 8).
    pub fn words64(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<&'static [AtomicU64]> {
        let address = Self::leak(fd, bytes, size_of::<AtomicU64>())?;
        // SAFETY: as in `words32`; a page is aligned for 64-bit words too.
        Ok(unsafe { std::slice::from_raw_parts(address.cast().as_ptr(), bytes / size_of::<AtomicU64>()) })
    }

    fn leak(fd: BorrowedFd<'_>, bytes: usize, word: usize) -> io::Result<NonNull<u8>> {
        check_whole_words(bytes, word)?;
        Ok(ManuallyDrop::new(Mapping::shared(fd, bytes, 0)?).address())
    }
}

/// Zeroes of this process alone as atomic words, in huge pages where the kernel has them to give
/// (Linux Documentation/admin-guide/mm/transhuge.rst): for tables that nobody shares. Never given back; memory that
/// nobody has written takes up none.
pub struct PrivateArray;

impl PrivateArray {
    /// `bytes` bytes (a multiple of 4), as 32-bit words. Errors: what mmap says.
    pub fn words32(bytes: usize) -> io::Result<&'static [AtomicU32]> {
        let address = Self::leak(bytes, size_of::<AtomicU32>())?;
        // SAFETY: the mapping is page-aligned, at least `bytes` long, zero and so initialised, never unmapped, and
        // reached through this slice alone.
        Ok(unsafe { std::slice::from_raw_parts(address.cast().as_ptr(), bytes / size_of::<AtomicU32>()) })
    }

    /// As [`Self::words32`], in 64-bit words (`bytes` a multiple of 8).
    pub fn words64(bytes: usize) -> io::Result<&'static [AtomicU64]> {
        let address = Self::leak(bytes, size_of::<AtomicU64>())?;
        // SAFETY: as in `words32`; a page is aligned for 64-bit words too.
        Ok(unsafe { std::slice::from_raw_parts(address.cast().as_ptr(), bytes / size_of::<AtomicU64>()) })
    }

    fn leak(bytes: usize, word: usize) -> io::Result<NonNull<u8>> {
        check_whole_words(bytes, word)?;
        let mapping = ManuallyDrop::new(Mapping::anonymous(bytes.next_multiple_of(HUGE_PAGE_BYTES))?);
        // A kernel without huge pages refuses, and small ones serve as well.
        // SAFETY: the range is that of the mapping; the advice changes no content.
        unsafe { libc::madvise(mapping.address().as_ptr().cast(), mapping.len(), libc::MADV_HUGEPAGE) };
        Ok(mapping.address())
    }
}

/// Of x86_64, and of aarch64 with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

fn check_whole_words(bytes: usize, word: usize) -> io::Result<()> {
    if bytes == 0 || !bytes.is_multiple_of(word) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("an array of {bytes} bytes is not a whole number of {word}-byte words"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};
    use std::sync::atomic::Ordering;

    fn memory_file(bytes: i64) -> OwnedFd {
        // SAFETY: the name is a C string; memfd_create returns a new descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"array".as_ptr(), libc::MFD_CLOEXEC)) };
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), bytes) }, 0);
        fd
    }

    #[test]
    fn two_views_of_one_array_see_each_other() {
        let file = memory_file(8192);
        let words = SharedArray::words32(file.as_fd(), 8192).unwrap();
        let wide = SharedArray::words64(file.as_fd(), 4096).unwrap();
        assert_eq!((words.len(), wide.len()), (2048, 512));
        words[2].store(0x1111_2222, Ordering::Relaxed);
        words[3].store(0x3333_4444, Ordering::Relaxed);
        assert_eq!(wide[1].load(Ordering::Relaxed), 0x3333_4444_1111_2222);
    }

    #[test]
    fn a_half_word_is_refused() {
        let file = memory_file(4096);
        assert!(SharedArray::words64(file.as_fd(), 12).unwrap_err().to_string().contains("12 bytes"));
        assert!(SharedArray::words32(file.as_fd(), 0).is_err());
    }
    #[test]
    fn private_words_are_zero_and_keep_what_is_stored() {
        let (words, wide) = (PrivateArray::words32(12).unwrap(), PrivateArray::words64(4 << 20).unwrap());
        assert_eq!((words.len(), wide.len()), (3, 1 << 19));
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        wide[wide.len() - 1].store(7, Ordering::Relaxed);
        assert_eq!((wide[wide.len() - 1].load(Ordering::Relaxed), wide[0].load(Ordering::Relaxed)), (7, 0));
        assert!(PrivateArray::words64(12).unwrap_err().to_string().contains("12 bytes"));
    }
}
