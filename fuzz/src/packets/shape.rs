//! Packets of an input: who speaks to whom, about what, and what is odd about it.

use std::net::IpAddr;

use super::layers::{ICMP, ICMPV6, Layers, TCP, mend};
use crate::bytes::Bytes;
use crate::lab::packet::{Layer4, Packet};
use crate::lab::*;

const PORTS: [u16; 16] = [
    80,
    53,
    8080,
    5353,
    38_412,
    3868,
    6443,
    9,
    1,
    1024,
    40_000,
    40_001,
    NODE_PORT_WEB,
    NODE_PORT_REMOTE,
    NODE_PORT_NODE,
    65_535,
];

/// IPv4 options: none, router alert, record route, timestamp, loose and strict source routes, an end before the end, no
/// length, a length beyond the header.
const OPTIONS: [&[u8]; 9] = [
    &[],
    &[148, 4, 0, 0],
    &[7, 7, 4, 0, 0, 0, 0, 0],
    &[68, 8, 5, 0, 0, 0, 0, 0],
    &[131, 7, 4, 10, 0, 0, 1, 0],
    &[137, 7, 4, 10, 0, 0, 1, 0],
    &[1, 0, 131, 3],
    &[7, 0, 0, 0],
    &[7, 40, 4, 0],
];

/// IPv6 extension headers by number; each is put in with eight bytes.
const EXTENSIONS: [u8; 8] = [0, 60, 43, 51, 44, 59, 135, 50];

fn address(f: Family, byte: u8) -> IpAddr {
    let all = [
        Family::client,
        Family::vip_local,
        Family::vip_remote,
        Family::far,
        Family::web,
        Family::node,
        Family::remote_pod,
        Family::vip_empty,
        Family::vip_elsewhere,
        Family::vip_node,
        Family::vip_remote_twin,
        Family::vip_unallocated,
        Family::stranger,
        Family::gateway,
        Family::other_node,
    ];
    all[usize::from(byte) % all.len()](f)
}

/// The port that a packet from `source` comes in by if nobody lies.
fn port_of(f: Family, source: IpAddr) -> u32 {
    match source {
        ip if ip == f.client() => CLIENT,
        ip if ip == f.web() => WEB,
        ip if ip == f.node() => FUNNEL,
        _ => UPLINK,
    }
}

/// Any port, known or not.
pub fn some_port(byte: u8) -> u32 {
    [UPLINK, FUNNEL, WEB, CLIENT, 0, u32::from(byte)][usize::from(byte) % 6]
}

/// A packet as hosts send it, and then what the input makes of it: ingress port and frame.
pub fn built(bytes: &mut Bytes<'_>) -> Option<(u32, Vec<u8>)> {
    let who = bytes.byte()?;
    let f = if who & 0x80 == 0 { Family::V4 } else { Family::V6 };
    let (src, dst) = (address(f, who & 0x7f), address(f, bytes.byte()?));
    let ports = bytes.byte()?;
    let (src_port, dst_port) = (PORTS[usize::from(ports >> 4)], PORTS[usize::from(ports & 15)]);
    let kind = bytes.byte()?;
    let layer4 = match kind >> 5 {
        0..=2 => Layer4::Tcp(kind & 0x1f),
        3 | 4 => Layer4::Udp,
        5 => Layer4::EchoRequest(u16::from(kind & 3)),
        6 => Layer4::EchoReply(u16::from(kind & 3)),
        _ => Layer4::Sctp(kind & 0x0f),
    };
    let size = bytes.byte()?;
    let payload = vec![size; usize::from(size & 0x3f) * if size & 0x40 == 0 { 1 } else { 26 }];
    let mut packet = Packet::new((src, src_port), layer4, (dst, dst_port)).payload(&payload);
    packet.dont_fragment = size & 0x80 == 0;
    let odd = bytes.byte()?;
    if odd & 1 != 0 {
        packet = packet.ttl(bytes.byte()?).sequence(u32::from(bytes.word()?) << 14);
    }
    let mut ingress = port_of(f, src);
    if odd & 2 != 0 {
        ingress = some_port(bytes.byte()?);
    }
    let mut frame = match f {
        Family::V4 if odd & 4 != 0 => packet.options(OPTIONS[usize::from(bytes.byte()?) % OPTIONS.len()]).build(),
        _ => packet.build(),
    };
    if odd & 4 != 0 && f == Family::V6 {
        extend(&mut frame, bytes)?;
    }
    if odd & 8 != 0 {
        cut_out(&mut frame, bytes.byte()?, bytes.byte()?);
    }
    if odd & 0xf0 != 0 {
        damage(&mut frame, odd >> 4, bytes)?;
    }
    Some((ingress, frame))
}

