//! Packets whose headers stand where they mostly do: IPv4 without options or IPv6 without extension headers, whole, and
//! behind it UDP, or TCP that neither opens nor closes. They are read and translated by fixed offsets, in words.
//!
//! No second opinion: whatever is odd or wrong is none of these, and [`parse`](super::parse) and
//! [`rewrite`](crate::rewrite) say what becomes of it. One that is, they would read and translate just so, which the tests
//! beside this compare.
//!
//! Words are loaded as they stand in the frame, on a little-endian machine, like those of the connection table's keys.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::checksum::{self, Delta};
use super::{Packet, ethernet, ipv4, ipv6, tcp, udp, word16};
use crate::conntrack::{Family, Rewrite, Segment, TcpSegment, V4, V6};
use crate::flow::{FlowKey, Protocol};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// One family's straight packets. Offsets count from the start of the frame.
pub(crate) trait Straight: Family {
    const PROTOCOL: usize;
    const TRANSPORT: usize;
    /// Both addresses, and both ports behind them.
    const TUPLE: Range<usize>;
    /// All headers up to the end of one of UDP: an array, so that the compiler knows that every offset lies within.
    type Head: AsRef<[u8]> + AsMut<[u8]>;

    /// Where the packet ends, if it is a straight one. `frame` is the first piece of `frame_bytes`, or all of it.
    fn end(frame: &[u8], frame_bytes: usize) -> Option<u16>;

    /// `None` only where the frame has no [end](Straight::end).
    fn head(frame: &mut [u8]) -> Option<&mut Self::Head>;

    /// The same, to be read alone.
    fn view(frame: &[u8]) -> Option<&Self::Head>;

    /// A router may cut it where it does not fit.
    fn may_be_cut(head: &Self::Head) -> bool;

    /// TTL or hop limit.
    fn hops(head: &Self::Head) -> u8;

    /// Takes `hops` away, and adjusts the header's checksum, where it has one, to that and to new addresses.
    fn finish_header(head: &mut Self::Head, hops: u8, addresses: Delta);

    /// The words of its key.
    #[inline(always)]
    fn key_words(head: &Self::Head) -> Self::Key {
        let head = head.as_ref();
        let mut key = Self::Key::default();
        let words = key.as_mut();
        for (word, bytes) in words.iter_mut().zip(head[Self::TUPLE].as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        words[2 * Self::ADDRESS + 1] = head[Self::PROTOCOL].into();
        key
    }

    #[inline(always)]
    fn is_tcp(head: &Self::Head) -> bool {
        head.as_ref()[Self::PROTOCOL] == TCP
    }

    /// What [`parse`](super::parse) says of it, if it is UDP.
    #[inline]
    fn datagram(head: &Self::Head, end: u16) -> Packet {
        let Rewrite { src, dst, src_port, dst_port } = Self::rewrite(Self::key_words(head).as_ref());
        Packet {
            key: FlowKey { src, dst, src_port, dst_port, protocol: Protocol::Udp },
            src,
            ttl: Self::hops(head),
            may_be_cut: Self::may_be_cut(head),
            no_checksum: word16(head.as_ref(), Self::TRANSPORT + udp::CHECKSUM) == 0,
            transport: Self::TRANSPORT as u16,
            end,
            ..Packet::BLANK
        }
    }

    /// What its connection looks at, if it is TCP.
    #[inline]
    fn segment(frame: &[u8], end: u16) -> Option<Segment> {
        let end = usize::from(end);
        let segment = frame.get(Self::TRANSPORT..end.min(frame.len()))?;
        Some(Segment::Tcp(tcp::check(segment, end - Self::TRANSPORT).ok()?.segment))
    }

    /// Writes `new` (source, destination, ports; `old` is its key) into the frame and takes `hops` from its hops.
    #[inline(always)]
    fn translate(frame: &mut [u8], old: &Self::Key, new: &Self::Key, hops: u8) -> Option<()> {
        let head = Self::head(frame)?;
        let (old, new, ports) = (old.as_ref(), new.as_ref(), 2 * Self::ADDRESS);
        let mut delta = Delta::default();
        delta.words(&old[..ports], &new[..ports]);
        Self::finish_header(head, hops, delta);
        delta.words(&old[ports..=ports], &new[ports..=ports]);
        for (bytes, word) in head.as_mut()[Self::TUPLE].as_chunks_mut().0.iter_mut().zip(new) {
            *bytes = word.to_le_bytes();
        }
        if Self::is_tcp(head) {
            let field = frame.get_mut(Self::TRANSPORT + tcp::CHECKSUM..)?.first_chunk_mut()?;
            *field = delta.apply(u16::from_le_bytes(*field)).to_le_bytes();
        } else {
            let field = head.as_mut()[Self::TRANSPORT + udp::CHECKSUM..].first_chunk_mut()?;
            let checksum = u16::from_le_bytes(*field);
            // 0 means "no checksum", and 0xffff is the other spelling of a sum of 0 (RFC 768).
            if checksum != 0 {
                let sum = delta.apply(checksum);
                *field = if sum == 0 { [0xff, 0xff] } else { sum.to_le_bytes() };
            }
        }
        Some(())
    }
}

impl Straight for V4 {
    const PROTOCOL: usize = ethernet::HEADER_BYTES + ipv4::PROTOCOL;
    const TRANSPORT: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES_MIN;
    const TUPLE: Range<usize> = 26..38;
    type Head = [u8; 42];

    #[inline(always)]
    fn head(frame: &mut [u8]) -> Option<&mut Self::Head> {
        frame.first_chunk_mut()
    }

    #[inline(always)]
    fn view(frame: &[u8]) -> Option<&Self::Head> {
        frame.first_chunk()
    }

