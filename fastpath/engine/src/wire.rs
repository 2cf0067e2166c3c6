//! Reading headers: one file per protocol, field offsets as named ranges, each checked once and then read without
//! failing. [`parse`] walks a frame from the Ethernet header to the ports and makes a [`Packet`].
//!
//! Own code and not a parsing crate's: the walk runs for every packet, refuses by reasons of ours, and must know the
//! byte offsets that the rewrite changes. The tests read every frame that leaves with etherparse instead.

pub mod checksum;
pub mod ethernet;
pub mod fragment;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
mod packet;
mod quoted;
pub mod sctp;
pub(crate) mod straight;
pub mod tcp;
pub mod udp;

pub use packet::{Content, Packet, destination, parse};
pub use quoted::Quoted;

/// `N` bytes at `at`; `None` where the slice ends before.
#[inline]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The big-endian 16-bit word at `at`, 0 beyond the end: for fields that a header check has covered.
#[inline]
pub(crate) fn word16(bytes: &[u8], at: usize) -> u16 {
    array(bytes, at).map_or(0, u16::from_be_bytes)
}

/// The big-endian 32-bit word at `at`, as [`word16`].
#[inline]
pub(crate) fn word32(bytes: &[u8], at: usize) -> u32 {
    array(bytes, at).map_or(0, u32::from_be_bytes)
}
