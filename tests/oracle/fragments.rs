//! Datagrams cut into fragments, and fragments joined again, the plain way.

use std::collections::BTreeMap;

use super::frame::{ETHERNET_BYTES, Outline, word};
use super::{Both, Out, checksum};

/// Of a transport header, which the first fragment has to hold.
const FIRST_BYTES_MIN: usize = 24;
const IPV6_BYTES: usize = 40;
/// The fragment header's number (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;

/// How a datagram is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Offset and length of every fragment, in the order in which they are sent.
    parts: Vec<(usize, usize)>,
    identification: u32,
    /// Something is lost, comes twice or overlaps.
    pub is_odd: bool,
}

impl Cut {
    /// For a datagram with `payload_bytes` behind the IP header; `None`: it is too short.
    pub fn draw(payload_bytes: usize, identification: u32, random: &mut fastrand::Rng) -> Option<Self> {
        if payload_bytes < FIRST_BYTES_MIN + 8 {
            return None;
        }
        let mut ends = vec![payload_bytes];
        for _ in 0..random.usize(1..4) {
            ends.push(random.usize(FIRST_BYTES_MIN / 8..payload_bytes.div_ceil(8)) * 8);
        }
        ends.sort_unstable();
        ends.dedup();
        let starts = [0].into_iter().chain(ends.iter().copied());
        let mut parts: Vec<(usize, usize)> = starts.zip(&ends).map(|(start, end)| (start, end - start)).collect();
        let whole = parts.len();
        match random.u8(..12) {
            // One is lost.
            0 => drop(parts.remove(random.usize(..parts.len()))),
            // One comes twice.
            1 => parts.push(parts[random.usize(..parts.len())]),
            // One overlaps its neighbour.
            2 if parts.len() > 1 => {
                let (offset, length) = parts[1];
                parts.push((offset - 8, length.min(16)));
            }
            _ => {}
        }
        let is_odd = parts.len() != whole;
        if random.bool() {
            random.shuffle(&mut parts);
        }
        Some(Self { parts, identification, is_odd })
    }

    /// The fragments of the datagram in `frame`, whose IP header has no options and no extension headers.
    pub fn fragments(&self, frame: &[u8]) -> Vec<Vec<u8>> {
        let Some(outline) = Outline::of(frame) else { return vec![frame.to_vec()] };
        let (header, payload) = (&frame[..outline.transport], &frame[outline.transport..outline.end]);
        let part = |&(offset, length): &(usize, usize)| {
            let bytes = &payload[offset..(offset + length).min(payload.len())];
            let more = u16::from(offset + bytes.len() < payload.len());
            let mut fragment = header.to_vec();
            let ip = &mut fragment[ETHERNET_BYTES..];
            if outline.src.is_ipv4() {
                ip[2..4].copy_from_slice(&((20 + bytes.len()) as u16).to_be_bytes());
                ip[4..6].copy_from_slice(&(self.identification as u16).to_be_bytes());
                ip[6..8].copy_from_slice(&(more << 13 | (offset / 8) as u16).to_be_bytes());
                mend_header(ip);
            } else {
                ip[4..6].copy_from_slice(&((8 + bytes.len()) as u16).to_be_bytes());
                let next = std::mem::replace(&mut ip[6], FRAGMENT);
                fragment.extend([next, 0]);
                fragment.extend((offset as u16 | more).to_be_bytes());
                fragment.extend(self.identification.to_be_bytes());
            }
            fragment.extend(bytes);
            fragment
        };
        self.parts.iter().map(part).collect()
    }
}

