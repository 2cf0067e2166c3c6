//! Session affinity (Service.spec.sessionAffinity: ClientIP): which endpoint a client of a Service had last, so that its
//! next connection goes there too, whatever the port and whichever worker gets it.
//!
//! A cache of fixed size, shared by all workers: sets of 8 entries by a keyed hash of client and Service, the oldest of a
//! set makes room. So it may forget a client that many others push out, and nothing else goes wrong then: the next
//! connection is balanced like anybody's. An entry is read under its sequence word; a writer that meets another one lets
//! it go first and keeps nothing, for the next connection will.
//!
//! What it does not do: it is asked and told once per new connection, never per packet; whether the endpoint still
//! serves is for the caller to see.

use std::net::IpAddr;

use atalho_layout::affinity::{CLIENT, CTL, ENDPOINT, SERVICE, TICK, TIMEOUT_S, WORDS};
use atalho_layout::{SECRET_WORDS, hash};

use crate::atomic::{AtomicU32, Ordering, fence};
use crate::flow::{mapped, unmapped};

/// Entries of one set.
const WAYS: usize = 8;

/// What a Service asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// Which Service: the same number for all its ports and addresses.
    pub service: u64,
    /// Seconds after the last new connection; 1 to 86,400 in the API.
    pub timeout_s: u32,
}

/// A view of the cache, cheap to copy.
#[derive(Clone, Copy)]
pub struct AffinityTable {
    words: &'static [AtomicU32],
    secret: [u64; SECRET_WORDS],
}

/// Client and Service in words.
type Key = [u32; 6];

impl AffinityTable {
    /// A view of `words`: zero, or what a predecessor with the same secret left. An entry that a killed writer left half
    /// written is taken away. Before any worker runs.
    pub fn new(words: &'static [AtomicU32], secret: &[u64; SECRET_WORDS]) -> Self {
        for entry in words.chunks_exact(WORDS).filter(|entry| entry[CTL].load(Ordering::Relaxed) & 1 == 1) {
            entry[CTL].store(0, Ordering::Relaxed);
        }
        Self { words, secret: *secret }
    }

    /// For `clients` in plain memory that is never given back, for tests and offline use.
    pub fn in_memory(clients: usize, secret: &[u64; SECRET_WORDS]) -> Self {
        let words = clients.next_multiple_of(WAYS).max(WAYS) * WORDS;
        Self::new(Vec::leak((0..words).map(|_| AtomicU32::new(0)).collect::<Vec<_>>()), secret)
    }

    /// The endpoint of `client`'s last connection, if that was within the timeout.
    pub fn endpoint(&self, client: IpAddr, affinity: &Affinity, now_s: u32) -> Option<IpAddr> {
        let key = key(client, affinity);
        self.set(&key).find_map(|entry| {
            let ctl = entry[CTL].load(Ordering::Acquire);
            let is_fresh = age_s(entry, now_s) < affinity.timeout_s;
            if ctl == 0 || ctl & 1 == 1 || !is_fresh || !holds(entry, &key) {
                return None;
            }
            let endpoint = load::<4>(entry, ENDPOINT);
            fence(Ordering::Acquire);
            (entry[CTL].load(Ordering::Relaxed) == ctl).then(|| unmapped(bytes_of(endpoint)))
        })
    }

    /// `client` has just connected to `endpoint`.
    pub fn remember(&self, client: IpAddr, affinity: &Affinity, endpoint: IpAddr, now_s: u32) {
        let key = key(client, affinity);
        let place = self
            .set(&key)
            .find(|entry| holds(entry, &key))
            .or_else(|| self.set(&key).max_by_key(|entry| staleness(entry, now_s)));
        let Some(entry) = place else { return };
        let ctl = entry[CTL].load(Ordering::Relaxed);
        let is_mine =
            ctl & 1 == 0 && entry[CTL].compare_exchange(ctl, ctl + 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !is_mine {
            return;
        }
        fence(Ordering::Release);
        store(entry, CLIENT, &key);
        store(entry, ENDPOINT, &words_of(endpoint));
        store(entry, TICK, &[now_s, affinity.timeout_s]);
        // 0 would mean never used.
        let done = if ctl.wrapping_add(2) == 0 { 2 } else { ctl.wrapping_add(2) };
        entry[CTL].store(done, Ordering::Release);
    }

    fn set(&self, key: &Key) -> impl Iterator<Item = &'static [AtomicU32]> + use<> {
        let sets = self.words.len() / (WAYS * WORDS);
        let set = ((u64::from(hash(&self.secret, key)) * sets as u64) >> 32) as usize;
        self.words.chunks_exact(WORDS).skip(set * WAYS).take(WAYS)
    }
}

/// Client, then Service, as they stand in an entry.
fn key(client: IpAddr, affinity: &Affinity) -> Key {
    const { assert!(SERVICE == CLIENT + 4 && TIMEOUT_S == TICK + 1) };
    let [a, b, c, d] = words_of(client);
    [a, b, c, d, affinity.service as u32, (affinity.service >> 32) as u32]
}

fn holds(entry: &[AtomicU32], key: &Key) -> bool {
    load::<6>(entry, CLIENT) == *key
}

