//! What a forwarded frame must look like beside the one that came in, read by another implementation (etherparse).
//!
//! - It is a whole IP packet, its lengths and header checksum right.
//! - Only addresses, ports (an echo's identifier), hops and checksums differ.
//! - The transport checksum holds what it held before: the sum over pseudo-header and segment stays the same, so what
//!   was right stays right, and what was wrong stays wrong for the receiver to find (RFC 1624, RFC 768 for "none").

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, IpSlice};

use super::layers::sum;

const ETHERNET: usize = 14;
/// Ports, and an SCTP packet's checksum behind the verification tag.
const SCTP_MAY: [(usize, usize); 2] = [(0, 4), (8, 12)];

/// Panics if `out` is not what may become of `came`.
pub fn check(came: &[u8], out: &[u8]) {
    let before = Packet::of(came);
    let after = Packet::of(out);
    assert_eq!(out.len(), ETHERNET + after.bytes.len(), "bytes behind the end of the packet: {out:02x?}");
    check_headers(&before, &after);
    check_transport(&before, &after);
}

/// Panics if `pieces` are not all of the IPv4 packet in `whole`, each of at most `mtu` bytes and right in itself, or none.
pub fn check_pieces(whole: &[u8], pieces: &[&[u8]], mtu: u16) {
    let whole = Packet::of(whole);
    let (mut bytes, mut at, mut more) = (Vec::new(), whole.offset(), true);
    for piece in pieces {
        let part = Packet::of(piece);
        assert!(part.bytes.len() <= usize::from(mtu) && piece.len() == ETHERNET + part.bytes.len(), "{piece:02x?}");
        assert!(more && part.offset() == at, "not in order: {piece:02x?}");
        assert_eq!((&part.bytes[12..20], part.protocol), (&whole.bytes[12..20], whole.protocol), "another packet's");
        let payload = &part.bytes[part.payload..];
        (at, more) = (at + payload.len() / 8, part.has_more());
        assert!(!more || payload.len() % 8 == 0, "a piece of no whole units: {piece:02x?}");
        bytes.extend_from_slice(payload);
    }
    if !pieces.is_empty() {
        assert_eq!(bytes, whole.bytes[whole.payload..], "pieces that are not the packet");
        assert_eq!(more, whole.has_more(), "the last piece");
    }
}

/// An IP packet without padding, and where its transport header starts.
struct Packet<'f> {
    bytes: &'f [u8],
    transport: usize,
    /// Where what can be cut starts: behind the IPv4 header.
    payload: usize,
    protocol: IpNumber,
    is_ipv6: bool,
    /// Its transport header is in it, but not all that the checksum is over; `None`: a whole datagram.
    fragment: Option<Fragment>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fragment {
    First,
    Later,
}

impl<'f> Packet<'f> {
    fn of(frame: &'f [u8]) -> Self {
        let ip = match IpSlice::from_slice(&frame[ETHERNET..]) {
            Ok(ip) => ip,
            Err(error) => {
                return Self::of_odd_fragment(&frame[ETHERNET..]).unwrap_or_else(|| panic!("{error}: {frame:02x?}"));
            }
        };
        let payload = ip.payload();
        let (is_ipv6, total) = match &ip {
            IpSlice::Ipv4(v4) => {
                // Of the bytes: `Ipv4Header` does not know the reserved bit.
                let sum = Sum16BitWords::new().add_slice(v4.header().slice()).ones_complement();
                assert_eq!(sum, 0, "header checksum: {frame:02x?}");
                (false, usize::from(v4.header().total_len()))
            }
            IpSlice::Ipv6(v6) => (true, usize::from(v6.header().payload_length()) + 40),
        };
        let is_later = match &ip {
            IpSlice::Ipv4(v4) => v4.header().fragments_offset().value() != 0,
            IpSlice::Ipv6(v6) => v6.extensions().clone().into_iter().any(|extension| {
                matches!(extension, etherparse::Ipv6ExtensionSlice::Fragment(part) if part.fragment_offset().value() != 0)
            }),
        };
        let fragment = payload.fragmented.then_some(if is_later { Fragment::Later } else { Fragment::First });
        let bytes = &frame[ETHERNET..ETHERNET + total];
        Self {
            bytes,
            transport: total - payload.payload.len(),
            payload: usize::from(bytes[0] & 15) * 4,
            protocol: payload.ip_number,
            is_ipv6,
            fragment,
        }
    }

