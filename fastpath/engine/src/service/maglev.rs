//! Maglev's table of choice (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4): each endpoint fills the table in an order of its own, in turns, so that shares are even and few
//! entries move when an endpoint comes or goes. Building is a pure function of names and weights.

use super::mix;

/// Table sizes: the largest primes below the powers of two.
const SIZES: &[usize] = &[251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521];
/// Entries for each endpoint: with 100 the shares differ by 1 % (section 5.3 of the paper).
const ENTRIES_PER_ENDPOINT: usize = 100;
/// What an entry can name.
const ENDPOINTS_MAX: usize = u16::MAX as usize;
const NOBODY: u16 = u16::MAX;

/// The size for so many endpoints: a prime, so that every skip visits the whole table.
pub fn lookup_size(endpoints: usize) -> usize {
    let wanted = endpoints.saturating_mul(ENTRIES_PER_ENDPOINT);
    SIZES.iter().copied().find(|size| *size >= wanted).unwrap_or(SIZES[SIZES.len() - 1])
}

/// A table of `size` (a prime) indexes into `names`. Shares are in proportion to `weights`; whose weight is 0 gets none.
/// The same names make the same choices in whatever order they stand. Empty where nobody has a weight.
pub fn maglev(names: &[impl AsRef<[u8]>], weights: &[u32], size: usize) -> Box<[u16]> {
    let mut endpoints: Vec<Preference> = names
        .iter()
        .zip(weights)
        .take(ENDPOINTS_MAX)
        .enumerate()
        .filter(|(_, (_, weight))| **weight > 0)
        .map(|(index, (name, weight))| {
            let (offset, skip) = offset_and_skip(name.as_ref(), size);
            Preference { index: index as u16, offset, skip, weight: *weight }
        })
        .collect();
    endpoints.sort_by(|a, b| names[usize::from(a.index)].as_ref().cmp(names[usize::from(b.index)].as_ref()));
    fill(&endpoints, size)
}

/// The order in which one endpoint wants the entries: offset, offset + skip, offset + 2 skip, ... modulo the size.
struct Preference {
    index: u16,
    offset: usize,
    skip: usize,
    weight: u32,
}

impl Preference {
    fn permutation(&self, size: usize) -> impl Iterator<Item = usize> + use<> {
        let (offset, skip) = (self.offset, self.skip);
        (0..size).scan(offset, move |next, _| {
            let entry = *next;
            *next = if entry + skip < size { entry + skip } else { entry + skip - size };
            Some(entry)
        })
    }
}

fn offset_and_skip(name: &[u8], size: usize) -> (usize, usize) {
    let hash = |seed: u64| name.iter().fold(seed, |hash, byte| mix(hash ^ u64::from(*byte)));
    let (first, second) = (hash(0x6d61_676c_6576), hash(0x736b_6970));
    ((first % size as u64) as usize, (second % (size as u64 - 1)) as usize + 1)
}

