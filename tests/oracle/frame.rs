//! Reading frames: where things stand, what a reader needs to see, and the frame as it would be with other ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum;
use super::packet::{ICMP, ICMPV6, TCP, UDP};

pub const ETHERNET_BYTES: usize = 14;

/// An IP packet's outline. Offsets count from the start of what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    /// Where the transport header starts.
    pub transport: usize,
    /// Where the packet ends by its own length; it may be cut off before.
    pub end: usize,
}

impl Outline {
    /// Of the packet in `frame`; `None` if it does not hold together.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ETHERNET_BYTES..)?;
        Some(Self::of_packet(packet)?.moved(ETHERNET_BYTES))
    }

    fn moved(self, by: usize) -> Self {
        Self { transport: self.transport + by, end: self.end + by, ..self }
    }

    /// Of the IP packet at the start of `packet`.
    pub fn of_packet(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                Some(Self {
                    src: Ipv4Addr::from_octets(*header[12..].first_chunk()?).into(),
                    dst: Ipv4Addr::from_octets(*header[16..].first_chunk()?).into(),
                    protocol: header[9],
                    transport: usize::from(header[0] & 15) * 4,
                    end: usize::from(word(packet, 2)?),
                })
            }
            6 => {
                let header: &[u8; 40] = packet.first_chunk()?;
                let (mut protocol, mut transport) = (header[6], 40);
                while let 0 | 43 | 51 | 60 = protocol {
                    let units = usize::from(*packet.get(transport + 1)?);
                    let bytes = if protocol == 51 { (units + 2) * 4 } else { (units + 1) * 8 };
                    (protocol, transport) = (*packet.get(transport)?, transport + bytes);
                }
                Some(Self {
                    src: Ipv6Addr::from_octets(*header[8..].first_chunk()?).into(),
                    dst: Ipv6Addr::from_octets(*header[24..].first_chunk()?).into(),
                    protocol,
                    transport,
                    end: 40 + usize::from(word(packet, 4)?),
                })
            }
            _ => None,
        }
    }

    /// Where the quoted packet of an ICMP error starts.
    pub fn quotation(&self, bytes: &[u8]) -> Option<usize> {
        let kind = *bytes.get(self.transport)?;
        let is_error = match self.protocol {
            ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
            ICMPV6 => kind < 128,
            _ => false,
        };
        is_error.then_some(self.transport + 8)
    }
}

pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The IP destination.
pub fn destination(frame: &[u8]) -> Option<IpAddr> {
    Outline::of(frame).map(|outline| outline.dst)
}

/// A port (the identifier of an echo) that one side gave a conversation, and the one that stands for it in comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    pub protocol: u8,
    pub address: IpAddr,
    pub port: u16,
    pub stands_for: u16,
}

/// Where the port of `outline`'s source (or destination) stands in `bytes`, and the checksum that covers it.
pub fn port_at(bytes: &[u8], outline: &Outline, is_source: bool) -> Option<usize> {
    let at = match outline.protocol {
        TCP | UDP => outline.transport + if is_source { 0 } else { 2 },
        ICMP | ICMPV6 => {
            let kind = *bytes.get(outline.transport)?;
            let is_request = matches!((outline.protocol, kind), (ICMP, 8) | (ICMPV6, 128));
            let is_reply = matches!((outline.protocol, kind), (ICMP, 0) | (ICMPV6, 129));
            // The identifier is the port of whoever asks.
            if is_source && is_request || !is_source && is_reply {
                outline.transport + 4
            } else {
                return None;
            }
        }
        _ => return None,
    };
    word(bytes, at).map(|_| at)
}

/// The frame with every aliased port replaced and its checksums adjusted by the difference, so that a wrong one stays as
/// wrong as it is. Ports inside the quotation of an ICMP error count too.
pub fn with_aliases(frame: &[u8], aliases: &[Alias]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let Some(outer) = Outline::of(frame) else { return bytes };
    replace_ports(&mut bytes, &outer, aliases);
    if let Some(at) = outer.quotation(frame)
        && let Some(inner) = frame.get(at..).and_then(Outline::of_packet)
    {
        let changes = replace_ports(&mut bytes, &inner.moved(at), aliases);
        for (place, old, new) in changes {
            adjust(&mut bytes, outer.transport + 2, place, old, new);
        }
    }
    bytes
}

