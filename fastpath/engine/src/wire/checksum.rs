//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// The folded one's complement sum of `bytes`, an odd last byte padded with zero. 0xffff or 0 where a checksum
/// within them is right.
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    if let [last] = rest {
        sum += u64::from(*last) << 8;
    }
    fold(sum)
}

/// Whether `bytes` (a header or message with its checksum field) sum up as they must.
pub fn is_valid(bytes: &[u8]) -> bool {
    sum(bytes) == 0xffff
}

/// Whether a sum of words of any width, not all 0, is that of a header or message with a right checksum. Without folding: a
/// one's complement sum is one modulo 2^16 - 1.
#[inline]
pub const fn is_valid_sum(sum: u64) -> bool {
    sum.is_multiple_of(0xffff)
}

/// Sixteen bits of a one's complement sum.
#[inline]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    // At most 34 bits, 18, 17 and 16: no branch that depends on data.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// What changed under a checksum: the sum of ~m + m' over the changed words (RFC 1624, equation 3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// `old` becomes `new`, both at an even offset within what is summed.
    #[inline]
    pub fn word(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// Words as they are loaded from a frame on a little-endian machine, whose checksum is loaded so too: a one's complement
    /// sum is the same in either order of bytes (RFC 1071 section 2).
    #[inline]
    pub fn words(&mut self, old: &[u32], new: &[u32]) {
        for (old, new) in old.iter().zip(new) {
            self.0 += u64::from(!old) + u64::from(*new);
        }
    }

    /// Bytes of equal, even length.
    #[inline]
    pub fn bytes(&mut self, old: &[u8], new: &[u8]) {
        for (old, new) in old.as_chunks::<2>().0.iter().zip(new.as_chunks::<2>().0) {
            self.word(u16::from_be_bytes(*old), u16::from_be_bytes(*new));
        }
    }

    #[inline]
    pub fn add(&mut self, other: Self) {
        self.0 += other.0;
    }

    /// The checksum after the change.
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        let mut delta = Delta::default();
        delta.word(0x5555, 0x3285);
        assert_eq!(delta.apply(0xdd2f), 0x0000);
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn an_odd_byte_counts_as_the_upper_half_of_a_word() {
        assert_eq!(sum(&[1, 2, 3]), 0x0102 + 0x0300);
    }
}
