//! Which buckets? A simulation with the table's own hash, which chose two buckets of 32 slots and the design load.
//! Run it with `--nocapture` to see the table.

use atalho_layout::{SECRET_WORDS, bucket_pair, flow_words_v4, hash};

use super::super::family::SLOTS;
use super::super::half::FIRST_SLOTS;
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
    /// What the table does.
    FirstWithRoom,
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

/// How the inserts went on the way to a table of some load, in percent.
struct Way {
    /// Their buckets were full.
    lost: f64,
    /// They stand in their first bucket.
    first: f64,
}

fn fill(scheme: Scheme, slots: usize, load_percent: usize) -> Way {
    let ways: Vec<Way> = (0..SECRETS).map(|seed| fill_once(scheme, slots, load_percent, seed)).collect();
    let mean = |of: fn(&Way) -> f64| ways.iter().map(of).sum::<f64>() / SECRETS as f64;
    Way { lost: mean(|way| way.lost), first: mean(|way| way.first) }
}

fn fill_once(scheme: Scheme, slots: usize, load_percent: usize, seed: u64) -> Way {
    let buckets = (TABLE_SLOTS / slots) as u32;
    let mut used = vec![0usize; buckets as usize];
    let keys = hashes(TABLE_SLOTS * load_percent / 100, seed);
    let (mut lost, mut in_first) = (0, 0);
    for hash in &keys {
        let (first, second) = bucket_pair(*hash, buckets);
        let (first, second) = (first as usize, second as usize);
        let bucket = match scheme {
            Scheme::OneBucket => first,
            Scheme::FirstWithRoom if used[first] < FIRST_SLOTS as usize => first,
            Scheme::EmptierOfTwo | Scheme::FirstWithRoom if used[second] < used[first] => second,
            Scheme::EmptierOfTwo | Scheme::FirstWithRoom => first,
        };
        if used[bucket] == slots {
            lost += 1;
        } else {
            used[bucket] += 1;
            in_first += u32::from(bucket == first);
        }
    }
    let percent = |count: u32| 100.0 * f64::from(count) / keys.len() as f64;
    Way { lost: percent(lost), first: percent(in_first) }
}

#[test]
fn two_buckets_of_thirty_two_lose_no_insert_and_nearly_all_find_room_in_the_first() {
    let loads = [48, 70, 85, LOAD_PERCENT];
    println!("lost inserts, and those in their first bucket, percent, at load {loads:?} %");
    let row = |name, scheme, slots| {
        let ways = loads.map(|load| fill(scheme, slots, load));
        let lost = ways.each_ref().map(|way| way.lost);
        println!("{name:<24} {lost:>8.4?} {:>8.1?}", ways.each_ref().map(|way| way.first));
        ways
    };
    let one_16 = row("one bucket of 16", Scheme::OneBucket, 16);
    let one_32 = row("one bucket of 32", Scheme::OneBucket, 32);
    let emptier_16 = row("emptier of two, 16", Scheme::EmptierOfTwo, 16);
    let emptier_32 = row("emptier of two, 32", Scheme::EmptierOfTwo, 32);
    let ours = row("first with room, 32", Scheme::FirstWithRoom, SLOTS);

    assert_eq!(ours[0].lost + ours[1].lost + ours[2].lost, 0.0, "none at 0.48, 0.70 and 0.85");
    assert!(ours[3].lost < 0.001, "{} % at the design load", ours[3].lost);
    assert!(ours[1].first > 90.0 && ours[3].first > 85.0, "{} and {} %", ours[1].first, ours[3].first);
    assert!(emptier_32[3].first < 75.0, "the emptier one was expected to be the second more often");
    for (name, other) in [("one bucket of 16", one_16), ("one bucket of 32", one_32)] {
        assert!(other[2].lost > 1.0, "{name} was expected to lose more: {}", other[2].lost);
    }
    assert!(emptier_16[3].lost > ours[3].lost, "16 slots were expected to lose more: {}", emptier_16[3].lost);
}