/// Listing 1 of the paper, with a credit by weight: with equal weights everybody takes one entry a turn.
fn fill(endpoints: &[Preference], size: usize) -> Box<[u16]> {
    let Some(weight_max) = endpoints.iter().map(|endpoint| endpoint.weight).max() else {
        return Box::default();
    };
    let mut table = vec![NOBODY; size];
    let mut wanted: Vec<_> = endpoints.iter().map(|endpoint| endpoint.permutation(size)).collect();
    let mut credit = vec![0u64; endpoints.len()];
    let mut filled = 0;
    loop {
        for (i, endpoint) in endpoints.iter().enumerate() {
            credit[i] += u64::from(endpoint.weight);
            if credit[i] < u64::from(weight_max) {
                continue;
            }
            credit[i] -= u64::from(weight_max);
            // One that has seen the whole table would have seen the last free entry.
            let Some(free) = wanted[i].find(|entry| table[*entry] == NOBODY) else { continue };
            table[free] = endpoint.index;
            filled += 1;
            if filled == size {
                return table.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preferences(of: &[(u16, usize, usize)]) -> Vec<Preference> {
        of.iter().map(|&(index, offset, skip)| Preference { index, offset, skip, weight: 1 }).collect()
    }

    /// Table 1 of the paper: three backends, seven entries; then B1 is removed.
    #[test]
    fn the_worked_example_of_the_paper() {
        let (b0, b1, b2) = ((0, 3, 4), (1, 0, 2), (2, 3, 1));
        assert_eq!(*fill(&preferences(&[b0, b1, b2]), 7), [1, 0, 1, 0, 2, 2, 0]);
        assert_eq!(*fill(&preferences(&[b0, b2]), 7), [0, 0, 0, 0, 2, 2, 2]);
    }

    fn names(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|i| format!("10.244.{}.{}:8080", i / 250, i % 250 + 1)).collect()
    }

    #[test]
    fn one_of_fifty_leaves_and_under_two_percent_of_the_others_move() {
        let all = names(0..50);
        let size = lookup_size(50);
        let before = maglev(&all, &[1; 50], size);
        for gone in 0..50u16 {
            let rest: Vec<&String> =
                all.iter().enumerate().filter(|(i, _)| *i != usize::from(gone)).map(|(_, n)| n).collect();
            let after = maglev(&rest, &[1; 49], size);
            let moved = before
                .iter()
                .zip(&after)
                .filter(|&(&old, &new)| old != gone && all[usize::from(old)] != *rest[usize::from(new)])
                .count();
            let untouched = before.iter().filter(|old| **old != gone).count();
            assert!(moved * 50 <= untouched, "endpoint {gone}: {moved} of {untouched} moved");
        }
    }

    #[test]
    fn shares_are_even_and_weights_count() {
        let size = lookup_size(10);
        let share = |table: &[u16], of: u16| table.iter().filter(|entry| **entry == of).count() as f64 / size as f64;
        let even = maglev(&names(0..10), &[1; 10], size);
        for endpoint in 0..10 {
            assert!((share(&even, endpoint) - 0.1).abs() < 0.002, "{}", share(&even, endpoint));
        }
        let mut weights = [1; 10];
        weights[3] = 0;
        weights[4] = 3;
        let uneven = maglev(&names(0..10), &weights, size);
        assert_eq!(share(&uneven, 3), 0.0);
        assert!((share(&uneven, 4) - 3.0 / 11.0).abs() < 0.005, "{}", share(&uneven, 4));
    }

    proptest::proptest! {
        #[test]
        fn shares_are_in_proportion_to_any_weights(weights in proptest::collection::vec(0..1000u32, 2..60)) {
            let size = lookup_size(weights.len());
            let table = maglev(&names(0..weights.len() as u32), &weights, size);
            let sum: u32 = weights.iter().sum();
            assert_eq!(table.is_empty(), sum == 0);
            for (of, weight) in weights.iter().enumerate().filter(|_| sum > 0) {
                let share = table.iter().filter(|entry| usize::from(**entry) == of).count() as f64 / size as f64;
                let due = f64::from(*weight) / f64::from(sum);
                assert!((share - due).abs() < 0.01, "{share} for {due}");
                assert!(*weight > 0 || share == 0.0);
            }
        }
    }

    /// What the worked example gives as permutations, from offsets and skips.
    #[test]
    fn the_permutations_of_the_paper() {
        let permutation = |offset, skip| {
            let start = Preference { index: 0, offset, skip, weight: 1 };
            start.permutation(7).collect::<Vec<_>>()
        };
        assert_eq!(permutation(3, 4), [3, 0, 4, 1, 5, 2, 6]);
        assert_eq!(permutation(0, 2), [0, 2, 4, 6, 1, 3, 5]);
        assert_eq!(permutation(3, 1), [3, 4, 5, 6, 0, 1, 2]);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let forward = names(0..7);
        let backward: Vec<String> = forward.iter().rev().cloned().collect();
        let (a, b) = (maglev(&forward, &[1; 7], 1021), maglev(&backward, &[1; 7], 1021));
        assert!(a.iter().zip(&b).all(|(a, b)| forward[usize::from(*a)] == backward[usize::from(*b)]));
    }

    #[test]
    fn sizes_are_prime_and_nobody_makes_an_empty_table() {
        for size in SIZES {
            assert!((2..*size).take_while(|d| d * d <= *size).all(|d| size % d != 0), "{size}");
        }
        assert_eq!(lookup_size(1_000_000), 65_521);
        assert!(maglev(&["a", "b"], &[0, 0], 251).is_empty());
    }
}