    /// A later IPv6 fragment whose header says that something follows which may not stand there: nothing follows but payload,
    /// and only the first fragment's word counts (RFC 8200 section 4.5), so routers have no business with it.
    fn of_odd_fragment(packet: &'f [u8]) -> Option<Self> {
        let [0x60..=0x6f, _, _, _, high, low, 44, ..] = packet else { return None };
        let bytes = packet.get(..usize::from(u16::from_be_bytes([*high, *low])) + 40)?;
        let [next, _, high, low] = *bytes.get(40..44)? else { return None };
        let is_later = u16::from_be_bytes([high, low]) & 0xfff8 != 0;
        let protocol = IpNumber(next);
        let fragment = Some(Fragment::Later);
        is_later.then_some(Self { bytes, transport: 48, payload: 48, protocol, is_ipv6: true, fragment })
    }

    /// Of an IPv4 fragment, in 8 bytes.
    fn offset(&self) -> usize {
        usize::from(u16::from_be_bytes([self.bytes[6], self.bytes[7]]) & 0x1fff)
    }

    fn has_more(&self) -> bool {
        self.bytes[6] & 0x20 != 0
    }

    fn segment(&self) -> &'f [u8] {
        &self.bytes[self.transport..]
    }

    /// The sum that a receiver makes, but of what is here; equal sums modulo 0xffff are equally right or wrong.
    fn checked_sum(&self) -> u64 {
        let addresses = if self.is_ipv6 { &self.bytes[8..40] } else { &self.bytes[12..20] };
        let pseudo = match self.protocol {
            IpNumber::ICMP => 0,
            protocol => sum(addresses) + u64::from(protocol.0) + self.segment().len() as u64,
        };
        (pseudo + sum(self.segment())) % 0xffff
    }
}

fn check_headers(before: &Packet<'_>, after: &Packet<'_>) {
    let may: &[(usize, usize)] = if before.is_ipv6 { &[(7, 8), (8, 40)] } else { &[(8, 9), (10, 20)] };
    let same = |packet: &Packet<'_>| masked(&packet.bytes[..packet.transport], may);
    assert_eq!(same(before), same(after), "IP headers changed");
    assert_eq!(before.protocol, after.protocol);
    let hops = if before.is_ipv6 { 7 } else { 8 };
    let (had, has) = (before.bytes[hops], after.bytes[hops]);
    assert!(has == had || has + 1 == had, "{had} hops became {has}");
}

fn check_transport(before: &Packet<'_>, after: &Packet<'_>) {
    let (came, out) = (before.segment(), after.segment());
    if before.fragment == Some(Fragment::Later) {
        assert_eq!(came, out, "a later fragment changed");
        return;
    }
    let may: &[(usize, usize)] = match before.protocol {
        IpNumber::TCP => &[(0, 4), (16, 18)],
        IpNumber::UDP => {
            let none = |segment: &[u8]| segment[6..8] == [0, 0];
            assert_eq!(none(came), none(out), "UDP without a checksum: {came:02x?} became {out:02x?}");
            if none(came) {
                assert_eq!(masked(came, &[(0, 4)]), masked(out, &[(0, 4)]));
                return;
            }
            &[(0, 4), (6, 8)]
        }
        IpNumber::SCTP => {
            assert_eq!(masked(came, &SCTP_MAY), masked(out, &SCTP_MAY), "an SCTP packet changed");
            if before.fragment.is_none() && is_right_sctp(came) {
                assert!(is_right_sctp(out), "a right CRC32c became wrong: {out:02x?}");
            }
            return;
        }
        IpNumber::ICMP | IpNumber::IPV6_ICMP if is_error(before) => {
            assert_eq!(before.checked_sum(), 0, "an error with a wrong checksum was translated: {came:02x?}");
            assert_eq!(after.checked_sum(), 0, "an error leaves with a wrong checksum: {out:02x?}");
            assert_eq!(masked(&came[..8], &[(2, 4)]), masked(&out[..8], &[(2, 4)]), "the error says something else");
            check_quotation(&came[8..], &out[8..]);
            let (quoted, told) = if after.is_ipv6 { (16..32, 24..40) } else { (20..24, 16..20) };
            assert_eq!(out[quoted], after.bytes[told], "an error goes to the sender of what it quotes: {out:02x?}");
            return;
        }
        _ => &[(2, 4), (4, 6)],
    };
    assert_eq!(masked(came, may), masked(out, may), "more than ports and checksum changed");
    assert_eq!(before.checked_sum(), after.checked_sum(), "the checksum: {came:02x?} became {out:02x?}");
}

