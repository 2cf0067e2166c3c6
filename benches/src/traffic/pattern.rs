//! The bytes of a request, an answer or a bulk stream: a function of a seed and the position, so that both ends know
//! every byte without keeping any. Not for secrets.

/// Fills `out` with the stream of `seed` from byte `position` on.
pub fn fill(seed: u64, position: u64, out: &mut [u8]) {
    let mut word_at = position / 8;
    let mut offset = (position % 8) as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let word = word(seed, word_at).to_le_bytes();
        let count = rest.len().min(8 - offset);
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&word[offset..offset + count]);
        rest = later;
        offset = 0;
        word_at += 1;
    }
}

/// The position of the first byte of `data` that differs from the stream of `seed` from `position` on.
pub fn first_difference(seed: u64, position: u64, data: &[u8]) -> Option<u64> {
    let mut expected = [0_u8; 4096];
    let mut done = 0;
    while done < data.len() {
        let count = (data.len() - done).min(expected.len());
        fill(seed, position + done as u64, &mut expected[..count]);
        if expected[..count] != data[done..done + count] {
            let inside = (0..count).find(|&i| expected[i] != data[done + i]).unwrap_or(0);
            return Some(position + (done + inside) as u64);
        }
        done += count;
    }
    None
}

/// The word at `index`: SplitMix64 (Steele, Lea, Flood 2014), which needs no state between words.
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_the_stream_is_the_same_stream() {
        let mut whole = [0_u8; 1000];
        fill(7, 0, &mut whole);
        for start in [0, 1, 7, 8, 9, 63, 500] {
            let mut part = vec![0_u8; 1000 - start];
            fill(7, start as u64, &mut part);
            assert_eq!(part, whole[start..], "from byte {start}");
        }
    }

    #[test]
    fn one_wrong_byte_is_found_where_it_is() {
        let mut data = vec![0_u8; 10_000];
        fill(1, 40, &mut data);
        assert_eq!(first_difference(1, 40, &data), None);
        data[9_001] ^= 1;
        assert_eq!(first_difference(1, 40, &data), Some(40 + 9_001));
        assert_eq!(first_difference(2, 40, &data), Some(40), "another seed is another stream");
    }
}
