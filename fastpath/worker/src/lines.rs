//! The processor's prefetch, handed to the engine, which knows no unsafe code.

use atalho_engine::pipeline::Prefetch;
use atalho_sys::prefetch;

/// Lines of memory, loaded ahead.
#[derive(Debug, Clone, Copy)]
pub struct Lines;

impl Prefetch for Lines {
    #[inline(always)]
    fn line(self, at: *const u8) {
        prefetch::line(at);
    }
}