/// A tick may lie ahead of `now_s` if another worker's batch began later: then 0.
fn age_s(entry: &[AtomicU32], now_s: u32) -> u32 {
    let age = now_s.wrapping_sub(entry[TICK].load(Ordering::Relaxed));
    if (age as i32) < 0 { 0 } else { age }
}

/// What may go first: never used, then what says nothing any more, then the oldest.
fn staleness(entry: &[AtomicU32], now_s: u32) -> (bool, bool, u32) {
    let age = age_s(entry, now_s);
    (entry[CTL].load(Ordering::Relaxed) == 0, age >= entry[TIMEOUT_S].load(Ordering::Relaxed), age)
}

fn load<const N: usize>(entry: &[AtomicU32], at: usize) -> [u32; N] {
    std::array::from_fn(|i| entry[at + i].load(Ordering::Relaxed))
}

fn store(entry: &[AtomicU32], at: usize, words: &[u32]) {
    for (word, value) in entry[at..].iter().zip(words) {
        word.store(*value, Ordering::Relaxed);
    }
}

fn words_of(address: IpAddr) -> [u32; 4] {
    let bytes = mapped(address);
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}

fn bytes_of(words: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (chunk, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *chunk = word.to_le_bytes();
    }
    bytes
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CLIENTS: usize = 8192;

    const WEB: Affinity = Affinity { service: 1, timeout_s: 60 };

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    fn table() -> AffinityTable {
        AffinityTable::in_memory(CLIENTS, &std::array::from_fn(|i| crate::service::mix(i as u64 + 1)))
    }

    #[test]
    fn a_client_keeps_its_endpoint_until_the_timeout_after_its_last_connection() {
        let table = table();
        for (client, endpoint) in [(address(7), address(70)), ("fd00::7".parse().unwrap(), "fd00::70".parse().unwrap())]
        {
            assert_eq!(table.endpoint(client, &WEB, 1000), None);
            table.remember(client, &WEB, endpoint, 1000);
            assert_eq!(table.endpoint(client, &WEB, 1059), Some(endpoint));
            table.remember(client, &WEB, endpoint, 1059);
            assert_eq!(table.endpoint(client, &WEB, 1118), Some(endpoint), "refreshed by use");
            assert_eq!(table.endpoint(client, &WEB, 1119), None);
        }
    }

    #[test]
    fn services_and_clients_are_apart_and_the_last_endpoint_counts() {
        let table = table();
        table.remember(address(7), &WEB, address(70), 10);
        table.remember(address(7), &WEB, address(71), 11);
        assert_eq!(table.endpoint(address(7), &WEB, 12), Some(address(71)));
        assert_eq!(table.endpoint(address(8), &WEB, 12), None);
        assert_eq!(table.endpoint(address(7), &Affinity { service: 1 << 40, ..WEB }, 12), None);
    }

    #[test]
    fn more_clients_than_fit_push_out_the_oldest_and_nothing_else() {
        let table = table();
        let clients = 4 * CLIENTS as u32;
        for n in 0..clients {
            table.remember(address(n), &WEB, address(n ^ 0xffff_0000), n / (clients / 4));
        }
        let kept: Vec<u32> = (0..clients).filter(|n| table.endpoint(address(*n), &WEB, 3).is_some()).collect();
        assert!(kept.len() > CLIENTS * 9 / 10 && kept.len() <= CLIENTS, "{}", kept.len());
        for n in &kept {
            assert_eq!(table.endpoint(address(*n), &WEB, 3), Some(address(n ^ 0xffff_0000)));
        }
        let newest = kept.iter().filter(|n| **n >= clients / 2).count();
        assert!(newest > kept.len() * 9 / 10, "{newest} of {}", kept.len());
    }

    #[test]
    fn what_a_killed_writer_left_says_nothing_and_is_taken_away() {
        let words = Vec::leak((0..CLIENTS * WORDS).map(|_| AtomicU32::new(0)).collect::<Vec<_>>());
        let secret = [5; SECRET_WORDS];
        let table = AffinityTable::new(words, &secret);
        table.remember(address(7), &WEB, address(70), 10);
        let entry = words.chunks_exact(WORDS).find(|entry| entry[CTL].load(Ordering::Relaxed) != 0).unwrap();
        entry[CTL].fetch_add(1, Ordering::Relaxed);
        assert_eq!(table.endpoint(address(7), &WEB, 11), None);
        let successor = AffinityTable::new(words, &secret);
        assert_eq!(successor.endpoint(address(7), &WEB, 11), None);
        successor.remember(address(7), &WEB, address(71), 11);
        assert_eq!(successor.endpoint(address(7), &WEB, 11), Some(address(71)));
    }

    #[test]
    fn workers_at_one_entry_never_read_a_mixture() {
        let table = table();
        let (one, two): (IpAddr, IpAddr) = ("fd00::1:1:1:1".parse().unwrap(), "fd00::2:2:2:2".parse().unwrap());
        std::thread::scope(|scope| {
            for endpoint in [one, two] {
                scope.spawn(move || (0..100_000).for_each(|n| table.remember(address(9), &WEB, endpoint, n / 50_000)));
            }
            for _ in 0..100_000 {
                let seen = table.endpoint(address(9), &WEB, 1);
                assert!(seen.is_none_or(|endpoint| endpoint == one || endpoint == two), "{seen:?}");
            }
        });
        assert!(table.endpoint(address(9), &WEB, 1).is_some());
    }
}
