//! Next hops: where a translated packet goes, by index, so that a changed neighbour is one store.
//! Four 64-bit words an entry. MACs stand in their low 48 bits, first byte lowest (memory order).

use crate::flow::{Field, Struct};

/// Word offsets (64-bit words) of a next hop.
pub mod hop {
    /// Destination MAC in bits 0..48, [`super::NextHopKind`] in bits 48..56, bit 56 set once the MAC is known.
    pub const DESTINATION: usize = 0;
    /// Source MAC in bits 0..48, MTU in bytes in bits 48..64.
    pub const SOURCE: usize = 1;
    /// Kernel interface index: pod host end, uplink, or the funnel's kernel end for the node itself.
    pub const IFINDEX: usize = 2;
    /// Who stands here, in the numbering of control: a later daemon finds its next hops again by it.
    pub const RESERVED: usize = 3;
    /// 64-bit words of one entry.
    pub const WORDS: usize = 4;
    /// Set in `DESTINATION` once the destination MAC is known.
    pub const RESOLVED: u64 = 1 << 56;
    /// Index of the node itself, always present.
    pub const NODE: u32 = 0;
}

/// What stands behind a next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NextHopKind {
    Unused = 0,
    /// The node's own stack, through the funnel's kernel end.
    Node = 1,
    /// A pod of this node, through the funnel.
    Pod = 2,
    /// A neighbour on the uplink.
    Uplink = 3,
}

impl NextHopKind {
    /// The kind in a `DESTINATION` word.
    pub const fn of(destination: u64) -> Self {
        match (destination >> 48) as u8 {
            1 => Self::Node,
            2 => Self::Pod,
            3 => Self::Uplink,
            _ => Self::Unused,
        }
    }
}

/// The C view.
pub const NEXT_HOP: Struct = Struct {
    name: "next_hop",
    size: 32,
    fields: &[
        Field { name: "DESTINATION", offset: 0, c_type: "__u64", count: 1 },
        Field { name: "SOURCE", offset: 8, c_type: "__u64", count: 1 },
        Field { name: "IFINDEX", offset: 16, c_type: "__u64", count: 1 },
        Field { name: "RESERVED", offset: 24, c_type: "__u64", count: 1 },
    ],
};
