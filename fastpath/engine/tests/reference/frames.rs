//! Frames with nothing in them but what is looked at, and that read back. The lab's own are checked to the last checksum,
//! and take too long for a million.

use std::net::IpAddr;

use crate::tcp::{SYN, Segment};
use crate::world::{Protocol, Tuple};

const ETHERNET: usize = 14;

fn transport(is_ipv4: bool) -> usize {
    ETHERNET + if is_ipv4 { 20 } else { 40 }
}

/// `is_reply` makes an echo a reply.
pub fn build(tuple: &Tuple, segment: Option<&Segment>, is_reply: bool) -> Vec<u8> {
    let is_ipv4 = tuple.src.0.is_ipv4();
    let body = body(tuple, segment, is_reply);
    let protocol = match (tuple.protocol, is_ipv4) {
        (Protocol::Tcp, _) => 6,
        (Protocol::Udp, _) => 17,
        (Protocol::Echo, true) => 1,
        (Protocol::Echo, false) => 58,
    };
    let mut frame = vec![0; transport(is_ipv4)];
    match (tuple.src.0, tuple.dst.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame[12..14].copy_from_slice(&[0x08, 0]);
            let ip = &mut frame[ETHERNET..];
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
            ip[6] = 0x40;
            (ip[8], ip[9]) = (64, protocol);
            ip[12..16].copy_from_slice(&src.octets());
            ip[16..20].copy_from_slice(&dst.octets());
            let sum: u32 = ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            let ip = &mut frame[ETHERNET..];
            ip[0] = 0x60;
            ip[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
            (ip[6], ip[7]) = (protocol, 64);
            ip[8..24].copy_from_slice(&src.octets());
            ip[24..40].copy_from_slice(&dst.octets());
        }
        _ => unreachable!("one family a tuple"),
    }
    frame.extend(body);
    frame
}

fn body(tuple: &Tuple, segment: Option<&Segment>, is_reply: bool) -> Vec<u8> {
    let ports = [tuple.src.1.to_be_bytes(), tuple.dst.1.to_be_bytes()].concat();
    match (tuple.protocol, segment) {
        (Protocol::Tcp, Some(s)) => {
            let options: &[u8] = match s.scale {
                Some(shift) if s.flags & SYN != 0 => &[3, 3, shift, 0],
                _ => &[],
            };
            let offset = (5 + options.len() / 4) as u8;
            let mut body = ports;
            body.extend(s.seq.to_be_bytes());
            body.extend(s.ack.to_be_bytes());
            body.extend([offset << 4, s.flags]);
            body.extend(s.window.to_be_bytes());
            body.extend([1, 1, 0, 0]);
            body.extend(options);
            body.resize(body.len() + s.bytes as usize, 0x77);
            body
        }
        (Protocol::Udp, _) => [&ports[..], &[0, 12, 1, 1], b"data"].concat(),
        (Protocol::Echo, _) => {
            let kind = match (tuple.src.0.is_ipv4(), is_reply) {
                (true, false) => 8,
                (true, true) => 0,
                (false, false) => 128,
                (false, true) => 129,
            };
            [&[kind, 0, 1, 1][..], &(tuple.src.1 | tuple.dst.1).to_be_bytes(), &[0, 1]].concat()
        }
        (Protocol::Tcp, None) => unreachable!("TCP has segments"),
    }
}

/// The tuple of a frame that left.
pub fn read(frame: &[u8], protocol: Protocol, is_reply: bool) -> Tuple {
    let is_ipv4 = frame[12] == 0x08;
    let address = |n: usize| -> IpAddr {
        if is_ipv4 {
            <[u8; 4]>::try_from(&frame[ETHERNET + 12 + 4 * n..][..4]).unwrap().into()
        } else {
            <[u8; 16]>::try_from(&frame[ETHERNET + 8 + 16 * n..][..16]).unwrap().into()
        }
    };
    let word = |at: usize| u16::from_be_bytes([frame[transport(is_ipv4) + at], frame[transport(is_ipv4) + at + 1]]);
    let ports = match (protocol, is_reply) {
        (Protocol::Echo, false) => (word(4), 0),
        (Protocol::Echo, true) => (0, word(4)),
        _ => (word(0), word(2)),
    };
    Tuple { protocol, src: (address(0), ports.0), dst: (address(1), ports.1) }
}
