//! The memory of the table and how much of it a number of connections takes.
//!
//! In production it is a pinned, mmapped BPF array for each of the four parts, so that it outlives the process and the
//! kernel reads it; elsewhere plain memory of the same layout. Each family has parts of its own, each with room for all
//! the connections, since nobody knows beforehand which family they will be of.

use atalho_layout::{TAG_BYTES, flow4, flow6};

use super::family::SLOTS;
use crate::atomic::{AtomicU32, AtomicU64};

/// Entries that may stand in 100 slots: two buckets of 32 lose no insert up to here (see the simulation beside this), and of
/// a thousand less than one ends another connection.
pub(super) const LOAD_PERCENT: usize = 88;

/// Fewer buckets than this and chance, not the load, decides whether a small table loses inserts.
const BUCKETS_MIN: usize = if cfg!(loom) { 2 } else { 32 };

/// How large a table is. Both families have the same number of buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    buckets: u32,
}

impl Geometry {
    /// Room for `max_flows` connections of each family, two entries each, at the design load.
    pub fn for_max_flows(max_flows: usize) -> Self {
        let slots = max_flows.saturating_mul(2).saturating_mul(100).div_ceil(LOAD_PERCENT);
        let buckets = slots.div_ceil(SLOTS).max(BUCKETS_MIN);
        // A slot number has 32 bits.
        Self { buckets: u32::try_from(buckets).unwrap_or(u32::MAX).min(u32::MAX / SLOTS as u32) }
    }

    /// Buckets of one family.
    pub fn buckets(&self) -> u32 {
        self.buckets
    }

    /// Slots of one family.
    pub fn slots(&self) -> u32 {
        self.buckets * SLOTS as u32
    }

    /// Bytes of the tags of one family.
    pub fn tags_bytes(&self) -> usize {
        self.slots() as usize * TAG_BYTES
    }

    pub fn entries4_bytes(&self) -> usize {
        self.slots() as usize * flow4::WORDS * 4
    }

    pub fn entries6_bytes(&self) -> usize {
        self.slots() as usize * flow6::WORDS * 4
    }
}

/// The four parts. Each must be zero or a table of the same geometry and secret, and may be longer than needed.
pub struct TableMemory {
    pub tags4: &'static [AtomicU64],
    pub entries4: &'static [AtomicU32],
    pub tags6: &'static [AtomicU64],
    pub entries6: &'static [AtomicU32],
}

impl TableMemory {
    /// Plain memory, never given back.
    pub fn in_memory(geometry: Geometry) -> Self {
        let words = |bytes: usize| -> &'static [AtomicU32] {
            Vec::leak((0..bytes / 4).map(|_| AtomicU32::new(0)).collect::<Vec<_>>())
        };
        let tags = || -> &'static [AtomicU64] {
            Vec::leak((0..geometry.tags_bytes() / 8).map(|_| AtomicU64::new(0)).collect::<Vec<_>>())
        };
        Self {
            tags4: tags(),
            entries4: words(geometry.entries4_bytes()),
            tags6: tags(),
            entries6: words(geometry.entries6_bytes()),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_at_most_151_bytes_of_ipv4_memory() {
        for max_flows in [10_000, 65_536, 262_144, 300_001, 4_000_000] {
            let geometry = Geometry::for_max_flows(max_flows);
            let bytes = geometry.tags_bytes() + geometry.entries4_bytes();
            let per_connection = bytes as f64 / max_flows as f64;
            assert!(per_connection <= 151.0, "{per_connection} bytes at {max_flows}");
            let load = 2.0 * max_flows as f64 / f64::from(geometry.slots());
            assert!(load <= LOAD_PERCENT as f64 / 100.0, "load {load} at {max_flows}");
        }
    }

    #[test]
    fn absurd_sizes_saturate_instead_of_wrapping() {
        assert!(Geometry::for_max_flows(usize::MAX).buckets() > 1 << 26);
        assert_eq!(Geometry::for_max_flows(0).buckets(), BUCKETS_MIN as u32);
    }
}