/// Puts extension headers between the IPv6 header and what follows it.
fn extend(frame: &mut Vec<u8>, bytes: &mut Bytes<'_>) -> Option<()> {
    let count = bytes.byte()?;
    for _ in 0..count % 10 {
        let what = bytes.byte()?;
        let next = std::mem::replace(&mut frame[20], EXTENSIONS[usize::from(what & 7)]);
        // Padding options; as a routing header: type 1, no segments left; as a fragment: at offset 0 of 1.
        frame.splice(54..54, [next, 0, 1, u8::from(what & 8 != 0), 0, 0, 0, 0]);
    }
    mend(frame);
    Some(())
}

/// Leaves one fragment of the packet: `from` and `units` are in 8 bytes, the rest of `units` says whether more follow.
fn cut_out(frame: &mut Vec<u8>, from: u8, units: u8) {
    let Some(layers) = Layers::of(frame) else { return };
    let body = &frame[layers.transport..];
    let start = (usize::from(from & 0x1f) * 8).min(body.len());
    let end = (start + usize::from(units & 0x1f) * 8).min(body.len());
    let more = u16::from(units & 0x80 != 0 || end < body.len());
    // Offsets near the end of what a datagram can be, too.
    let offset = if from & 0x80 == 0 { start as u16 } else { 0xfff8 - start as u16 };
    let piece = body[start..end].to_vec();
    frame.truncate(layers.transport);
    if layers.is_ipv6 {
        let next = std::mem::replace(&mut frame[20], 44);
        let [high, low] = (offset | more).to_be_bytes();
        frame.splice(54..54, [next, 0, high, low, 0, 0, 0, from >> 5]);
    } else {
        frame[20..22].copy_from_slice(&(offset / 8 | more << 13).to_be_bytes());
    }
    frame.extend(piece);
    mend(frame);
}

/// Changes bytes, the length, and then perhaps makes it right again. `how`: four bits.
pub fn damage(frame: &mut Vec<u8>, how: u8, bytes: &mut Bytes<'_>) -> Option<()> {
    if how & 1 != 0 {
        let changes = bytes.byte()?;
        for _ in 0..=changes & 3 {
            let (at, value) = (usize::from(bytes.byte()?) % frame.len().max(1), bytes.byte()?);
            if let Some(byte) = frame.get_mut(at) {
                *byte = if changes & 4 == 0 { value } else { *byte ^ value };
            }
        }
    }
    if how & 2 != 0 {
        let len = bytes.byte()?;
        match len & 0x80 {
            0 => frame.truncate(frame.len().saturating_sub(usize::from(len))),
            _ => frame.resize(frame.len() + usize::from(len & 0x7f), len),
        }
    }
    // Half of the ways leave it mended, half as damaged.
    if how & 4 != 0 {
        mend(frame);
    }
    if how & 8 != 0 {
        // Padding behind the end of the packet.
        frame.resize(frame.len().max(60), 0xff);
    }
    Some(())
}

