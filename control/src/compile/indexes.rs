//! Indexes of next hops: the same neighbour or port keeps the same index, for flows in the table point at it.
//!
//! Index 0 is the node. A new one gets an index that nobody had; only when the array is used up the one goes that has
//! been missing longest. A flow that still points there would then leave by another next hop: with 4,096 entries that
//! takes 4,096 pods and neighbours that came and went within the life of one such flow, and the flows of pods that
//! are gone are ended long before. After a restart the indexes of the pinned array are taken over.

use std::collections::HashMap;
use std::net::IpAddr;

use atalho_engine::flow::mapped;
use atalho_engine::next_hops::NextHops;
use atalho_layout::{NextHopKind, hop};

/// Who stands at an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Identity {
    /// The pod port of this interface index. The kernel gives no interface index twice until its counter wraps.
    Pod(u32),
    /// A neighbour on the uplink.
    Uplink(IpAddr),
}

#[derive(Debug, Clone, Copy)]
struct Place {
    index: u32,
    /// Round in which it was last wanted.
    wanted_in: u64,
}

/// Gives out indexes.
#[derive(Debug, Clone)]
pub struct NextHopIndexes {
    capacity: u32,
    /// First index that nobody ever had.
    fresh: u32,
    places: HashMap<Identity, Place>,
    /// Identity of every index given out in this run, as written beside the next hop.
    written: HashMap<u32, u64>,
    /// What an earlier daemon left: kind and written identity.
    adopted: HashMap<(NextHopKind, u64), u32>,
    round: u64,
}

impl NextHopIndexes {
    /// Indexes of an empty array of `capacity` entries.
    pub fn new(capacity: u32) -> Self {
        Self {
            capacity,
            fresh: hop::NODE + 1,
            places: HashMap::new(),
            written: HashMap::new(),
            adopted: HashMap::new(),
            round: 0,
        }
    }

    /// Indexes of an array that an earlier daemon may have filled.
    pub fn adopt(next_hops: &NextHops) -> Self {
        let mut indexes = Self::new(next_hops.capacity() as u32);
        for index in hop::NODE + 1..indexes.capacity {
            let (entry, identity) = (next_hops.get(index), next_hops.identity(index));
            if entry.is_none() && identity == 0 {
                continue;
            }
            indexes.fresh = index + 1;
            if let Some(entry) = entry {
                indexes.adopted.insert((entry.kind, identity), index);
            }
        }
        indexes
    }

    /// What is written beside the next hop at `index`; 0 where nothing was given out.
    pub fn identity(&self, index: u32) -> u64 {
        self.written.get(&index).copied().unwrap_or(0)
    }

    /// Starts a round: those not asked for in it count as missing.
    pub(super) fn start_round(&mut self) {
        self.round += 1;
    }

    /// The index of `identity`, which is wanted in this round. `None`: every index is wanted by somebody.
    pub(super) fn index(&mut self, identity: Identity) -> Option<u32> {
        let round = self.round;
        if let Some(place) = self.places.get_mut(&identity) {
            place.wanted_in = round;
            return Some(place.index);
        }
        let written = identity.written();
        let index = match self.adopted.remove(&(identity.kind(), written)) {
            Some(index) => index,
            None if self.fresh < self.capacity => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => self.take_longest_missing()?,
        };
        self.places.insert(identity, Place { index, wanted_in: round });
        self.written.insert(index, written);
        Some(index)
    }

    fn take_longest_missing(&mut self) -> Option<u32> {
        if let Some(key) = self.adopted.iter().min_by_key(|(_, index)| **index).map(|(key, _)| *key) {
            return self.adopted.remove(&key);
        }
        let missing = self.places.iter().filter(|(_, place)| place.wanted_in < self.round);
        let (identity, place) =
            missing.min_by_key(|(_, place)| (place.wanted_in, place.index)).map(|(i, p)| (*i, *p))?;
        self.places.remove(&identity);
        Some(place.index)
    }

    /// Neighbours on the uplink that have an index, wanted in this round or not: one that is silent for a while keeps
    /// its place, and its packets ask for it again.
    pub(super) fn uplink_neighbours(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.places.iter().filter_map(|(identity, place)| match identity {
            Identity::Uplink(address) => Some((*address, place.index)),
            Identity::Pod(_) => None,
        })
    }
}

impl Identity {
    const fn kind(self) -> NextHopKind {
        match self {
            Self::Pod(_) => NextHopKind::Pod,
            Self::Uplink(_) => NextHopKind::Uplink,
        }
    }

    /// One word, never 0. IPv6 addresses are folded: two that fold alike on one link do not happen by chance.
    fn written(self) -> u64 {
        match self {
            Self::Pod(ifindex) => 1 << 63 | u64::from(ifindex),
            Self::Uplink(IpAddr::V4(v4)) => 1 << 63 | u64::from(v4.to_bits()),
            Self::Uplink(address) => {
                mapped(address).as_chunks::<8>().0.iter().fold(0, |hash: u64, chunk| {
                    let word = hash ^ u64::from_le_bytes(*chunk);
                    (word ^ word >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
                }) | 1 << 63
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atalho_engine::next_hops::NextHop;

    fn uplink(n: u8) -> Identity {
        Identity::Uplink(IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn who_comes_back_gets_the_same_index_and_others_get_fresh_ones() {
        let mut indexes = NextHopIndexes::new(16);
        indexes.start_round();
        assert_eq!((indexes.index(uplink(1)), indexes.index(Identity::Pod(7))), (Some(1), Some(2)));
        indexes.start_round();
        assert_eq!(indexes.index(Identity::Pod(8)), Some(3));
        indexes.start_round();
        assert_eq!((indexes.index(Identity::Pod(7)), indexes.index(uplink(1))), (Some(2), Some(1)));
    }

    #[test]
    fn when_all_are_used_up_the_one_missing_longest_goes_and_none_that_is_wanted() {
        let mut indexes = NextHopIndexes::new(4);
        for n in 1..=3 {
            indexes.start_round();
            assert_eq!(indexes.index(uplink(n)), Some(u32::from(n)));
        }
        indexes.start_round();
        assert_eq!(indexes.index(uplink(1)), Some(1));
        assert_eq!(indexes.index(uplink(4)), Some(2));
        assert_eq!(indexes.index(uplink(5)), Some(3));
        assert_eq!(indexes.index(uplink(6)), None);
    }

    #[test]
    fn a_later_daemon_takes_the_indexes_over() {
        let hops = NextHops::in_memory(16);
        let mut first = NextHopIndexes::adopt(&hops);
        first.start_round();
        let six: IpAddr = "fe80::1".parse().unwrap();
        let entries = [
            (Identity::Pod(70), NextHopKind::Pod),
            (uplink(9), NextHopKind::Uplink),
            (Identity::Uplink(six), NextHopKind::Uplink),
        ];
        for (identity, kind) in entries {
            let index = first.index(identity).unwrap();
            hops.set_identity(index, first.identity(index));
            hops.set(index, &NextHop { kind, ifindex: 1, destination: None, source: [2; 6], mtu: 1500 });
        }
        // A cleared one is given to nobody else either.
        hops.clear(1);
        let mut second = NextHopIndexes::adopt(&hops);
        second.start_round();
        assert_eq!(second.index(Identity::Pod(71)), Some(4));
        assert_eq!((second.index(Identity::Uplink(six)), second.index(uplink(9))), (Some(3), Some(2)));
    }
}
