//! Proves that a thread allocates nothing: a global allocator that counts, or ends the process, once a thread has
//! promised not to allocate or free any more. Costs one thread-local load a call, so it is for tests and for runs
//! that ask for it; the plain allocator is the default.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The allocator: `#[global_allocator] static ALLOCATOR: Guarded = Guarded;`.
pub struct Guarded;

static VIOLATIONS: AtomicU64 = AtomicU64::new(0);
static ABORT: AtomicBool = AtomicBool::new(false);

thread_local! {
    static PROMISED: Cell<bool> = const { Cell::new(false) };
}

/// From here on, this thread promises to allocate and free nothing.
pub fn arm() {
    PROMISED.set(true);
}

/// Takes the promise back.
pub fn disarm() {
    PROMISED.set(false);
}

/// From here on, a broken promise ends the process with a message and a backtrace.
pub fn abort_on_violation() {
    ABORT.store(true, Ordering::Relaxed);
}

/// Allocations and frees of all threads that had promised none.
pub fn violations() -> u64 {
    VIOLATIONS.load(Ordering::Relaxed)
}

#[inline]
fn check(what: &str, bytes: usize) {
    // A thread that ends frees its thread-locals; the flag itself needs no destructor, so `try_with` cannot fail here
    // but for a thread that is past its end, which no longer works on packets.
    if PROMISED.try_with(Cell::get) == Ok(true) {
        report(what, bytes);
    }
}

#[cold]
fn report(what: &str, bytes: usize) {
    VIOLATIONS.fetch_add(1, Ordering::Relaxed);
    if ABORT.load(Ordering::Relaxed) {
        // Printing allocates.
        disarm();
        eprintln!(
            "a thread that promised to allocate nothing did: {what} of {bytes} bytes\n{}",
            std::backtrace::Backtrace::force_capture()
        );
        std::process::abort();
    }
}

// SAFETY: every call goes to `System` unchanged, which upholds the contract; counting touches no memory of it.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check("allocation", layout.size());
        // SAFETY: the caller's promises are `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check("allocation", layout.size());
        // SAFETY: the caller's promises are `System`'s.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        check("reallocation", new_size);
        // SAFETY: the caller's promises are `System`'s, where `at` came from.
        unsafe { System.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        check("free", layout.size());
        // SAFETY: the caller's promises are `System`'s, where `at` came from.
        unsafe { System.dealloc(at, layout) }
    }
}
