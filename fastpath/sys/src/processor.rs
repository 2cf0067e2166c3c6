//! Instructions that safe code cannot say: bringing a cache line near before it is read, and comparing a line of words that others may
//! be writing.

#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Prefetches the cache line that holds the first byte of `bytes`, and the next one where `bytes` reaches it.
#[inline(always)]
pub fn prefetch(bytes: &[u8]) {
    prefetch_line(bytes.as_ptr());
    if bytes.len() > 64 {
        prefetch_line(bytes[64..].as_ptr());
    }
}

/// Prefetches the cache line at `at`, which may be any address. Only a hint: it never faults and changes nothing.
#[inline(always)]
pub fn prefetch_line(at: *const u8) {
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

/// Which of the 32 16-bit lanes of `words` equal `wanted`, as bits, the lowest lane of the first word first. Each word is read as with
/// [`Ordering::Acquire`]. Vectors put together from eight 64-bit loads take twenty instructions more.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn words16_equal(words: &[AtomicU64; 8], wanted: u16) -> u32 {
    use std::arch::x86_64::_mm_set1_epi16;

    // SAFETY: SSE2, which every x86_64 has.
    let wanted = unsafe { _mm_set1_epi16(wanted as i16) };
    let (low, high): (u32, u32);
    // SAFETY: reads the 64 bytes of `words` and nothing else, and writes registers only. MOVDQU asks for no alignment. Other threads may
    // write the words meanwhile: they are atomics, and assembly is no access that the language counts as a race. An aligned quadword
    // is never read torn within a cache line (AMD64 Architecture Programmer's Manual, volume 2, section 7.3.2; Intel SDM, volume 3A,
    // section 10.1.1), and where a vector holds words of different moments, so would eight loads.
    unsafe {
        std::arch::asm!(
            "movdqu {a}, [{words}]",
            "movdqu {b}, [{words} + 16]",
            "movdqu {c}, [{words} + 32]",
            "movdqu {d}, [{words} + 48]",
            "pcmpeqw {a}, {wanted}",
            "pcmpeqw {b}, {wanted}",
            "pcmpeqw {c}, {wanted}",
            "pcmpeqw {d}, {wanted}",
            "packsswb {a}, {b}",
            "packsswb {c}, {d}",
            "pmovmskb {low:e}, {a}",
            "pmovmskb {high:e}, {c}",
            words = in(reg) words,
            wanted = in(xmm_reg) wanted,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            low = lateout(reg) low,
            high = lateout(reg) high,
            options(nostack, preserves_flags, readonly)
        );
    }
    // Loads are acquire loads by themselves there; this is for the compiler.
    fence(Ordering::Acquire);
    low | high << 16
}
