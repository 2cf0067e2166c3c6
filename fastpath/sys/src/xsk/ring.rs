//! One ring: one producer, one consumer, free-running 32-bit indices, a power of two of slots
//! (kernel: Documentation/networking/af_xdp.rst, include/linux `xsk_queue.h`).
//!
//! Both ends write only their own index. An entry is written before the producer's index is stored with release and
//! read after that index was loaded with acquire; the same holds for the consumer's index and the reuse of a slot. So
//! the four rings of a socket and a pair in plain memory are one code, and tests drive it without a kernel.
//!
//! Entries move in batches: `push` and `pop` touch private copies of the indices, `publish` and `release` show them.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// A descriptor of the receive and transmit rings (`struct xdp_desc`): address in the region, bytes, options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Desc {
    pub addr: u64,
    pub len: u32,
    pub options: u32,
}

/// Where the parts of a ring lie.
///
/// Invariant, which whoever makes one proves: the three words and `mask + 1` slots are valid, aligned and initialised
/// as long as `owner` lives, and slots are accessed by one producer and one consumer under the protocol above.
pub(super) struct Parts<T> {
    pub producer: NonNull<AtomicU32>,
    pub consumer: NonNull<AtomicU32>,
    pub flags: NonNull<AtomicU32>,
    pub slots: NonNull<T>,
    /// Slots - 1; slots are a power of two.
    pub mask: u32,
    pub owner: Arc<dyn Any + Send + Sync>,
}

impl<T> Clone for Parts<T> {
    fn clone(&self) -> Self {
        Self { owner: self.owner.clone(), ..*self }
    }
}

impl<T: Copy> Parts<T> {
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: the type's invariant; `owner` lives as long as `self`.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: the type's invariant.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: the type's invariant.
        unsafe { self.flags.as_ref() }
    }

    fn slot(&self, index: u32) -> *mut T {
        // SAFETY: the masked index is below the number of slots, so the result stays inside the allocation.
        unsafe { self.slots.as_ptr().add((index & self.mask) as usize) }
    }
}

/// The end that puts entries in.
pub struct Producer<T> {
    parts: Parts<T>,
    /// The next slot to write; published up to the shared index.
    next: u32,
    /// The consumer's index when last looked at.
    consumed: u32,
}

/// The end that takes entries out.
pub struct Consumer<T> {
    parts: Parts<T>,
    /// The next slot to read; released up to the shared index.
    next: u32,
    /// The producer's index when last looked at.
    produced: u32,
}

// SAFETY: the parts point to memory that `owner` (Send + Sync) keeps, and only this end uses its side of the protocol.
unsafe impl<T: Send> Send for Producer<T> {}
// SAFETY: as for `Producer`.
unsafe impl<T: Send> Send for Consumer<T> {}

impl<T: Copy> Producer<T> {
    pub(super) fn new(parts: Parts<T>) -> Self {
        let next = parts.producer().load(Ordering::Relaxed);
        let consumed = parts.consumer().load(Ordering::Acquire);
        Self { parts, next, consumed }
    }

    pub fn capacity(&self) -> u32 {
        self.parts.mask + 1
    }

    /// Whether `entries` more fit; looks anew at the other end where they do not by the last look.
    #[inline]
    pub fn has_room(&mut self, entries: u32) -> bool {
        if self.free() >= entries {
            return true;
        }
        self.consumed = self.parts.consumer().load(Ordering::Acquire);
        self.free() >= entries
    }

    /// Free slots by the last look at the other end.
    fn free(&self) -> u32 {
        self.capacity().saturating_sub(self.next.wrapping_sub(self.consumed))
    }

    /// Writes one entry, not yet visible. `false`: the ring is full.
    #[inline]
    pub fn push(&mut self, entry: T) -> bool {
        if !self.has_room(1) {
            return false;
        }
        // SAFETY: the slot is inside the ring, and between the consumer's index (acquired) and our own, which is not
        // published: nobody else accesses it.
        unsafe { self.parts.slot(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows every entry pushed so far.
    #[inline]
    pub fn publish(&self) {
        self.parts.producer().store(self.next, Ordering::Release);
    }

    /// Entries that the other end has not taken yet, unpublished ones included.
    pub fn waiting(&self) -> u32 {
        self.next.wrapping_sub(self.parts.consumer().load(Ordering::Acquire))
    }

    /// Whether the kernel asks to be woken after a publication (XDP_RING_NEED_WAKEUP).
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        // The flag must not be read before the published index is visible, or both sides could wait for each other.
        fence(Ordering::SeqCst);
        self.parts.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<T: Copy> Consumer<T> {
    pub(super) fn new(parts: Parts<T>) -> Self {
        let next = parts.consumer().load(Ordering::Relaxed);
        let produced = parts.producer().load(Ordering::Acquire);
        Self { parts, next, produced }
    }

    pub fn capacity(&self) -> u32 {
        self.parts.mask + 1
    }

    /// Takes one entry; its slot goes back with the next [`Self::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            self.produced = self.parts.producer().load(Ordering::Acquire);
            if self.next == self.produced {
                return None;
            }
        }
        // SAFETY: the slot is inside the ring and below the producer's index (acquired): it was written before and is
        // not written again until our index is released past it.
        let entry = unsafe { self.parts.slot(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the slots of every entry popped so far back.
    #[inline]
    pub fn release(&self) {
        self.parts.consumer().store(self.next, Ordering::Release);
    }

    /// Entries that wait to be popped.
    pub fn waiting(&self) -> u32 {
        self.parts.producer().load(Ordering::Acquire).wrapping_sub(self.next)
    }
}

struct PlainMemory<T> {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    slots: Box<[UnsafeCell<T>]>,
}

// SAFETY: the slots are accessed only through one `Producer` and one `Consumer`, which the indices keep apart.
unsafe impl<T: Send> Sync for PlainMemory<T> {}

/// Both ends of a ring in plain memory. `slots` must be a power of two; `first_index` is where both indices start (a
/// kernel ring starts at 0; tests start shortly before the wrap).
pub fn in_memory<T: Copy + Default + Send + 'static>(slots: u32, first_index: u32) -> (Producer<T>, Consumer<T>) {
    assert!(slots.is_power_of_two(), "{slots} slots are no power of two");
    let memory = Arc::new(PlainMemory {
        producer: AtomicU32::new(first_index),
        consumer: AtomicU32::new(first_index),
        flags: AtomicU32::new(0),
        slots: (0..slots).map(|_| UnsafeCell::new(T::default())).collect(),
    });
    let parts = Parts {
        producer: NonNull::from(&memory.producer),
        consumer: NonNull::from(&memory.consumer),
        flags: NonNull::from(&memory.flags),
        // UnsafeCell<T> has the layout of T, so a pointer to the first cell is one to the first slot, with the
        // provenance of the whole slice.
        slots: NonNull::from(&*memory.slots).cast(),
        mask: slots - 1,
        owner: memory,
    };
    (Producer::new(parts.clone()), Consumer::new(parts))
}
