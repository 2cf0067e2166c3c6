//! Cuts an IPv4 packet that is too long for its way out into fragments (RFC 791 section 3.2, RFC 1812 section 4.2.2.7).

use etherparse::{Ethernet2Slice, IpFragOffset, Ipv4Header, Ipv4Options, Ipv4Slice};

use crate::link::HEADER_BYTES;

/// Offsets count in this many bytes.
const UNIT_BYTES: usize = 8;

/// Option kinds: the end of the list, a byte of padding, and the bit of those that every fragment has to carry.
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_COPIED: u8 = 0x80;

/// The frame's packet in frames with packets of at most `mtu` bytes, in order; itself a fragment, it may be cut again. `None`
/// for what is no IPv4 packet, must not be cut, or has no room for a payload.
pub fn cut(frame: &[u8], mtu: u16) -> Option<Vec<Vec<u8>>> {
    let ethernet = Ethernet2Slice::from_slice_without_fcs(frame).ok()?;
    let ip = Ipv4Slice::from_slice(ethernet.payload_slice()).ok()?;
    let whole = ip.header().to_header();
    if whole.dont_fragment {
        return None;
    }
    let payload = ethernet.payload_slice().get(whole.header_len()..usize::from(whole.total_len))?;
    let options = copied_options(&whole.options)?;
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < payload.len() {
        let options = if start == 0 { &whole.options } else { &options };
        let mut header = Ipv4Header { options: options.clone(), ..whole.clone() };
        let room = usize::from(mtu).checked_sub(header.header_len())?;
        let rest = payload.len() - start;
        let len = if rest <= room { rest } else { room / UNIT_BYTES * UNIT_BYTES };
        let offset = usize::from(whole.fragment_offset.value()) + start / UNIT_BYTES;
        header.fragment_offset = IpFragOffset::try_new(u16::try_from(offset).ok()?).ok()?;
        header.more_fragments = whole.more_fragments || len < rest;
        header.set_payload_len(len).ok()?;
        header.header_checksum = header.calc_header_checksum();
        let mut piece = frame[..HEADER_BYTES].to_vec();
        piece.extend_from_slice(&header.to_bytes());
        piece.extend_from_slice(payload.get(start..start + len).filter(|part| !part.is_empty())?);
        pieces.push(piece);
        start += len;
    }
    Some(pieces)
}

/// The options of all fragments but the first, padded to four bytes.
fn copied_options(options: &Ipv4Options) -> Option<Ipv4Options> {
    let mut copied = Vec::new();
    let mut rest = options.as_slice();
    while let [kind, behind @ ..] = rest {
        let len = match *kind {
            OPTION_END => break,
            OPTION_NOP => 1,
            _ => usize::from(*behind.first()?).max(2),
        };
        let option = rest.get(..len)?;
        if kind & OPTION_COPIED != 0 {
            copied.extend_from_slice(option);
        }
        rest = &rest[len..];
    }
    copied.resize(copied.len().next_multiple_of(4), OPTION_END);
    Ipv4Options::try_from(copied.as_slice()).ok()
}
