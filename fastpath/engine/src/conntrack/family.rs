//! What differs between the entries of IPv4 and of IPv6: where the words stand, and how an address becomes words.
//! Everything else of the table is written once, over this trait.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atalho_layout::{SECRET_WORDS, SLOTS_PER_BUCKET, flow_words_v4, flow_words_v6, flow4, flow6, hash};

use super::half::Half;
use super::{ConnTable, Rewrite};
use crate::atomic::AtomicU32;
use crate::flow::{FlowKey, Protocol, word_ports, word_v4, words_v6};

/// Slots of one bucket. A model that visits every interleaving can afford only few.
pub(crate) const SLOTS: usize = if cfg!(loom) { 4 } else { SLOTS_PER_BUCKET };

// Words that stand at the same place in both families.
pub(super) const CTL: usize = flow4::CTL;
pub(super) const KEY: usize = flow4::SRC;
pub(super) const TICK: usize = flow4::TICK;
pub(super) const STATE: usize = flow4::STATE;
pub(super) const WIN_END: usize = flow4::WIN_END;
pub(super) const WIN_ACK: usize = flow4::WIN_ACK;
pub(super) const WIN_MAX: usize = flow4::WIN_MAX;

const _: () = {
    assert!(CTL == flow6::CTL && KEY == flow6::SRC && TICK == flow6::TICK && STATE == flow6::STATE);
    assert!(WIN_END == flow6::WIN_END && WIN_ACK == flow6::WIN_ACK && WIN_MAX == flow6::WIN_MAX);
    // A key is read as one run: source, destination, ports, and the protocol in the low byte of KIND.
    assert!(flow4::DST == KEY + 1 && flow4::PORTS == KEY + 2 && flow4::KIND == KEY + 3);
    assert!(flow6::DST == KEY + 4 && flow6::PORTS == KEY + 8 && flow6::KIND == KEY + 9);
    assert!(flow4::NEW_DST == flow4::NEW_SRC + 1 && flow4::NEW_PORTS == flow4::NEW_SRC + 2);
    assert!(flow6::NEW_DST == flow6::NEW_SRC + 4 && flow6::NEW_PORTS == flow6::NEW_SRC + 8);
};

/// One family's entries.
pub trait Family: Copy + 'static {
    const IS_IPV6: bool;
    /// Words of an address.
    const ADDRESS: usize;
    const KIND: usize;
    const NEW: usize;
    const NEXT_HOP: usize;
    const INGRESS: usize;
    const PEER: usize;
    /// The words of an entry.
    type Entry: AsRef<[AtomicU32]> + 'static;
    /// Source, destination, ports, protocol.
    type Key: Copy + Eq + AsRef<[u32]> + AsMut<[u32]> + std::fmt::Debug + Default;

    fn half(table: &ConnTable) -> &Half<Self>;
    /// The whole entries in `words`.
    fn entries(words: &'static [AtomicU32]) -> &'static [Self::Entry];

    /// The words of a key; `None` if an address is of the other family.
    fn key(key: &FlowKey) -> Option<Self::Key>;
    fn hash(secret: &[u64; SECRET_WORDS], key: &Self::Key) -> u32;
    fn address(words: &[u32]) -> IpAddr;

    /// The words of a translation, as a key without protocol.
    fn new_words(rewrite: &Rewrite) -> Option<Self::Key> {
        Self::key(&FlowKey {
            src: rewrite.src,
            dst: rewrite.dst,
            src_port: rewrite.src_port,
            dst_port: rewrite.dst_port,
            protocol: Protocol::Tcp,
        })
    }

    /// The words of a key with source and destination exchanged.
    #[inline(always)]
    fn turned(key: &Self::Key) -> Self::Key {
        let mut turned = *key;
        let (from, words) = (key.as_ref(), turned.as_mut());
        words[..Self::ADDRESS].copy_from_slice(&from[Self::ADDRESS..2 * Self::ADDRESS]);
        words[Self::ADDRESS..2 * Self::ADDRESS].copy_from_slice(&from[..Self::ADDRESS]);
        words[2 * Self::ADDRESS] = from[2 * Self::ADDRESS].rotate_left(16);
        turned
    }

    /// Reads a translation from a run of source, destination and ports.
    fn rewrite(words: &[u32]) -> Rewrite {
        let ports = words[2 * Self::ADDRESS].to_le_bytes();
        Rewrite {
            src: Self::address(words),
            dst: Self::address(&words[Self::ADDRESS..]),
            src_port: u16::from_be_bytes([ports[0], ports[1]]),
            dst_port: u16::from_be_bytes([ports[2], ports[3]]),
        }
    }

    /// Reads a key; `None` if its protocol is none of ours (a damaged entry).
    fn flow_key(words: &[u32]) -> Option<FlowKey> {
        let tuple = Self::rewrite(words);
        let protocol = Protocol::from_number(words[2 * Self::ADDRESS + 1] as u8)?;
        let Rewrite { src, dst, src_port, dst_port } = tuple;
        Some(FlowKey { src, dst, src_port, dst_port, protocol })
    }
}

