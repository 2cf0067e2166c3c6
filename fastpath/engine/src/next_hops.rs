//! The array of next hops: pinned, shared with the kernel side, written by control, read by workers.
//! A changed neighbour is one store. Index 0 is the node itself.

use crate::atomic::{AtomicU64, Ordering};
use atalho_layout::{NextHopKind, hop};

/// A link-layer address, in the order of the wire.
pub type Mac = [u8; 6];

/// One next hop, read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    pub kind: NextHopKind,
    /// Kernel interface index of the egress.
    pub ifindex: u32,
    /// `None` until the neighbour is resolved.
    pub destination: Option<Mac>,
    pub source: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

/// A view of the shared array.
#[derive(Clone, Copy)]
pub struct NextHops {
    words: &'static [AtomicU64],
}

impl NextHops {
    /// `words`: [`hop::WORDS`] words an entry.
    pub fn new(words: &'static [AtomicU64]) -> Self {
        assert!(
            words.len() >= hop::WORDS && words.len().is_multiple_of(hop::WORDS),
            "a whole number of next hops, at least one"
        );
        Self { words }
    }

    /// An array in plain memory, for tests and offline use. The memory is never given back.
    pub fn in_memory(capacity: usize) -> Self {
        let words: Vec<AtomicU64> = (0..capacity * hop::WORDS).map(|_| AtomicU64::new(0)).collect();
        Self::new(Vec::leak(words))
    }

    pub fn capacity(&self) -> usize {
        self.words.len() / hop::WORDS
    }

    /// The next hop at `index`; `None` where nothing stands.
    #[inline]
    pub fn get(&self, index: u32) -> Option<NextHop> {
        let at = index as usize * hop::WORDS;
        let entry = self.words.get(at..at + hop::WORDS)?;
        let destination = entry[hop::DESTINATION].load(Ordering::Acquire);
        let kind = NextHopKind::of(destination);
        if kind == NextHopKind::Unused {
            return None;
        }
        let source = entry[hop::SOURCE].load(Ordering::Relaxed);
        Some(NextHop {
            kind,
            ifindex: entry[hop::IFINDEX].load(Ordering::Relaxed) as u32,
            destination: (destination & hop::RESOLVED != 0).then(|| mac_of(destination)),
            source: mac_of(source),
            mtu: (source >> 48) as u16,
        })
    }

    /// Writes an entry; only control calls this. The destination word goes last, so a reader sees all or nothing of a
    /// new entry.
    pub fn set(&self, index: u32, next_hop: &NextHop) {
        let entry = &self.words[index as usize * hop::WORDS..][..hop::WORDS];
        entry[hop::IFINDEX].store(u64::from(next_hop.ifindex), Ordering::Relaxed);
        entry[hop::SOURCE].store(word_of(next_hop.source) | u64::from(next_hop.mtu) << 48, Ordering::Relaxed);
        let resolved = if next_hop.destination.is_some() { hop::RESOLVED } else { 0 };
        let destination = word_of(next_hop.destination.unwrap_or_default()) | (next_hop.kind as u64) << 48 | resolved;
        entry[hop::DESTINATION].store(destination, Ordering::Release);
    }

    /// Who stands at `index`, in control's numbering; 0 where nobody ever stood. Stays when the entry is cleared: the
    /// next daemon gives the index to nobody else while flows may still point at it.
    pub fn identity(&self, index: u32) -> u64 {
        self.words[index as usize * hop::WORDS + hop::RESERVED].load(Ordering::Relaxed)
    }

    /// Says who stands at `index`; only control calls this, before [`NextHops::set`].
    pub fn set_identity(&self, index: u32, identity: u64) {
        self.words[index as usize * hop::WORDS + hop::RESERVED].store(identity, Ordering::Relaxed);
    }

    /// Takes an entry away; packets that still point at it are dropped as `next_hop_gone`.
    pub fn clear(&self, index: u32) {
        self.words[index as usize * hop::WORDS + hop::DESTINATION].store(0, Ordering::Release);
    }
}

fn mac_of(word: u64) -> Mac {
    let b = word.to_le_bytes();
    [b[0], b[1], b[2], b[3], b[4], b[5]]
}

fn word_of(mac: Mac) -> u64 {
    u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0])
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_as_written_and_can_go_away() {
        let hops = NextHops::in_memory(4);
        let one = NextHop {
            kind: NextHopKind::Uplink,
            ifindex: 70_000,
            destination: Some([2, 0, 10, 0, 0, 1]),
            source: [2, 0, 10, 0, 0, 2],
            mtu: 9000,
        };
        hops.set(3, &one);
        assert_eq!(hops.get(3), Some(one));
        hops.set(3, &NextHop { destination: None, ..one });
        assert_eq!(hops.get(3).and_then(|h| h.destination), None);
        hops.clear(3);
        assert_eq!(hops.get(3), None);
        assert_eq!(hops.get(4), None);
    }
}
