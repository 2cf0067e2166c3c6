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
    [src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3], ports, protocol as u32]
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

/// Tag of a hash: its lower half, never 0. The buckets come from the upper bits, so that the tags of one bucket differ.
#[inline]
pub const fn tag(hash: u32) -> u16 {
    let tag = hash as u16;
    if tag == 0 { 1 } else { tag }
}

/// Both buckets of a hash, never the same one. `buckets` is any number from 2 on: a table of a power of two would take
/// up to twice the memory that was asked for. The range reduction is a multiplication (Lemire, "Fast random integer
/// generation in an interval", 2019); the second one is fed by the hash times an odd constant (2^32 / golden ratio).
#[inline]
pub const fn bucket_pair(hash: u32, buckets: u32) -> (u32, u32) {
    let first = reduce(hash, buckets);
    let second = reduce(hash.wrapping_mul(0x9e37_79b1), buckets);
    if second != first {
        return (first, second);
    }
    (first, if first + 1 == buckets { 0 } else { first + 1 })
}

const fn reduce(hash: u32, buckets: u32) -> u32 {
    ((hash as u64 * buckets as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_buckets_differ_and_stay_in_range() {
        for buckets in [2, 3, 38_104, 65_536] {
            for hash in (0..u32::MAX).step_by(65_521).chain([u32::MAX]) {
                let (a, b) = bucket_pair(hash, buckets);
                assert!(a != b && a < buckets && b < buckets, "{hash:#x} of {buckets}: {a}, {b}");
            }
        }
    }

    #[test]
    fn the_sum_is_taken_modulo_2_to_the_64() {
        let secret = [u64::MAX; SECRET_WORDS];
        // -1 + 4 * (-1 * 2) = -9 mod 2^64, upper half all ones.
        assert_eq!(hash(&secret, &[2, 2, 2, 2]), u32::MAX);
    }
}
