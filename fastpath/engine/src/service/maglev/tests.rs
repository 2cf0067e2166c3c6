use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn permutation(Preference { offset, skip }: Preference, size: u16) -> impl Iterator<Item = u16> {
    let (offset, skip, size) = (u32::from(offset), u32::from(skip), u32::from(size));
    (0..size).map(move |nth| ((offset + nth * skip) % size) as u16)
}

const NOBODY: u16 = u16::MAX;

/// Listing 1 of the paper as it stands there, but for the credits.
fn plain(wishes: &[(Preference, u32, u16)], size: u16) -> Vec<u16> {
    let mut table = vec![NOBODY; usize::from(size)];
    let mut free = size;
    let weight_max = wishes.iter().map(|(_, weight, _)| *weight).max().unwrap();
    let mut credits = vec![0; wishes.len()];
    let mut permutations: Vec<_> = wishes.iter().map(|(preference, ..)| permutation(*preference, size)).collect();
    loop {
        for (i, (_, weight, index)) in wishes.iter().enumerate() {
            credits[i] += u64::from(*weight);
            if credits[i] < u64::from(weight_max) {
                continue;
            }
            credits[i] -= u64::from(weight_max);
            let entry = permutations[i].find(|entry| table[usize::from(*entry)] == NOBODY).unwrap();
            table[usize::from(entry)] = *index;
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

fn wishes(of: &[(u16, u16)]) -> Vec<(Preference, u32, u16)> {
    (0..).zip(of).map(|(index, &(offset, skip))| (Preference { offset, skip }, 1, index)).collect()
}

/// Table 1 of the paper: three backends, seven entries; then B1 is removed.
#[test]
fn the_worked_example_of_the_paper() {
    let (b0, b1, b2) = ((3, 4), (0, 2), (3, 1));
    for fill in [|wishes: &[_], size| plain(wishes, size), |wishes: &[_], size| filled(wishes, size).into()] {
        assert_eq!(fill(&wishes(&[b0, b1, b2]), 7), [1, 0, 1, 0, 2, 2, 0]);
        assert_eq!(fill(&wishes(&[b0, b2]), 7), [0, 0, 0, 0, 1, 1, 1]);
    }
}

/// What the worked example gives as permutations, from offsets and skips.
#[test]
fn the_permutations_of_the_paper() {
    let of = |offset, skip| permutation(Preference { offset, skip }, 7).collect::<Vec<_>>();
    assert_eq!(of(3, 4), [3, 0, 4, 1, 5, 2, 6]);
    assert_eq!(of(0, 2), [0, 2, 4, 6, 1, 3, 5]);
    assert_eq!(of(3, 1), [3, 4, 5, 6, 0, 1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 400 }))]
    #[test]
    fn looking_ahead_and_ranking_change_nothing(
        size in prop::sample::select(vec![2, 3, 7, 11, 31, 251, 383, 1021, 3067, 65_521]),
        numbers in prop::collection::vec((any::<u16>(), any::<u16>(), 1..9u32), 1..70),
    ) {
        let wish = |(index, (offset, skip, weight)): (u16, (u16, u16, u32))| {
            (Preference { offset: offset % size, skip: skip % (size - 1) + 1 }, weight, index)
        };
        let wishes: Vec<_> = (0..).zip(numbers).map(wish).collect();
        prop_assert!(*filled(&wishes, size) == *plain(&wishes, size));
    }

    #[test]
    fn shares_are_in_proportion_to_any_weights(weights in prop::collection::vec(0..1000u32, 2..60)) {
        let table = table(&weighted(&weights));
        let sum: u32 = weights.iter().sum();
        assert_eq!(table.is_empty(), sum == 0);
        for (of, weight) in weights.iter().enumerate().filter(|_| sum > 0) {
            let (share, due) = (share(&table, of as u16), f64::from(*weight) / f64::from(sum));
            assert!((share - due).abs() < 0.01, "{share} for {due}");
            assert!(*weight > 0 || share == 0.0);
        }
    }
}

fn weighted(weights: &[u32]) -> Vec<Endpoint> {
    let address = |i: u32| Ipv4Addr::new(10, 244, (i / 250) as u8, (i % 250 + 1) as u8);
    let endpoint = |(i, weight)| Endpoint { address: address(i).into(), port: 8080, weight, node: None, local: false };
    (0..).zip(weights.iter().copied()).map(endpoint).collect()
}

fn share(table: &[u16], of: u16) -> f64 {
    table.iter().filter(|entry| **entry == of).count() as f64 / table.len() as f64
}

#[test]
fn one_of_fifty_leaves_and_under_two_percent_of_the_others_move() {
    let all = weighted(&[1; 50]);
    let before = table(&all);
    for gone in 0..50u16 {
        let rest: Vec<Endpoint> = all.iter().filter(|e| **e != all[usize::from(gone)]).cloned().collect();
        let after = table(&rest);
        assert_eq!(before.len(), after.len());
        let others = || before.iter().zip(&after).filter(|(old, _)| **old != gone);
        let moved = others().filter(|&(old, new)| all[usize::from(*old)] != rest[usize::from(*new)]).count();
        let untouched = others().count();
        assert!(moved * 50 <= untouched, "endpoint {gone}: {moved} of {untouched} moved");
    }
}

#[test]
fn shares_are_even_and_weights_count() {
    let even = table(&weighted(&[1; 10]));
    for endpoint in 0..10 {
        assert!((share(&even, endpoint) - 0.1).abs() < 0.002, "{}", share(&even, endpoint));
    }
    let mut weights = [1; 10];
    weights[3] = 0;
    weights[4] = 3;
    let uneven = table(&weighted(&weights));
    assert_eq!(share(&uneven, 3), 0.0);
    assert!((share(&uneven, 4) - 3.0 / 11.0).abs() < 0.005, "{}", share(&uneven, 4));
}

/// Every node has to choose alike, and a new version as the one before: who changes this says so in the change log.
#[test]
fn a_preference_is_the_same_everywhere() {
    let of = |address| Preference::of(&Endpoint { address, ..weighted(&[1]).remove(0) }, 4093);
    let (four, six) = (of(Ipv4Addr::new(10, 244, 0, 1).into()), of(Ipv6Addr::LOCALHOST.into()));
    assert_eq!([four.offset, four.skip, six.offset, six.skip], [1355, 1111, 3759, 383]);
}

#[test]
fn preferences_are_spread_evenly_in_both_families() {
    let four = |i: u32| Ipv4Addr::from_bits(0x0af4_0000 + i).into();
    let six = |i: u32| Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(i)).into();
    for family in [four as fn(u32) -> std::net::IpAddr, six] {
        let (mut offsets, mut skips) = ([0; 10], [0; 10]);
        for i in 0..100_000 {
            let endpoint = Endpoint { address: family(i), port: 8080, weight: 1, node: None, local: false };
            let preference = Preference::of(&endpoint, 4093);
            assert!(preference.offset < 4093 && (1..4093).contains(&preference.skip));
            offsets[usize::from(preference.offset / 410)] += 1;
            skips[usize::from(preference.skip / 410)] += 1;
        }
        // 4,093 is not divided by ten: the last tenth has 0.07 % less than its share.
        assert!(offsets.iter().chain(&skips).all(|count| (9_600..10_400).contains(count)), "{offsets:?} {skips:?}");
    }
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    let forward = weighted(&[1; 7]);
    let backward: Vec<Endpoint> = forward.iter().rev().cloned().collect();
    let (a, b) = (table(&forward), table(&backward));
    assert!(a.iter().zip(&b).all(|(a, b)| forward[usize::from(*a)] == backward[usize::from(*b)]));
}

#[test]
fn sizes_are_prime_and_nobody_makes_an_empty_table() {
    for size in SIZES {
        assert!((2..*size).take_while(|d| u32::from(*d).pow(2) <= u32::from(*size)).all(|d| size % d != 0), "{size}");
    }
    assert!(SIZES.is_sorted());
    assert_eq!([2, 10, 25, 50].map(size_for), [251, 1021, 3067, 8191]);
    assert_eq!(size_for(1_000_000), 65_521);
    assert!(table(&weighted(&[0, 0])).is_empty());
}
