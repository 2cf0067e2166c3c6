//! Datagrams to a node address whose first fragment was ours: only that one has ports, the others follow it.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// As many as the kernel side remembers.
const DATAGRAMS_MAX: usize = 16_384;
/// As long as a receiver would wait for the rest (net.ipv4.ipfrag_time, net.ipv6.ip6frag_time).
const LIFE_V4_MS: u64 = 30_000;
const LIFE_V6_MS: u64 = 60_000;

/// Source, destination, identification, protocol.
type Datagram = (IpAddr, IpAddr, u32, u8);

/// The datagrams, oldest forgotten first.
#[derive(Debug, Default)]
pub struct ClaimedDatagrams {
    seen_ms: HashMap<Datagram, u64>,
    order: VecDeque<(u64, Datagram)>,
}

impl ClaimedDatagrams {
    pub fn learn(&mut self, datagram: Datagram, now_ms: u64) {
        while self.order.len() >= DATAGRAMS_MAX
            && let Some((at_ms, oldest)) = self.order.pop_front()
        {
            // Learnt once more since: then it stands further back too.
            if self.seen_ms.get(&oldest) == Some(&at_ms) {
                self.seen_ms.remove(&oldest);
            }
        }
        self.seen_ms.insert(datagram, now_ms);
        self.order.push_back((now_ms, datagram));
    }

    pub fn knows(&self, datagram: &Datagram, now_ms: u64) -> bool {
        let life_ms = if datagram.0.is_ipv4() { LIFE_V4_MS } else { LIFE_V6_MS };
        self.seen_ms.get(datagram).is_some_and(|at_ms| now_ms - at_ms < life_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_known_for_its_life_and_the_oldest_makes_room() {
        let datagram = |id| (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]), id, 17);
        let mut claimed = ClaimedDatagrams::default();
        claimed.learn(datagram(1), 0);
        assert!(claimed.knows(&datagram(1), 29_999) && !claimed.knows(&datagram(1), 30_000));
        for id in 2..=DATAGRAMS_MAX as u32 + 1 {
            claimed.learn(datagram(id), 1);
        }
        assert!(!claimed.knows(&datagram(1), 1) && claimed.knows(&datagram(2), 1));
        assert_eq!(claimed.seen_ms.len(), DATAGRAMS_MAX);
    }
}
