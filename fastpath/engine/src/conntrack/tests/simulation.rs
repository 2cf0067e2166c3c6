//! Which buckets? A simulation with the table's own hash, which chose two buckets of 16 slots and the design load.
//! Run it with `--nocapture` to see the table.

use atalho_layout::{SECRET_WORDS, bucket_pair, flow_words_v4, hash};

use super::super::family::SLOTS;
use super::super::memory::LOAD_PERCENT;

/// Slots of the simulated table.
const TABLE_SLOTS: usize = 1 << 19;

/// Secrets that a figure is the mean of: neighbouring keys fall together under some and not under others.
const SECRETS: u64 = 8;

/// A small generator of evenly spread numbers (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// 2014), so that a seed repeats a run.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[derive(Clone, Copy)]
enum Scheme {
    OneBucket,
    EmptierOfTwo,
}

/// Hashes of the two directions of many connections as a node sees them: some clients, each counting through its ports,
/// to few Services; the answers come from the pods behind them.
fn hashes(count: usize, seed: u64) -> Vec<u32> {
    let mut random = SplitMix(seed);
    let secret: [u64; SECRET_WORDS] = std::array::from_fn(|_| random.next());
    let mut hashes = Vec::with_capacity(count + 1);
    let mut connection = 0u32;
    while hashes.len() < count {
        let client = u32::from_le_bytes([10, 244, (connection >> 20) as u8, (connection >> 12) as u8 % 110]);
        let port = 32_768 + (connection & 0xfff) as u16 * 5;
        let service = u32::from_le_bytes([10, 96, 0, (connection % 40) as u8]);
        let pod = u32::from_le_bytes([10, 244, (connection % 7) as u8, (random.next() % 110) as u8]);
        let ports = |src: u16, dst: u16| u32::from_le_bytes([(src >> 8) as u8, src as u8, (dst >> 8) as u8, dst as u8]);
        hashes.push(hash(&secret, &flow_words_v4(client, service, ports(port, 443), 6)));
        hashes.push(hash(&secret, &flow_words_v4(pod, client, ports(8443, port), 6)));
        connection += 1;
    }
    hashes.truncate(count);
    hashes
}

/// Percentage of inserts that find their buckets full, on the way to a table loaded with `load_percent`.
fn lost_percent(scheme: Scheme, slots: usize, load_percent: usize) -> f64 {
    (0..SECRETS).map(|seed| lost_percent_once(scheme, slots, load_percent, seed)).sum::<f64>() / SECRETS as f64
}

fn lost_percent_once(scheme: Scheme, slots: usize, load_percent: usize, seed: u64) -> f64 {
    let buckets = (TABLE_SLOTS / slots) as u32;
    let mut used = vec![0usize; buckets as usize];
    let keys = hashes(TABLE_SLOTS * load_percent / 100, seed);
    let mut lost = 0;
    for hash in &keys {
        let (first, second) = bucket_pair(*hash, buckets);
        let (first, second) = (first as usize, second as usize);
        let bucket = match scheme {
            Scheme::OneBucket => first,
            Scheme::EmptierOfTwo if used[second] < used[first] => second,
            Scheme::EmptierOfTwo => first,
        };
        if used[bucket] == slots {
            lost += 1;
        } else {
            used[bucket] += 1;
        }
    }
    100.0 * f64::from(lost) / keys.len() as f64
}

#[test]
fn two_buckets_of_sixteen_lose_no_insert_where_the_alternatives_do() {
    let loads = [48, 70, 85, LOAD_PERCENT];
    println!("lost inserts, percent, at load {loads:?} %");
    let row = |name, scheme, slots| {
        let lost = loads.map(|load| lost_percent(scheme, slots, load));
        println!("{name:<24} {lost:>8.4?}");
        lost
    };
    let one_8 = row("one bucket of 8", Scheme::OneBucket, 8);
    let one_16 = row("one bucket of 16", Scheme::OneBucket, 16);
    let two_8 = row("emptier of two, 8", Scheme::EmptierOfTwo, 8);
    let two_16 = row("emptier of two, 16", Scheme::EmptierOfTwo, SLOTS);

    assert_eq!(two_16[0] + two_16[1], 0.0, "none at 0.48 and 0.70");
    assert!(two_16[2] < 0.2, "{} % at 0.85", two_16[2]);
    assert!(two_16[3] < 0.02, "{} % at the design load", two_16[3]);
    for (name, other) in [("one bucket of 8", one_8), ("one bucket of 16", one_16)] {
        assert!(other[1] > two_16[1] && other[2] > 1.0, "{name} was expected to lose more: {other:?}");
    }
    assert!(two_8[2] > two_16[2] && two_8[3] > two_16[3], "8 slots were expected to lose more: {two_8:?}");
}
