//! In which order an endpoint wants the entries.

use std::net::IpAddr;

use crate::service::{Endpoint, mix};

/// Offset, offset + skip, offset + 2 skip, ... modulo the table's size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preference {
    /// Below the size.
    pub offset: u16,
    /// Below the size, not 0.
    pub skip: u16,
}

impl Preference {
    /// By address and port, the same on every node.
    pub fn of(endpoint: &Endpoint, size: u16) -> Self {
        let port = u64::from(endpoint.port);
        let hash = match endpoint.address {
            IpAddr::V4(v4) => mix(u64::from(v4.to_bits()) << 16 | port),
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                mix(mix(mix(port) ^ (bits >> 64) as u64) ^ bits as u64)
            }
        };
        // Twice, for `mix` leaves 0 as it is.
        let hash = mix(hash ^ 0x6d61_676c_6576);
        let scaled = |half: u64, below: u16| ((half * u64::from(below)) >> 32) as u16;
        Self { offset: scaled(hash >> 32, size), skip: scaled(hash & 0xffff_ffff, size - 1) + 1 }
    }
}

/// `entry + by` modulo `size`, without overflow.
#[inline]
pub(super) const fn advanced(entry: u16, by: u16, size: u16) -> u16 {
    let wrap = if entry >= size - by { size } else { 0 };
    entry.wrapping_add(by).wrapping_sub(wrap)
}
