//! ICMP errors of any type about any bytes.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, PacketBuilder};

/// Types and codes of errors (RFC 792, RFC 1812 section 5.2.7, RFC 4443 section 3, RFC 8883 section 3).
pub fn kinds(is_v4: bool) -> Vec<[u8; 2]> {
    let codes: &[(u8, u8)] = if is_v4 { &[(3, 15), (11, 1), (12, 2)] } else { &[(1, 8), (2, 0), (3, 1), (4, 10)] };
    codes.iter().flat_map(|(kind, last)| (0..=*last).map(|code| [*kind, code])).collect()
}

/// Port unreachable.
pub fn port_unreachable(is_v4: bool) -> [u8; 2] {
    if is_v4 { [3, 3] } else { [1, 4] }
}

/// An error of this type and code from `src` to `dst`; `rest` are the four bytes behind its checksum.
pub fn error(src: IpAddr, dst: IpAddr, [kind, code]: [u8; 2], rest: [u8; 4], quote: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], &rest, quote].concat();
    let macs = PacketBuilder::ethernet2([0x0a, 9, 9, 9, 9, 9], [0x0a, 8, 8, 8, 8, 8]);
    let mut frame = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let sum = Sum16BitWords::new().add_slice(&message).ones_complement();
            message[2..4].copy_from_slice(&sum.to_ne_bytes());
            macs.ipv4(src.octets(), dst.octets(), 64).write(&mut frame, IpNumber::ICMP, &message).unwrap();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let pseudo = Sum16BitWords::new()
                .add_slice(&src.octets())
                .add_slice(&dst.octets())
                .add_4bytes((message.len() as u32).to_be_bytes())
                .add_2bytes([0, 58]);
            let sum = pseudo.add_slice(&message).ones_complement();
            message[2..4].copy_from_slice(&sum.to_ne_bytes());
            macs.ipv6(src.octets(), dst.octets(), 64).write(&mut frame, IpNumber::IPV6_ICMP, &message).unwrap();
        }
        _ => panic!("one family only"),
    }
    frame
}