/// Replaces, and tells every word that changed: its place, what it was and what it is.
fn replace_ports(bytes: &mut [u8], outline: &Outline, aliases: &[Alias]) -> Vec<(usize, u16, u16)> {
    let mut changes = Vec::new();
    for is_source in [true, false] {
        let address = if is_source { outline.src } else { outline.dst };
        let Some(at) = port_at(bytes, outline, is_source) else { continue };
        let Some(old) = word(bytes, at) else { continue };
        let is_meant =
            |alias: &&Alias| alias.protocol == outline.protocol && alias.address == address && alias.port == old;
        let Some(alias) = aliases.iter().find(is_meant) else { continue };
        bytes[at..at + 2].copy_from_slice(&alias.stands_for.to_be_bytes());
        changes.push((at, old, alias.stands_for));
        let checksum_at =
            outline.transport + [(TCP, 16), (UDP, 6)].iter().find(|c| c.0 == outline.protocol).map_or(2, |c| c.1);
        if let Some(before) = word(bytes, checksum_at).filter(|sum| outline.protocol != UDP || *sum != 0) {
            adjust(bytes, checksum_at, at, old, alias.stands_for);
            changes.push((checksum_at, before, word(bytes, checksum_at).unwrap_or(before)));
        }
    }
    changes
}

/// The checksum at `checksum_at` after the word at `place` changed. At an odd distance the bytes change places.
fn adjust(bytes: &mut [u8], checksum_at: usize, place: usize, old: u16, new: u16) {
    let (old, new) = match (place + checksum_at) % 2 {
        0 => (old, new),
        _ => (old.swap_bytes(), new.swap_bytes()),
    };
    let sum = word(bytes, checksum_at).expect("a checksum");
    bytes[checksum_at..checksum_at + 2].copy_from_slice(&checksum::adjusted(sum, old, new).to_be_bytes());
}

/// Whether every checksum in the frame is right and every length fits; a fragment's transport is not looked at.
pub fn is_right(frame: &[u8]) -> bool {
    let Some(outline) = Outline::of(frame) else { return false };
    let packet = &frame[ETHERNET_BYTES..];
    if outline.end > frame.len() || outline.transport > outline.end {
        return false;
    }
    if outline.src.is_ipv4() && checksum::of(&[&frame[ETHERNET_BYTES..outline.transport]]) != 0 {
        return false;
    }
    if outline.src.is_ipv4() && word(packet, 6).is_some_and(|fragment| fragment & 0x3fff != 0) {
        return true;
    }
    let message = &frame[outline.transport..outline.end];
    let pseudo = || checksum::pseudo_header(outline.src, outline.dst, outline.protocol, message.len());
    match outline.protocol {
        ICMP => checksum::of(&[message]) == 0,
        UDP if outline.src.is_ipv4() && word(message, 6) == Some(0) => true,
        TCP | UDP | ICMPV6 => checksum::of(&[&pseudo(), message]) == 0,
        _ => true,
    }
}

/// A frame for people: one line.
pub fn shown(frame: &[u8]) -> String {
    let Some(outline) = Outline::of(frame) else { return format!("no IP packet, {} bytes", frame.len()) };
    let packet = &frame[ETHERNET_BYTES..];
    let ttl = packet[if outline.src.is_ipv4() { 8 } else { 7 }];
    let mut text = shown_packet(packet);
    text += &format!(", ttl {ttl}, {} bytes", frame.len());
    if let Some(at) = outline.quotation(frame) {
        let quoted = frame.get(at..).map(shown_packet).unwrap_or_default();
        text += &format!(", about [{quoted}]");
    }
    if !is_right(frame) {
        text += ", damaged";
    }
    text
}

fn shown_packet(packet: &[u8]) -> String {
    let Some(o) = Outline::of_packet(packet) else { return format!("no IP packet, {} bytes", packet.len()) };
    let port = |at: usize| word(packet, o.transport + at).map_or("?".to_owned(), |port| port.to_string());
    let long = |at: usize| {
        packet.get(o.transport + at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
    };
    match o.protocol {
        TCP => {
            let bits = packet.get(o.transport + 13).copied().unwrap_or(0);
            let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
            let flags: Vec<&str> = (0..6).filter(|bit| bits >> bit & 1 == 1).map(|bit| names[bit]).collect();
            let data = packet.get(o.transport + 12).map_or(0, |offset| usize::from(offset >> 4) * 4);
            let payload = o.end.saturating_sub(o.transport + data);
            format!(
                "TCP {}:{} > {}:{} {} seq {} ack {} win {} len {payload}",
                o.src,
                port(0),
                o.dst,
                port(2),
                flags.join("+"),
                long(4),
                long(8),
                port(14)
            )
        }
        UDP => format!("UDP {}:{} > {}:{} len {}", o.src, port(0), o.dst, port(2), o.end.saturating_sub(o.transport)),
        ICMP | ICMPV6 => {
            let byte = |at: usize| packet.get(o.transport + at).copied().unwrap_or(0);
            format!("ICMP {} > {} type {} code {} id {}", o.src, o.dst, byte(0), byte(1), port(4))
        }
        other => format!("protocol {other} {} > {}", o.src, o.dst),
    }
}

/// Bytes as text, for `xxd -r -p`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
