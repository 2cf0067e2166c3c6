//! Asks the processor to bring a cache line near, before it is read. Only a hint: it never faults and changes nothing.

/// Prefetches the cache line that holds the first byte of `bytes`, and the next one where `bytes` reaches it.
#[inline(always)]
pub fn read(bytes: &[u8]) {
    line(bytes.as_ptr());
    if bytes.len() > 64 {
        line(bytes[64..].as_ptr());
    }
}

/// Prefetches the cache line at `at`, which may be any address.
#[inline(always)]
pub fn line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHT0 is part of SSE, which every x86_64 has; it is a hint that cannot fault on any address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast())
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: PRFM is a hint that cannot fault on any address; the statement reads and writes no memory and no flags.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly))
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