fn is_error(packet: &Packet<'_>) -> bool {
    let kind = packet.segment()[0];
    if packet.is_ipv6 { kind < 128 } else { !matches!(kind, 0 | 8) }
}

fn is_right_sctp(packet: &[u8]) -> bool {
    let mut right = packet.to_vec();
    crate::lab::sctp::mend(&mut right);
    right == packet
}

/// The packet inside of an ICMP error, cut off anywhere behind its first eight bytes of transport.
fn check_quotation(came: &[u8], out: &[u8]) {
    assert_eq!(came.len(), out.len());
    let is_ipv6 = came[0] >> 4 == 6;
    let (transport, protocol) = if is_ipv6 { behind_ipv6(came) } else { (usize::from(came[0] & 15) * 4, came[9]) };
    let may: &[(usize, usize)] = if is_ipv6 { &[(8, 40)] } else { &[(10, 20)] };
    assert_eq!(masked(&came[..transport], may), masked(&out[..transport], may), "the quoted header changed");
    if !is_ipv6 {
        assert_eq!(sum(&came[..transport]) % 0xffff, sum(&out[..transport]) % 0xffff, "quoted header checksum");
    }
    let (inside, became) = (&came[transport..], &out[transport..]);
    let (fields, checksum): (&[(usize, usize)], usize) = match IpNumber(protocol) {
        IpNumber::TCP => (&[(0, 4), (16, 18)], 16),
        IpNumber::UDP => (&[(0, 4), (6, 8)], 6),
        IpNumber::SCTP => (&SCTP_MAY, usize::MAX - 2),
        _ => (&[(2, 4), (4, 6)], 2),
    };
    assert_eq!(masked(inside, fields), masked(became, fields), "the quoted segment changed");
    // Cut off before its checksum, or without one: nothing to keep.
    if inside.len() < checksum.saturating_add(2) || (protocol == 17 && inside[6..8] == [0, 0]) {
        return;
    }
    let pseudo = |packet: &[u8]| match (is_ipv6, protocol) {
        (false, 1) => 0,
        (false, _) => sum(&packet[12..20]),
        (true, _) => sum(&packet[8..40]),
    };
    let (had, has) = (pseudo(came) + sum(inside), pseudo(out) + sum(became));
    assert_eq!(had % 0xffff, has % 0xffff, "checksum of the quoted segment: {came:02x?} became {out:02x?}");
}

/// Where the transport header of a quoted IPv6 packet starts, and of which protocol it is.
fn behind_ipv6(packet: &[u8]) -> (usize, u8) {
    let (mut at, mut next) = (40, packet[6]);
    while matches!(next, 0 | 43 | 44 | 51 | 60) {
        let units = usize::from(packet[at + 1]);
        let bytes = match next {
            44 => 8,
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        next = packet[at];
        at += bytes;
    }
    (at, next)
}

/// `bytes` with zeroes where they may differ.
fn masked(bytes: &[u8], may: &[(usize, usize)]) -> Vec<u8> {
    let mut masked = bytes.to_vec();
    for (from, to) in may {
        let to = (*to).min(masked.len());
        if let Some(field) = masked.get_mut(*from..to) {
            field.fill(0);
        }
    }
    masked
}
