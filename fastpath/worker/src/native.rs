//! The processor that this runs on, handed to the engine, which knows no unsafe code.

use std::sync::atomic::AtomicU64;

use atalho_engine::processor::{Processor, TAG_WORDS};
use atalho_sys::processor;

#[derive(Debug, Clone, Copy)]
pub struct Native;

impl Processor for Native {
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        processor::prefetch_line(at);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn tags_equal(self, words: &[AtomicU64; TAG_WORDS], wanted: u16) -> u32 {
        processor::words16_equal(words, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_tags_are_found_exactly_and_by_every_processor() {
        let near = [0, 1, 2, 0x7fff, 0x8000, 0x8001, 0xff00, 0x00ff, 0xffff];
        for wanted in near {
            for other in near.into_iter().filter(|other| *other != wanted) {
                for lanes in [0, 1, 0x8000_0000, u32::MAX, 0x1234_5678, 0xfedc_0001] {
                    let tags: [u16; 32] =
                        std::array::from_fn(|lane| if lanes >> lane & 1 == 1 { wanted } else { other });
                    let word = |tags: &[u16]| tags.iter().rev().fold(0, |word, tag| word << 16 | u64::from(*tag));
                    let words: [AtomicU64; TAG_WORDS] =
                        std::array::from_fn(|at| AtomicU64::new(word(&tags[4 * at..][..4])));
                    assert_eq!(Native.tags_equal(&words, wanted), lanes, "{wanted:#x} among {other:#x}");
                    assert_eq!(().tags_equal(&words, wanted), lanes, "{wanted:#x} among {other:#x}");
                }
            }
        }
    }
}