    #[inline]
    fn may_be_cut(head: &Self::Head) -> bool {
        head[20] & 0x40 == 0
    }

    #[inline]
    fn end(frame: &[u8], frame_bytes: usize) -> Option<u16> {
        let head: &Self::Head = frame.first_chunk()?;
        // EtherType, version and header length; more fragments, and the offset of one.
        let is_plain = word32(head, 12) & 0x00ff_ffff == 0x0045_0008 && word32(head, 20) & 0xff3f == 0;
        let sum = u64::from(word32(head, 14))
            + u64::from(word32(head, 18))
            + u64::from(word32(head, 22))
            + u64::from(word32(head, 26))
            + u64::from(word32(head, 30));
        if head[0] & 1 != 0 || !is_plain || !checksum::is_valid_sum(sum) {
            return None;
        }
        let (src, dst) = (word32(head, 26), word32(head, 30));
        let addresses = (Ipv4Addr::from_octets(src.to_le_bytes()), Ipv4Addr::from_octets(dst.to_le_bytes()));
        if src == dst || ipv4::check_addresses(addresses.0, addresses.1).is_err() {
            return None;
        }
        let end = ethernet::HEADER_BYTES + usize::from(word16(head, 16));
        let is_straight =
            end <= frame_bytes && is_transport_straight(frame, head[Self::PROTOCOL], Self::TRANSPORT, end, false);
        if is_straight { u16::try_from(end).ok() } else { None }
    }

    #[inline(always)]
    fn hops(head: &Self::Head) -> u8 {
        head[ethernet::HEADER_BYTES + ipv4::TTL]
    }

    #[inline(always)]
    fn finish_header(head: &mut Self::Head, hops: u8, mut addresses: Delta) {
        const TTL: usize = ethernet::HEADER_BYTES + ipv4::TTL;
        // TTL, protocol, checksum.
        let [ttl, protocol, low, high] = [head[TTL], head[TTL + 1], head[TTL + 2], head[TTL + 3]];
        let new_ttl = ttl.saturating_sub(hops);
        addresses.word(u16::from_le_bytes([ttl, protocol]), u16::from_le_bytes([new_ttl, protocol]));
        let [low, high] = addresses.apply(u16::from_le_bytes([low, high])).to_le_bytes();
        head[TTL..TTL + 4].copy_from_slice(&[new_ttl, protocol, low, high]);
    }
}

impl Straight for V6 {
    const PROTOCOL: usize = ethernet::HEADER_BYTES + ipv6::NEXT_HEADER;
    const TRANSPORT: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES;
    const TUPLE: Range<usize> = 22..58;
    type Head = [u8; 62];

    #[inline(always)]
    fn head(frame: &mut [u8]) -> Option<&mut Self::Head> {
        frame.first_chunk_mut()
    }

    #[inline(always)]
    fn view(frame: &[u8]) -> Option<&Self::Head> {
        frame.first_chunk()
    }

    #[inline]
    fn may_be_cut(_: &Self::Head) -> bool {
        false
    }

    #[inline]
    fn end(frame: &[u8], frame_bytes: usize) -> Option<u16> {
        let head: &Self::Head = frame.first_chunk()?;
        // EtherType and version.
        if head[0] & 1 != 0 || word32(head, 12) & 0x00f0_ffff != 0x0060_dd86 {
            return None;
        }
        let (src, dst) = (address(head, 22), address(head, 38));
        if src == dst || ipv6::check_addresses(src, dst).is_err() {
            return None;
        }
        let end = Self::TRANSPORT + usize::from(word16(head, 18));
        let is_straight =
            end <= frame_bytes && is_transport_straight(frame, head[Self::PROTOCOL], Self::TRANSPORT, end, true);
        if is_straight { u16::try_from(end).ok() } else { None }
    }

    #[inline(always)]
    fn hops(head: &Self::Head) -> u8 {
        head[ethernet::HEADER_BYTES + ipv6::HOP_LIMIT]
    }

    #[inline(always)]
    fn finish_header(head: &mut Self::Head, hops: u8, _addresses: Delta) {
        let limit = &mut head[ethernet::HEADER_BYTES + ipv6::HOP_LIMIT];
        *limit = limit.saturating_sub(hops);
    }
}

/// Whether the transport header at `at` of a packet that reaches to `end` is a straight one.
#[inline]
fn is_transport_straight(frame: &[u8], protocol: u8, at: usize, end: usize, needs_checksum: bool) -> bool {
    match protocol {
        UDP => {
            let Some(header) = frame.get(at..).and_then(|rest| rest.first_chunk::<{ udp::HEADER_BYTES }>()) else {
                return false;
            };
            let bytes = usize::from(word16(header, udp::LENGTH));
            let has_checksum = word16(header, udp::CHECKSUM) != 0;
            udp::HEADER_BYTES <= bytes && at + bytes <= end && (has_checksum || !needs_checksum)
        }
        TCP => {
            let header = frame.get(at..).and_then(|rest| rest.first_chunk::<{ tcp::HEADER_BYTES_MIN }>());
            let Some(header) = header else { return false };
            let bytes = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
            let is_inside = tcp::HEADER_BYTES_MIN <= bytes && at + bytes <= end.min(frame.len());
            is_inside && header[tcp::FLAGS] & tcp::FLAG_BITS & !tcp::PUSH == TcpSegment::ACK
        }
        _ => false,
    }
}

#[inline]
fn word32<const N: usize>(head: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[inline]
fn address<const N: usize>(head: &[u8; N], at: usize) -> Ipv6Addr {
    Ipv6Addr::from_octets(super::array(head, at).unwrap_or_default())
}

#[cfg(test)]
mod tests;
