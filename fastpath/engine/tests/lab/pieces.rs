//! Datagrams cut and joined by hand, independently of the code under test.

use std::net::IpAddr;

use atalho_engine::wire::checksum;
use etherparse::{Icmpv4Type, Icmpv6Type, Ipv4HeaderSlice, Ipv6HeaderSlice, PacketBuilder, icmpv4, icmpv6};

pub const IDENTIFICATION: u32 = 0x1234;

/// Where the payload of the IP packet in `frame` starts; without extension headers.
fn payload_at(frame: &[u8]) -> usize {
    if frame[14] >> 4 == 4 { 14 + usize::from(frame[14] & 15) * 4 } else { 54 }
}

/// Bytes of the payload of a datagram.
pub fn payload_bytes(frame: &[u8]) -> usize {
    frame.len() - payload_at(frame)
}

/// A fragment of the datagram in `frame` with these bytes of its payload, by any offset (a multiple of 8).
pub fn fragment(frame: &[u8], identification: u32, offset: usize, more: bool, bytes: &[u8]) -> Vec<u8> {
    let at = payload_at(frame);
    let mut piece = frame[..at].to_vec();
    if frame[14] >> 4 == 4 {
        let field = (offset / 8) as u16 | u16::from(more) << 13;
        let total = (at - 14 + bytes.len()) as u16;
        piece[16..18].copy_from_slice(&total.to_be_bytes());
        piece[18..20].copy_from_slice(&(identification as u16).to_be_bytes());
        piece[20..22].copy_from_slice(&field.to_be_bytes());
        piece[24..26].fill(0);
        let sum = !checksum::sum(&piece[14..]);
        piece[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        let next = std::mem::replace(&mut piece[20], 44);
        piece[18..20].copy_from_slice(&((8 + bytes.len()) as u16).to_be_bytes());
        let field = offset as u16 | u16::from(more);
        piece.extend([next, 0]);
        piece.extend(field.to_be_bytes());
        piece.extend(identification.to_be_bytes());
    }
    piece.extend(bytes);
    piece
}

/// The datagram in fragments that begin at these offsets of its payload, besides 0.
pub fn cut(frame: &[u8], identification: u32, at: &[usize]) -> Vec<Vec<u8>> {
    let payload = &frame[payload_at(frame)..];
    let ends = at.iter().copied().chain([payload.len()]);
    let starts = [0].into_iter().chain(at.iter().copied());
    starts
        .zip(ends)
        .map(|(start, end)| fragment(frame, identification, start, end < payload.len(), &payload[start..end]))
        .collect()
}

/// What a frame says about itself as a fragment; every length and header checksum is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub identification: u32,
    pub hops: u8,
    pub offset: usize,
    pub more: bool,
    /// The transport protocol.
    pub protocol: u8,
    /// The header before it, as its sender would have sent it whole, lengths, checksum and fragment fields zero.
    pub header: Vec<u8>,
    pub bytes: Vec<u8>,
}

#[track_caller]
pub fn read(frame: &[u8]) -> Piece {
    let packet = &frame[14..];
    if packet[0] >> 4 == 4 {
        assert_eq!(frame[12..14], [0x08, 0x00]);
        let ip = Ipv4HeaderSlice::from_slice(packet).unwrap();
        let header_bytes = ip.slice().len();
        assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum(), "IPv4 header checksum");
        assert_eq!(usize::from(ip.total_len()), packet.len(), "total length");
        assert!(!ip.dont_fragment(), "a fragment that must not be one");
        let mut header = packet[..header_bytes].to_vec();
        for at in [2, 3, 6, 7, 10, 11] {
            header[at] = 0;
        }
        return Piece {
            src: ip.source_addr().into(),
            dst: ip.destination_addr().into(),
            identification: ip.identification().into(),
            hops: ip.ttl(),
            offset: usize::from(ip.fragments_offset().value()) * 8,
            more: ip.more_fragments(),
            protocol: ip.protocol().0,
            header,
            bytes: packet[header_bytes..].to_vec(),
        };
    }
    assert_eq!(frame[12..14], [0x86, 0xdd]);
    let ip = Ipv6HeaderSlice::from_slice(packet).unwrap();
    assert_eq!(usize::from(ip.payload_length()) + 40, packet.len(), "payload length");
    assert_eq!(packet[6], 44, "a fragment header");
    let field = u16::from_be_bytes([packet[42], packet[43]]);
    let mut header = packet[..40].to_vec();
    header[4..6].fill(0);
    header[6] = packet[40];
    Piece {
        src: ip.source_addr().into(),
        dst: ip.destination_addr().into(),
        identification: u32::from_be_bytes(packet[44..48].try_into().unwrap()),
        hops: ip.hop_limit(),
        offset: usize::from(field & !7),
        more: field & 1 != 0,
        protocol: packet[40],
        header,
        bytes: packet[48..].to_vec(),
    }
}

/// The datagram that its receiver would make of these fragments, as a frame without link addresses; `None` if it would make
/// none: parts are missing, or overlap.
#[track_caller]
pub fn join(frames: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut pieces: Vec<Piece> = frames.iter().map(|frame| read(frame)).collect();
    pieces.sort_by_key(|piece| piece.offset);
    let first = pieces.first()?.clone();
    let mut payload = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let same = (piece.src, piece.dst, piece.identification, piece.protocol)
            == (first.src, first.dst, first.identification, first.protocol);
        let is_last = at + 1 == pieces.len();
        if !same || piece.offset != payload.len() || piece.more == is_last {
            return None;
        }
        payload.extend(&piece.bytes);
    }
    let mut frame = vec![0; 14];
    frame.extend(&first.header);
    frame.extend(&payload);
    if first.src.is_ipv4() {
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let total = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        let header_bytes = first.header.len();
        let sum = !checksum::sum(&frame[14..14 + header_bytes]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[18..20].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    Some(frame)
}

/// An ICMP error from `from` to `to`, port unreachable, about the packet that starts with `quoted`.
pub fn unreachable(from: IpAddr, to: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let macs = PacketBuilder::ethernet2([0x0a, 9, 9, 9, 9, 9], [0x0a, 8, 8, 8, 8, 8]);
    let mut frame = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => macs
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4(Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port))
            .write(&mut frame, quoted)
            .unwrap(),
        (IpAddr::V6(from), IpAddr::V6(to)) => macs
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6(Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port))
            .write(&mut frame, quoted)
            .unwrap(),
        _ => panic!("one family only"),
    }
    frame
}