/// Entries of 64 bytes.
#[derive(Debug, Clone, Copy)]
pub struct V4;

/// Entries of 128 bytes.
#[derive(Debug, Clone, Copy)]
pub struct V6;

impl Family for V4 {
    const IS_IPV6: bool = false;
    const ADDRESS: usize = 1;
    const KIND: usize = flow4::KIND;
    const NEW: usize = flow4::NEW_SRC;
    const NEXT_HOP: usize = flow4::NEXT_HOP;
    const INGRESS: usize = flow4::INGRESS;
    const PEER: usize = flow4::PEER;
    type Entry = [AtomicU32; flow4::WORDS];
    type Key = [u32; 4];

    #[inline]
    fn half(table: &ConnTable) -> &Half<Self> {
        &table.v4
    }

    fn entries(words: &'static [AtomicU32]) -> &'static [Self::Entry] {
        words.as_chunks().0
    }

    #[inline]
    fn key(key: &FlowKey) -> Option<[u32; 4]> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (key.src, key.dst) else { return None };
        let ports = word_ports(key.src_port, key.dst_port);
        Some(flow_words_v4(word_v4(src), word_v4(dst), ports, key.protocol as u8))
    }

    #[inline]
    fn hash(secret: &[u64; SECRET_WORDS], key: &[u32; 4]) -> u32 {
        hash(secret, key)
    }

    #[inline]
    fn address(words: &[u32]) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_octets(words[0].to_le_bytes()))
    }
}

impl Family for V6 {
    const IS_IPV6: bool = true;
    const ADDRESS: usize = 4;
    const KIND: usize = flow6::KIND;
    const NEW: usize = flow6::NEW_SRC;
    const NEXT_HOP: usize = flow6::NEXT_HOP;
    const INGRESS: usize = flow6::INGRESS;
    const PEER: usize = flow6::PEER;
    type Entry = [AtomicU32; flow6::WORDS];
    type Key = [u32; 10];

    #[inline]
    fn half(table: &ConnTable) -> &Half<Self> {
        &table.v6
    }

    fn entries(words: &'static [AtomicU32]) -> &'static [Self::Entry] {
        words.as_chunks().0
    }

    #[inline]
    fn key(key: &FlowKey) -> Option<[u32; 10]> {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (key.src, key.dst) else { return None };
        let ports = word_ports(key.src_port, key.dst_port);
        Some(flow_words_v6(words_v6(src), words_v6(dst), ports, key.protocol as u8))
    }

    #[inline]
    fn hash(secret: &[u64; SECRET_WORDS], key: &[u32; 10]) -> u32 {
        hash(secret, key)
    }

    #[inline]
    fn address(words: &[u32]) -> IpAddr {
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        IpAddr::V6(Ipv6Addr::from_octets(octets))
    }
}
