//! Tuples that somebody has chosen so that they meet in one bucket: it takes the secret to find them.

use std::collections::HashMap;

use atalho_layout::tag;

use super::super::family::Family;
use super::*;

const TUPLES: u32 = 100_000;

/// A secret that an attacker knows: the words' weights are small, so sums are easily made equal.
const KNOWN: [u64; SECRET_WORDS] = {
    let mut secret = [0; SECRET_WORDS];
    let mut i = 0;
    while i < SECRET_WORDS - 1 {
        secret[i] = (2 * i as u64 + 3) << 32;
        i += 1;
    }
    secret
};

/// Keys that all have the same hash under [`KNOWN`]: five more in the source word and three less in the destination word
/// cancel each other, for their weights are 3 and 5.
fn colliding() -> impl Iterator<Item = FlowKey> {
    (0..TUPLES).map(|n| {
        let (src, dst) = (0x0a00_0000 + 5 * n, 0x0af4_ffff - 3 * n);
        FlowKey {
            // Words stand in memory as the addresses' bytes do.
            src: Ipv4Addr::from_octets(src.to_le_bytes()).into(),
            dst: Ipv4Addr::from_octets(dst.to_le_bytes()).into(),
            src_port: 40_000,
            dst_port: 80,
            protocol: Protocol::Tcp,
        }
    })
}

fn hashes(secret: &[u64; SECRET_WORDS]) -> Vec<u32> {
    colliding().map(|key| V4::hash(secret, &V4::key(&key).unwrap())).collect()
}

#[test]
fn with_a_known_secret_all_meet_in_one_pair_of_buckets() {
    let table = ConnTable::in_memory(262_144, &KNOWN);
    let hashes = hashes(&KNOWN);
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    let epochs = Epochs::new();
    let inserted = colliding()
        .filter(|key| {
            let rewrite =
                |key: FlowKey| Rewrite { src: key.src, dst: key.dst, src_port: key.src_port, dst_port: key.dst_port };
            let direction = |key: FlowKey| Direction { key, rewrite: rewrite(key), next_hop: 1, ingress: 1 };
            let new = NewConnection {
                original: direction(*key),
                reply: direction(key.reversed()),
                is_service: false,
                first: Segment::Other,
            };
            table.insert(0, &epochs, &new, 1).is_ok()
        })
        .count();
    assert!(inserted <= 64, "{inserted} of {TUPLES} found room");
}

#[test]
fn with_a_secret_that_nobody_knows_they_spread_as_any_others() {
    let seeds = [1u64, 0x1234_5678_9abc_def0, u64::MAX];
    for seed in seeds {
        let secret: [u64; SECRET_WORDS] = std::array::from_fn(|i| crate::service::mix(seed ^ (i as u64) << 32));
        let table = ConnTable::in_memory(262_144, &secret);
        let mut buckets: HashMap<u32, u32> = HashMap::new();
        let mut tags: HashMap<u16, u32> = HashMap::new();
        for hash in hashes(&secret) {
            table.v4.pair(hash).into_iter().for_each(|bucket| *buckets.entry(bucket).or_default() += 1);
            *tags.entry(tag(hash)).or_default() += 1;
        }
        // 200,000 places in 18,619 buckets, 10.7 each; of Poisson's distribution the most full one has about 28.
        let (fullest, used) = (buckets.values().max().unwrap(), buckets.len());
        assert!(*fullest < 48, "{fullest} in one bucket of {used}, seed {seed:#x}");
        assert!(used > 18_000, "{used} buckets, seed {seed:#x}");
        assert!(tags.len() > 40_000, "{} tags, seed {seed:#x}", tags.len());
    }
}
