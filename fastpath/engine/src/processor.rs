//! What the engine asks of the processor and safe code cannot say. A parameter of the engine; a call that is not compiled into
//! place would cost more than what it is made for.

use bytemuck::cast;
use wide::{i8x16, u16x8};

use crate::atomic::{AtomicU64, Ordering};
use crate::conntrack::SLOTS;

/// Tags in one word.
pub const LANES: usize = 4;
/// Words of the tags of a bucket: a line of memory.
pub const TAG_WORDS: usize = SLOTS / LANES;
/// Words that are compared at once.
const COMPARED_WORDS: usize = 4;

pub trait Processor: Copy {
    /// Asks for the line of memory at an address, which may be any; may do nothing.
    fn prefetch(self, at: *const u8);

    /// Which tags of a line equal `wanted`, as bits; each word is read once, as with [`Ordering::Acquire`].
    #[inline(always)]
    fn tags_equal(self, words: &[AtomicU64; TAG_WORDS], wanted: u16) -> u32 {
        tags_equal(words, wanted)
    }
}

/// Any processor, and nothing ahead: for those who are in no hurry.
impl Processor for () {
    #[inline]
    fn prefetch(self, _: *const u8) {}
}

/// In vectors: in 64-bit words it takes four times as many instructions. They are put together from words, for those may be
/// written meanwhile, and no safe load is wider.
#[inline(always)]
fn tags_equal(words: &[AtomicU64; TAG_WORDS], wanted: u16) -> u32 {
    let wanted = u16x8::splat(wanted);
    let mut lanes = 0;
    for (words, shift) in words.chunks(COMPARED_WORDS).zip([0, 16]) {
        let mut tags = [0_u64; COMPARED_WORDS];
        for (tags, word) in tags.iter_mut().zip(words) {
            *tags = word.load(Ordering::Acquire);
        }
        let equal = cast::<_, [u16x8; 2]>(tags).map(|tags| tags.simd_eq(wanted));
        lanes |= i8x16::from_i16x16_saturate(cast(equal)).to_bitmask() << shift;
    }
    lanes
}
