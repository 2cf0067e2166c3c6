//! The table's hash: multilinear over 32-bit words with 64-bit secrets,
//! `(s_n + sum of s_i * word_i) >> 32` (Lemire and Kaser, "Strongly universal string hashing is fast", 2014).
//! Kernel program and worker compute the same one; the secret is drawn once per boot.

/// Secrets of one table: one per word of the longest key (IPv6: 4 + 4 + ports + protocol) and one more.
pub const SECRET_WORDS: usize = 11;

/// Words of an IPv4 key in the order in which they are hashed. All in memory (network) order as loaded on little-endian.
pub const fn flow_words_v4(src: u32, dst: u32, ports: u32, protocol: u8) -> [u32; 4] {
    [src, dst, ports, protocol as u32]
}

/// Words of an IPv6 key.
pub const fn flow_words_v6(src: [u32; 4], dst: [u32; 4], ports: u32, protocol: u8) -> [u32; 10] {
    [
        src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3], ports, protocol as u32,
    ]
}

/// Hash of `words`; `secret[n]` with n = number of words is the additive term.
#[inline]
pub const fn hash<const N: usize>(secret: &[u64; SECRET_WORDS], words: &[u32; N]) -> u32 {
    let mut sum = secret[N];
    let mut i = 0;
    while i < N {
        sum = sum.wrapping_add(secret[i].wrapping_mul(words[i] as u64));
        i += 1;
    }
    (sum >> 32) as u32
}

/// Tag of a hash: its upper half, never 0.
#[inline]
pub const fn tag(hash: u32) -> u16 {
    let tag = (hash >> 16) as u16;
    if tag == 0 { 1 } else { tag }
}

/// The other bucket of an entry with this tag; applying it twice gives the first one back. `mask` = buckets - 1.
#[inline]
pub const fn other_bucket(bucket: u32, tag: u16, mask: u32) -> u32 {
    // A step of 0 would make both buckets one; odd steps never are.
    let step = (tag as u32).wrapping_mul(0x9e37_79b1) >> 7 | 1;
    (bucket ^ step) & mask
}

/// Both buckets of a hash. `mask` = buckets - 1, buckets a power of two and at least 2.
#[inline]
pub const fn bucket_pair(hash: u32, mask: u32) -> (u32, u32) {
    let first = hash & mask;
    (first, other_bucket(first, tag(hash), mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_bucket_of_the_other_bucket_is_the_first() {
        for hash in (0..u32::MAX).step_by(65_521) {
            let (a, b) = bucket_pair(hash, 0xffff);
            assert_ne!(a, b);
            assert_eq!(other_bucket(b, tag(hash), 0xffff), a);
        }
    }

    #[test]
    fn the_sum_is_taken_modulo_2_to_the_64() {
        let secret = [u64::MAX; SECRET_WORDS];
        // -1 + 4 * (-1 * 2) = -9 mod 2^64, upper half all ones.
        assert_eq!(hash(&secret, &[2, 2, 2, 2]), u32::MAX);
    }
}