/// What the receiver of `sent` answers. `None`: nothing that could be answered.
pub fn answer(sent: &[u8], bytes: &mut Bytes<'_>) -> Option<Vec<u8>> {
    let (how, flags) = (bytes.byte()?, bytes.byte()?);
    let mut frame = sent.to_vec();
    if let Some(layers) = Layers::of(sent) {
        let (from, to) = layers.addresses();
        frame[from.clone()].copy_from_slice(&sent[to.clone()]);
        frame[to].copy_from_slice(&sent[from]);
        let at = layers.transport;
        match layers.protocol {
            ICMP | ICMPV6 if sent.len() >= at + 8 => {
                frame[at] = match frame[at] {
                    8 => 0,
                    0 => 8,
                    other => other ^ 1,
                };
            }
            _ if sent.len() >= at + 4 => {
                frame[at..at + 2].copy_from_slice(&sent[at + 2..at + 4]);
                frame[at + 2..at + 4].copy_from_slice(&sent[at..at + 2]);
            }
            _ => {}
        }
        if layers.protocol == TCP && sent.len() >= at + 20 {
            acknowledge(&mut frame, at, flags);
        }
        // Fresh hops.
        frame[if layers.is_ipv6 { 21 } else { 22 }] = 64;
        mend(&mut frame);
    }
    if how & 0x0f != 0 {
        damage(&mut frame, how & 0x0f, bytes)?;
    }
    Some(frame)
}

/// Sequence numbers of an answer: it goes on where the other end expects it, and acknowledges all that came.
fn acknowledge(frame: &mut [u8], at: usize, flags: u8) {
    let long = |at: usize| u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let header = usize::from(frame[at + 12] >> 4) * 4;
    let took = frame.len().saturating_sub(at + header) as u32 + u32::from(frame[at + 13] & 3 != 0);
    let (sequence, acknowledged) = (long(at + 8), long(at + 4).wrapping_add(took));
    frame[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
    frame[at + 8..at + 12].copy_from_slice(&acknowledged.to_be_bytes());
    frame[at + 13] = flags & 0x3f;
}

/// An ICMP error about `sent`, from some address on the way.
pub fn error(sent: &[u8], bytes: &mut Bytes<'_>) -> Option<Vec<u8>> {
    let (who, kind, cut) = (bytes.byte()?, bytes.byte()?, bytes.byte()?);
    let layers = Layers::of(sent)?;
    let (from, to) = layers.addresses();
    let f = if layers.is_ipv6 { Family::V6 } else { Family::V4 };
    let quoted = &sent[14..];
    let quoted = &quoted[..quoted.len().min(usize::from(cut) * 4)];
    let reporter = match address(f, who & 0x7f) {
        // Who was spoken to reports himself.
        _ if who & 0x80 != 0 => sent[to].to_vec(),
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (types, protocol) = if layers.is_ipv6 { ([1, 2, 3, 4, 128, 5], ICMPV6) } else { ([3, 11, 12, 4, 5, 8], ICMP) };
    let mut frame = sent[..12].to_vec();
    if layers.is_ipv6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, 64]);
    } else {
        frame.extend([8, 0, 0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0]);
    }
    frame.extend(reporter);
    frame.extend(&sent[from]);
    // The last word is the MTU of those errors that tell one.
    frame.extend([types[usize::from(kind & 7) % types.len()], kind >> 5, 0, 0, 0, 0, 5, 0]);
    frame.extend(quoted);
    let how = kind >> 3 & 3;
    mend(&mut frame);
    if how == 3 {
        damage(&mut frame, bytes.byte()?, bytes)?;
    }
    Some(frame)
}

/// Bytes of the input as a frame, whatever they are.
pub fn raw(bytes: &mut Bytes<'_>) -> Option<(u32, Vec<u8>)> {
    let (port, how, len) = (bytes.byte()?, bytes.byte()?, bytes.word()?);
    let mut frame = bytes.take(usize::from(len) % 2048).to_vec();
    if how & 1 != 0 {
        mend(&mut frame);
    }
    Some((some_port(port), frame))
}
