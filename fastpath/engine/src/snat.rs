//! Source ports of translated flows: which there are, and in which order a flow tries them.
//!
//! A port is taken only toward the destination that it is used for: the table refuses a second flow with the same answers'
//! tuple, whichever worker brings it, for as long as it holds the first, its time-wait included. So what is drawn here
//! is only where to look first. It is RFC 6056's algorithm 3: a keyed hash of the flow, which nobody outside can compute,
//! plus a count, so that a flow that comes again soon does not meet its own last port. The range is control's to keep
//! clear of what the node uses itself (CVE-2021-3773).
//!
//! The identifier of an ICMP echo is a port here.

use std::collections::HashMap;
use std::hash::Hasher;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use siphasher::sip::SipHasher13;

use crate::conntrack::{ConnTable, Direction};
use crate::flow::{FlowKey, Protocol, mapped};

/// Ports that are tried for one flow before it is dropped: bounds what a packet may cost. Where 90 % of a destination's
/// ports are taken, one flow in 700,000 finds none.
const TRIES: usize = 128;

/// The ports that translated flows may have, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnatPorts(Box<[u16]>);

impl SnatPorts {
    /// All of `range` but those that `is_taken` otherwise.
    pub fn new(range: RangeInclusive<u16>, is_taken: impl Fn(u16) -> bool) -> Self {
        Self(range.filter(|port| !is_taken(*port)).collect())
    }

    /// How many there are: as many flows may go to one destination at a time.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0.binary_search(&port).is_ok()
    }

    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied()
    }
}

impl Default for SnatPorts {
    /// Those above what Linux gives to its own sockets.
    fn default() -> Self {
        Self::new(61_000..=65_535, |_| false)
    }
}

/// How many of `ports` are left toward the destination that has the most flows with a port of them. Reads the whole table:
/// for statistics.
pub fn ports_left(ports: &SnatPorts, table: &ConnTable) -> usize {
    let mut used: HashMap<(IpAddr, IpAddr, u16, Protocol), usize> = HashMap::new();
    for connection in table.connections() {
        let Direction { key, rewrite, .. } = connection.original;
        let is_drawn = (key.src, key.src_port) != (rewrite.src, rewrite.src_port) && ports.contains(rewrite.src_port);
        if is_drawn {
            *used.entry((rewrite.src, rewrite.dst, rewrite.dst_port, key.protocol)).or_default() += 1;
        }
    }
    ports.count().saturating_sub(used.into_values().max().unwrap_or(0))
}

/// One worker's draws.
pub(crate) struct PortDraw {
    hasher: SipHasher13,
    drawn: u64,
}

impl PortDraw {
    /// `secret` must be unknown outside.
    pub(crate) fn new(secret: [u64; 2]) -> Self {
        Self { hasher: SipHasher13::new_with_keys(secret[0], secret[1]), drawn: 0 }
    }

    /// Ports for the flow of `key` to `destination`, in the order in which they are to be tried.
    pub(crate) fn candidates<'p>(
        &mut self,
        ports: &'p SnatPorts,
        key: &FlowKey,
        destination: (IpAddr, u16),
    ) -> Candidates<'p> {
        let mut hasher = self.hasher;
        for (address, port) in [(key.src, key.src_port), (key.dst, key.dst_port), destination] {
            hasher.write(&mapped(address));
            hasher.write(&port.to_be_bytes());
        }
        hasher.write(&[key.protocol as u8]);
        let next = hasher.finish().wrapping_add(self.drawn);
        self.drawn += 1;
        Candidates { ports: &ports.0, next, left: TRIES.min(ports.count()) }
    }
}

/// Ports in the order in which one flow tries them.
#[derive(Debug, Clone)]
pub(crate) struct Candidates<'p> {
    ports: &'p [u16],
    next: u64,
    left: usize,
}

impl Iterator for Candidates<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        self.left = self.left.checked_sub(1)?;
        let at = self.next % self.ports.len() as u64;
        self.next = self.next.wrapping_add(1);
        Some(self.ports[at as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use super::*;

    fn key(src_port: u16) -> FlowKey {
        let address = |n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
        FlowKey { src: address(1), dst: address(2), src_port, dst_port: 443, protocol: Protocol::Tcp }
    }

    fn first(draw: &mut PortDraw, ports: &SnatPorts, src_port: u16) -> u16 {
        draw.candidates(ports, &key(src_port), (key(0).dst, 443)).next().unwrap()
    }

    #[test]
    fn a_small_range_is_tried_as_a_whole_and_none_yields_none() {
        let ports = SnatPorts::new(100..=109, |port| port % 2 == 0);
        let tried: HashSet<u16> = PortDraw::new([1, 2]).candidates(&ports, &key(1), (key(1).dst, 1)).collect();
        assert_eq!(tried, HashSet::from([101, 103, 105, 107, 109]));
        let none = SnatPorts::new(100..=109, |_| true);
        assert_eq!(PortDraw::new([1, 2]).candidates(&none, &key(1), (key(1).dst, 1)).next(), None);
    }

    #[test]
    fn where_a_flow_begins_depends_on_the_secret_and_moves_on_with_each_draw() {
        let ports = SnatPorts::default();
        let mut draw = PortDraw::new([7, 9]);
        let same = [first(&mut draw, &ports, 1), first(&mut draw, &ports, 1)];
        assert_ne!(same[0], same[1]);
        let starts = |secret| -> Vec<u16> {
            (0..1000).map(|src_port| first(&mut PortDraw::new(secret), &ports, src_port)).collect()
        };
        let (one, other) = (starts([7, 9]), starts([7, 10]));
        assert_eq!(one, starts([7, 9]), "the same seed, the same run");
        assert!(one.iter().zip(&other).filter(|(a, b)| a == b).count() < 10);
        // Neighbouring flows do not get neighbouring ports.
        let near = one.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 10).count();
        assert!(near < 30, "{near} of 1000");
    }

    #[test]
    fn starts_are_spread_evenly() {
        let ports = SnatPorts::default();
        let mut draw = PortDraw::new([3, 4]);
        let mut parts = [0u32; 8];
        for src_port in 0..40_000 {
            let at = usize::from(first(&mut draw, &ports, src_port) - 61_000);
            parts[at * 8 / ports.count()] += 1;
        }
        assert!(parts.iter().all(|part| (4700..5300).contains(part)), "{parts:?}");
    }
}
