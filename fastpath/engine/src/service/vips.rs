//! The table of VIPs: shards behind Arcs, so that control replaces the shard of what changed and shares the rest.
//!
//! A shard is an array that a VIP's hash points into, half empty at least; who finds his place taken stands in the next free one.
//! So a look-up reads one line of it, mostly, and that line can be asked for before it is needed. The hash has no
//! secret: control alone fills the table.

use std::iter;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Vip, VipKey, mix};
use crate::tables::FastMap;

/// Shards of the VIP table; a changed Service copies one of them.
pub const SHARDS: usize = 1024;

/// A power of two of them, or none.
type Shard = Arc<[Option<(VipKey, Arc<Vip>)>]>;

/// Every VIP, and the addresses that have any.
#[derive(Clone)]
pub struct Services {
    shards: Arc<[Shard]>,
    /// VIP addresses with the number of their VIPs, whatever the port; node addresses are not among them.
    addresses: Arc<FastMap<IpAddr, u32>>,
    vips: usize,
}

impl Default for Services {
    fn default() -> Self {
        let empty = Shard::default();
        Self { shards: iter::repeat_n(empty, SHARDS).collect(), addresses: Arc::default(), vips: 0 }
    }
}

/// Where a VIP would stand: the hash of its key.
#[derive(Debug, Clone, Copy)]
pub struct VipHash(u64);

impl VipHash {
    #[inline]
    pub fn of(key: &VipKey) -> Self {
        Self(hash_of(key))
    }
}

impl Services {
    #[inline]
    pub fn look_up(&self, key: &VipKey) -> Option<&Vip> {
        self.find(VipHash::of(key), key)
    }

    /// The VIP of a key that was hashed before.
    #[inline]
    pub fn find(&self, hash: VipHash, key: &VipKey) -> Option<&Vip> {
        let shard = self.shard(hash.0);
        places(shard.len(), hash.0)
            .map_while(|at| shard[at].as_ref())
            .find(|(other, _)| other == key)
            .map(|(_, vip)| &**vip)
    }

    /// The first line that [`Self::find`] reads.
    #[inline]
    pub fn line(&self, hash: VipHash) -> Option<*const u8> {
        let shard = self.shard(hash.0);
        let at = places(shard.len(), hash.0).next()?;
        Some((&raw const shard[at]).cast())
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[shard_of(hash)]
    }

    /// Whether any port of `address` is a Service's (node addresses aside).
    #[inline]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// Number of VIPs.
    pub fn len(&self) -> usize {
        self.vips
    }

    pub fn is_empty(&self) -> bool {
        self.vips == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (&VipKey, &Arc<Vip>)> {
        self.shards.iter().flat_map(|shard| shard.iter().flatten()).map(|(key, vip)| (key, vip))
    }

    /// A table with these changes: `Some` puts, `None` takes away; the last one of a key counts. Untouched shards are
    /// shared with `self`.
    pub fn with_changes(&self, changes: impl IntoIterator<Item = (VipKey, Option<Arc<Vip>>)>) -> Self {
        let mut next = self.clone();
        let mut touched: FastMap<usize, FastMap<VipKey, Arc<Vip>>> = FastMap::default();
        // VIPs that an address has more or less.
        let mut counts: FastMap<IpAddr, i32> = FastMap::default();
        for (key, vip) in changes {
            let shard = touched.entry(shard_of(hash_of(&key))).or_insert_with_key(|shard| {
                self.shards[*shard].iter().flatten().map(|(key, vip)| (*key, vip.clone())).collect()
            });
            let owns_address = |vip: &Arc<Vip>| !vip.shares_address;
            let added = vip.as_ref().map(owns_address);
            let removed = match vip {
                Some(vip) => shard.insert(key, vip),
                None => shard.remove(&key),
            }
            .map(|old| owns_address(&old));
            let change = i32::from(added == Some(true)) - i32::from(removed == Some(true));
            if change != 0 {
                *counts.entry(key.address).or_default() += change;
            }
            next.vips = next.vips + usize::from(added.is_some()) - usize::from(removed.is_some());
        }
        // A changed endpoint changes none: then this map, with every address there is, is not copied.
        counts.retain(|_, change| *change != 0);
        if !counts.is_empty() {
            let addresses = Arc::make_mut(&mut next.addresses);
            for (address, change) in counts {
                match addresses.get(&address).copied().unwrap_or(0).saturating_add_signed(change) {
                    0 => addresses.remove(&address),
                    count => addresses.insert(address, count),
                };
            }
        }
        let mut shards = self.shards.to_vec();
        for (shard, vips) in touched {
            shards[shard] = laid_out(vips);
        }
        next.shards = shards.into();
        next
    }
}

fn laid_out(vips: FastMap<VipKey, Arc<Vip>>) -> Shard {
    if vips.is_empty() {
        return Shard::default();
    }
    let mut shard = vec![None; (2 * vips.len()).next_power_of_two()];
    for (key, vip) in vips {
        if let Some(at) = places(shard.len(), hash_of(&key)).find(|at| shard[*at].is_none()) {
            shard[at] = Some((key, vip));
        }
    }
    shard.into()
}

/// The places of a shard, in the order in which a hash tries them.
#[inline]
fn places(len: usize, hash: u64) -> impl Iterator<Item = usize> {
    (0..len).map(move |step| (hash as usize).wrapping_add(step) & (len - 1))
}

/// The upper bits choose the shard, the lower ones the place in it.
#[inline]
fn shard_of(hash: u64) -> usize {
    const { assert!(SHARDS.is_power_of_two()) };
    (hash >> (u64::BITS - SHARDS.trailing_zeros())) as usize
}

#[inline]
fn hash_of(key: &VipKey) -> u64 {
    let port = u64::from(key.port) << 8 | key.protocol as u64;
    match key.address {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits()) << 32 | port),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            mix(mix(mix(port) ^ (bits >> 64) as u64) ^ bits as u64)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::flow::Protocol;
    use crate::service::{Route, VipKind};