fn mend_header(ip: &mut [u8]) {
    ip[10..12].fill(0);
    let sum = checksum::of(&[&ip[..header_bytes(ip)]]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Of an IPv4 packet.
fn header_bytes(ip: &[u8]) -> usize {
    usize::from(ip[0] & 15) * 4
}

/// One fragment, read.
struct Read<'f> {
    offset: usize,
    has_more: bool,
    payload: &'f [u8],
    /// What the whole datagram's frame starts with.
    header: Vec<u8>,
    /// What all fragments of it have alike.
    datagram: Vec<u8>,
}

fn read(frame: &[u8]) -> Option<Read<'_>> {
    let outline = Outline::of(frame)?;
    let ip = &frame[ETHERNET_BYTES..];
    if outline.src.is_ipv4() {
        let field = word(ip, 6)?;
        let datagram = [&ip[12..20], &ip[9..10], &ip[4..6]].concat();
        return (field & 0x3fff != 0).then(|| Read {
            offset: usize::from(field & 0x1fff) * 8,
            has_more: field & 0x2000 != 0,
            payload: &frame[outline.transport..outline.end.min(frame.len())],
            header: frame[..outline.transport].to_vec(),
            datagram,
        });
    }
    if *ip.get(6)? != FRAGMENT {
        return None;
    }
    let header: &[u8; 8] = ip.get(IPV6_BYTES..)?.first_chunk()?;
    let field = word(header, 2)?;
    let mut whole = frame[..ETHERNET_BYTES + IPV6_BYTES].to_vec();
    whole[ETHERNET_BYTES + 6] = header[0];
    Some(Read {
        offset: usize::from(field & !7),
        has_more: field & 1 != 0,
        payload: &ip[IPV6_BYTES + 8..outline.end - ETHERNET_BYTES],
        header: whole,
        datagram: [&ip[8..IPV6_BYTES], &header[4..]].concat(),
    })
}

/// What came out with every complete datagram joined; fragments of others stay, behind them.
pub fn joined(out: &[Out]) -> Vec<Out> {
    let mut whole: Vec<Out> = Vec::new();
    let mut datagrams: BTreeMap<(usize, Vec<u8>), Vec<&Out>> = BTreeMap::new();
    for out in out {
        match read(&out.frame) {
            Some(fragment) => datagrams.entry((out.link as usize, fragment.datagram)).or_default().push(out),
            None => whole.push(out.clone()),
        }
    }
    let mut incomplete = Vec::new();
    for fragments in datagrams.into_values() {
        match join(&fragments) {
            Some(frame) => whole.push(Out { link: fragments[0].link, frame }),
            None => incomplete.extend(fragments.into_iter().cloned()),
        }
    }
    whole.extend(incomplete);
    whole
}

fn join(fragments: &[&Out]) -> Option<Vec<u8>> {
    let mut reads: Vec<Read<'_>> = fragments.iter().filter_map(|out| read(&out.frame)).collect();
    reads.sort_by_key(|read| read.offset);
    reads.dedup_by_key(|read| read.offset);
    let mut frame = reads.first().filter(|read| read.offset == 0)?.header.clone();
    let mut payload: Vec<u8> = Vec::new();
    for read in &reads {
        if read.offset != payload.len() {
            return None;
        }
        payload.extend(read.payload);
    }
    if reads.last()?.has_more {
        return None;
    }
    let ip = &mut frame[ETHERNET_BYTES..];
    if ip[0] >> 4 == 4 {
        let total = header_bytes(ip) + payload.len();
        ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        ip[6..8].fill(0);
        mend_header(ip);
    } else {
        ip[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    frame.extend(payload);
    Some(frame)
}

/// The same cut of both sides' datagram.
pub fn of_both(cut: &Cut, frames: &Both<Vec<u8>>) -> Vec<Both<Vec<u8>>> {
    let [theirs, ours] = frames.each_ref().map(|frame| cut.fragments(frame));
    theirs.into_iter().zip(ours).map(|(theirs, ours)| [theirs, ours]).collect()
}

/// Bytes behind the IP header that the first of `fragments` has.
pub fn first_payload_bytes<'f>(fragments: impl Iterator<Item = &'f Vec<u8>>) -> Option<usize> {
    fragments.filter_map(|frame| read(frame)).find(|read| read.offset == 0).map(|read| read.payload.len())
}
