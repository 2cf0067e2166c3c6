//! Claims: which destinations are ours. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).

use crate::flow::{Field, Struct};

/// Why a destination is ours; the value of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ClaimKind {
    /// A Service address: every port of it.
    Vip = 1,
    /// A node address with one node port.
    NodePort = 2,
    /// A pod of this node: every port of it.
    Pod = 3,
    /// An address range of Services.
    ServiceCidr = 4,
    /// An address of the node itself: pods reach it directly, unless a node port claims.
    Node = 5,
}

/// Key of the claim map. `port` (network byte order) and `protocol` are 0 where every port is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct ClaimKey {
    pub addr: [u8; 16],
    pub port: [u8; 2],
    pub protocol: u8,
    pub pad: u8,
}

/// Key of the range map (BPF_MAP_TYPE_LPM_TRIE). `prefix_len` counts over 128 bits: IPv4 prefixes are + 96.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct LpmKey {
    pub prefix_len: u32,
    pub addr: [u8; 16],
}

/// The C view of [`ClaimKey`].
pub const CLAIM_KEY: Struct = Struct {
    name: "claim_key",
    size: 20,
    fields: &[
        Field { name: "ADDR", offset: 0, c_type: "__u8", count: 16 },
        Field { name: "PORT", offset: 16, c_type: "__u8", count: 2 },
        Field { name: "PROTOCOL", offset: 18, c_type: "__u8", count: 1 },
        Field { name: "PAD", offset: 19, c_type: "__u8", count: 1 },
    ],
};

/// The C view of [`LpmKey`].
pub const LPM_KEY: Struct = Struct {
    name: "lpm_key",
    size: 20,
    fields: &[
        Field { name: "PREFIX_LEN", offset: 0, c_type: "__u32", count: 1 },
        Field { name: "ADDR", offset: 4, c_type: "__u8", count: 16 },
    ],
};

const _: () = {
    assert!(size_of::<ClaimKey>() == CLAIM_KEY.size);
    assert!(std::mem::offset_of!(ClaimKey, port) == 16);
    assert!(size_of::<LpmKey>() == LPM_KEY.size);
    assert!(std::mem::offset_of!(LpmKey, addr) == 4);
};