    fn vip(kind: VipKind) -> Arc<Vip> {
        let side = || Route { backends: Arc::default(), masquerade: false, drop_without_backend: false };
        Arc::new(Vip::new("default/a:http".into(), kind, side(), side()))
    }

    #[test]
    fn an_address_is_a_services_as_long_as_one_port_of_it_is() {
        let address: IpAddr = Ipv4Addr::new(10, 96, 0, 1).into();
        let vip = |kind| Some(vip(kind));
        let key = |port| VipKey { address, protocol: Protocol::Tcp, port };
        let one = Services::default().with_changes([(key(80), vip(VipKind::ClusterIP))]);
        let two = one.with_changes([(key(443), vip(VipKind::ClusterIP)), (key(30_000), vip(VipKind::NodePort))]);
        assert_eq!((one.len(), two.len()), (1, 3));
        let again = two.with_changes([(key(80), vip(VipKind::ClusterIP))]);
        assert_eq!(again.len(), 3, "replaced, not added");
        let less = again.with_changes([(key(80), None), (key(80), None)]);
        assert!(less.has_address(address));
        let none = less.with_changes([(key(443), None)]);
        assert!(!none.has_address(address), "a node port does not make its address a VIP");
        assert!(none.look_up(&key(30_000)).is_some());
        assert!(one.look_up(&key(443)).is_none(), "a snapshot stays as it was");
    }

    #[test]
    fn ten_thousand_services_are_found_and_those_beside_them_are_not() {
        let key = |n: u32, port| VipKey {
            address: match n % 2 {
                0 => Ipv4Addr::from_bits(0x0a60_0000 + n).into(),
                _ => Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n)).into(),
            },
            protocol: Protocol::Tcp,
            port,
        };
        let all: Vec<VipKey> = (0..10_000).map(|n| key(n, 80)).collect();
        let some = vip(VipKind::ClusterIP);
        let full = Services::default().with_changes(all.iter().map(|key| (*key, Some(some.clone()))));
        assert_eq!(full.len(), all.len());
        assert_eq!(full.iter().map(|(key, _)| *key).collect::<HashSet<_>>(), all.iter().copied().collect());
        assert!(all.iter().all(|key| full.look_up(key).is_some()));
        assert!((0..10_000).all(|n| full.look_up(&key(n, 81)).is_none()));
        let longest = full.shards.iter().map(|shard| shard.len()).max();
        assert!(longest < Some(128), "evenly spread over the shards: {longest:?}");
        // Who stood behind another is found when that one is gone.
        let half = full.with_changes(all.iter().step_by(2).map(|key| (*key, None)));
        assert!(all.iter().skip(1).step_by(2).all(|key| half.look_up(key).is_some()));
        assert!(all.iter().step_by(2).all(|key| half.look_up(key).is_none()));
        let none = half.with_changes(all.iter().map(|key| (*key, None)));
        assert!(none.is_empty() && none.iter().next().is_none());
    }
}
