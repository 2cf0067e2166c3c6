//! Packets as the generator thinks of them, and the frames that they make.

use std::net::IpAddr;

use super::checksum;
use super::cluster::Mac;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// One packet, right unless told otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub class: u8,
    /// IPv4.
    pub identification: u16,
    /// IPv4: flags and fragment offset.
    pub fragment: u16,
    /// IPv4: a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6.
    pub flow_label: u32,
    /// IPv6.
    pub extensions: Vec<Extension>,
    pub layer4: Layer4,
    /// Bytes of the frame behind the packet.
    pub padding: usize,
}

/// An IPv6 extension header: its number, and its body without the next header.
pub type Extension = (u8, Vec<u8>);

/// What follows the IP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer4 {
    Tcp(Segment),
    Udp {
        src_port: u16,
        dst_port: u16,
        has_checksum: bool,
        payload: Vec<u8>,
    },
    /// Echo and errors of either family.
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
        body: Vec<u8>,
    },
    /// Any other protocol.
    Other {
        protocol: u8,
        bytes: Vec<u8>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Layer4 {
    pub fn udp(src_port: u16, dst_port: u16, payload: Vec<u8>) -> Self {
        Self::Udp { src_port, dst_port, has_checksum: true, payload }
    }

    /// An echo request or its reply.
    pub fn echo(is_ipv4: bool, is_request: bool, identifier: u16, sequence: u16, body: Vec<u8>) -> Self {
        let kind = match (is_ipv4, is_request) {
            (true, true) => 8,
            (true, false) => 0,
            (false, true) => 128,
            (false, false) => 129,
        };
        let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
        Self::Icmp { kind, code: 0, rest: [a, b, c, d], body }
    }

    fn protocol(&self, is_ipv4: bool) -> u8 {
        match self {
            Self::Tcp(_) => TCP,
            Self::Udp { .. } => UDP,
            Self::Icmp { .. } if is_ipv4 => ICMP,
            Self::Icmp { .. } => ICMPV6,
            Self::Other { protocol, .. } => *protocol,
        }
    }

    /// The bytes, with 0 for a checksum, and where that stands.
    fn bytes(&self) -> (Vec<u8>, Option<usize>) {
        match self {
            Self::Tcp(segment) => {
                let mut bytes = Vec::new();
                bytes.extend(segment.src_port.to_be_bytes());
                bytes.extend(segment.dst_port.to_be_bytes());
                bytes.extend(segment.seq.to_be_bytes());
                bytes.extend(segment.ack.to_be_bytes());
                bytes.push(((20 + segment.options.len()) / 4 * 16) as u8);
                bytes.push(segment.flags);
                bytes.extend(segment.window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(&segment.options);
                bytes.extend(&segment.payload);
                (bytes, Some(16))
            }
            Self::Udp { src_port, dst_port, has_checksum, payload } => {
                let mut bytes = Vec::new();
                bytes.extend(src_port.to_be_bytes());
                bytes.extend(dst_port.to_be_bytes());
                bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
                bytes.extend([0; 2]);
                bytes.extend(payload);
                (bytes, has_checksum.then_some(6))
            }
            Self::Icmp { kind, code, rest, body } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                bytes.extend(body);
                (bytes, Some(2))
            }
            Self::Other { bytes, .. } => (bytes.clone(), None),
        }
    }
}

impl Packet {
    pub fn new(src: IpAddr, dst: IpAddr, layer4: Layer4) -> Self {
        Self {
            src,
            dst,
            ttl: 64,
            class: 0,
            identification: 1,
            fragment: 0,
            options: Vec::new(),
            flow_label: 0,
            extensions: Vec::new(),
            layer4,
            padding: 0,
        }
    }

    /// The frame from `source` to `destination`.
    pub fn build(&self, destination: Mac, source: Mac) -> Vec<u8> {
        let mut frame = [destination, source].concat();
        let is_ipv4 = self.src.is_ipv4();
        let protocol = self.layer4.protocol(is_ipv4);
        let (mut message, checksum_at) = self.layer4.bytes();
        if let Some(at) = checksum_at {
            let pseudo = match protocol {
                ICMP => Vec::new(),
                _ => checksum::pseudo_header(self.src, self.dst, protocol, message.len()),
            };
            let mut sum = checksum::of(&[&pseudo, &message]);
            if protocol == UDP && sum == 0 {
                sum = 0xffff;
            }
            message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend([0x08, 0x00]);
                let header_bytes = 20 + self.options.len();
                let mut header = vec![0x40 | (header_bytes / 4) as u8, self.class];
                header.extend(((header_bytes + message.len()) as u16).to_be_bytes());
                header.extend(self.identification.to_be_bytes());
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.ttl, protocol, 0, 0]);
                header.extend(src.octets());
                header.extend(dst.octets());
                header.extend(&self.options);
                let sum = checksum::of(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend([0x86, 0xdd]);
                let extensions: usize = self.extensions.iter().map(|(_, body)| 1 + body.len()).sum();
                let first = 6 << 28 | u32::from(self.class) << 20 | self.flow_label & 0xf_ffff;
                frame.extend(first.to_be_bytes());
                frame.extend(((extensions + message.len()) as u16).to_be_bytes());
                frame.extend([self.extensions.first().map_or(protocol, |(number, _)| *number), self.ttl]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                for (at, (_, body)) in self.extensions.iter().enumerate() {
                    frame.push(self.extensions.get(at + 1).map_or(protocol, |(number, _)| *number));
                    frame.extend(body);
                }
            }
            _ => panic!("two families in one packet"),
        }
        frame.extend(message);
        frame.extend(vec![0; self.padding]);
        frame
    }
}
