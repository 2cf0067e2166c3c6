//! Packets in tests: built with etherparse, read back with etherparse, and every checksum verified by it.

use std::net::IpAddr;

use atalho_engine::next_hops::Mac;
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, NetSlice,
    PacketBuilder, SlicedPacket, TransportSlice,
};

use super::sctp;

/// What is behind the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer4 {
    /// These flags (FIN 1, SYN 2, RST 4, PSH 8, ACK 16).
    Tcp(u8),
    Udp,
    EchoRequest(u16),
    EchoReply(u16),
    /// With one chunk of this type, see [`super::sctp`].
    Sctp(u8),
}

/// What every packet with the flag ACK acknowledges unless it says otherwise.
pub const ACKNOWLEDGED: u32 = FIRST_SEQUENCE + 1;

/// Where both sides of every connection begin to count.
pub const FIRST_SEQUENCE: u32 = 0x0102_0304;

pub const SYN: Layer4 = Layer4::Tcp(2);
pub const SYN_ACK: Layer4 = Layer4::Tcp(18);
pub const ACK: Layer4 = Layer4::Tcp(16);

/// A packet to be built. Ports of an echo are not on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    pub layer4: Layer4,
    pub ttl: u8,
    pub payload: Vec<u8>,
    pub options: Vec<u8>,
    pub dont_fragment: bool,
    /// TCP's, of the first byte.
    pub sequence: u32,
    /// TCP's, shown with the flag ACK.
    pub acknowledgment: u32,
    /// TCP's, before scaling.
    pub window: u16,
}

impl Packet {
    pub fn new(src: (IpAddr, u16), layer4: Layer4, dst: (IpAddr, u16)) -> Self {
        Self {
            src,
            dst,
            layer4,
            ttl: 64,
            payload: b"a payload of odd length".to_vec(),
            options: vec![],
            dont_fragment: true,
            sequence: FIRST_SEQUENCE,
            acknowledgment: ACKNOWLEDGED,
            window: 0xff00,
        }
    }

    pub fn tcp(src: (IpAddr, u16), flags: Layer4, dst: (IpAddr, u16)) -> Self {
        Self::new(src, flags, dst)
    }

    pub fn udp(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        Self::new(src, Layer4::Udp, dst)
    }

    pub fn echo(src: IpAddr, layer4: Layer4, dst: IpAddr) -> Self {
        Self::new((src, 0), layer4, (dst, 0))
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn sequence(mut self, sequence: u32) -> Self {
        self.sequence = sequence;
        self
    }

    pub fn acknowledges(mut self, acknowledgment: u32) -> Self {
        self.acknowledgment = acknowledgment;
        self
    }

    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// IPv4 options, a multiple of four bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// The packet in a frame.
    pub fn build(&self) -> Vec<u8> {
        let ip = match (self.src.0, self.dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = Ipv4Header::new(0, self.ttl, IpNumber::UDP, src.octets(), dst.octets()).unwrap();
                header.options = Ipv4Options::try_from(&self.options[..]).unwrap();
                header.identification = 0x1234;
                header.dont_fragment = self.dont_fragment;
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => IpHeaders::Ipv6(
                Ipv6Header {
                    traffic_class: 0xb8,
                    flow_label: Ipv6FlowLabel::try_new(0x54321).unwrap(),
                    payload_length: 0,
                    next_header: IpNumber::UDP,
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                },
                Default::default(),
            ),
            _ => panic!("one family only"),
        };
        let builder = PacketBuilder::ethernet2([0x0a, 9, 9, 9, 9, 9], [0x0a, 8, 8, 8, 8, 8]).ip(ip);
        let mut frame = Vec::new();
        match self.layer4 {
            Layer4::Tcp(flags) => {
                let mut tcp = builder.tcp(self.src.1, self.dst.1, self.sequence, self.window);
                if flags & 1 != 0 {
                    tcp = tcp.fin();
                }
                if flags & 2 != 0 {
                    tcp = tcp.syn().options_raw(&[3, 3, 7, 0]).unwrap();
                }
                if flags & 4 != 0 {
                    tcp = tcp.rst();
                }
                if flags & 8 != 0 {
                    tcp = tcp.psh();
                }
                if flags & 16 != 0 {
                    tcp = tcp.ack(self.acknowledgment);
                }
                tcp.write(&mut frame, &self.payload).unwrap();
            }
            Layer4::Udp => builder.udp(self.src.1, self.dst.1).write(&mut frame, &self.payload).unwrap(),
            Layer4::EchoRequest(id) if self.src.0.is_ipv4() => {
                builder.icmpv4_echo_request(id, 5).write(&mut frame, &self.payload).unwrap();
            }
            Layer4::EchoReply(id) if self.src.0.is_ipv4() => {
                builder.icmpv4_echo_reply(id, 5).write(&mut frame, &self.payload).unwrap();
            }
            Layer4::Sctp(chunk) => {
                let packet = sctp::build(self.src.1, self.dst.1, chunk, &self.payload);
                builder.write(&mut frame, IpNumber::SCTP, &packet).unwrap();
            }
            Layer4::EchoRequest(id) => builder.icmpv6_echo_request(id, 5).write(&mut frame, &self.payload).unwrap(),
            Layer4::EchoReply(id) => builder.icmpv6_echo_reply(id, 5).write(&mut frame, &self.payload).unwrap(),
        }
        frame
    }

    /// An ICMP error about this packet, sent by `from` to its source: port unreachable, quoting 576 bytes at most.
    pub fn unreachable(&self, from: IpAddr) -> Vec<u8> {
        let quoted = &self.build()[14..];
        let quoted = &quoted[..quoted.len().min(548)];
        let macs = PacketBuilder::ethernet2([0x0a, 9, 9, 9, 9, 9], [0x0a, 8, 8, 8, 8, 8]);
        let mut frame = Vec::new();
        match (from, self.src.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => macs
                .ipv4(from.octets(), to.octets(), 64)
                .icmpv4(Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port))
                .write(&mut frame, quoted)
                .unwrap(),
            (IpAddr::V6(from), IpAddr::V6(to)) => macs
                .ipv6(from.octets(), to.octets(), 64)
                .icmpv6(Icmpv6Type::DestinationUnreachable(etherparse::icmpv6::DestUnreachableCode::Port))
                .write(&mut frame, quoted)
                .unwrap(),
            _ => panic!("one family only"),
        }
        frame
    }
}

/// A packet as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    /// `None`: an ICMP error, quoted in `payload`.
    pub layer4: Option<Layer4>,
    pub ttl: u8,
    pub payload: Vec<u8>,
    pub options: Vec<u8>,
}

impl Seen {
    pub fn of(packet: &Packet) -> Self {
        Self {
            src: packet.src,
            dst: packet.dst,
            layer4: Some(packet.layer4),
            ttl: packet.ttl,
            payload: packet.payload.clone(),
            options: packet.options.clone(),
        }
    }
}

/// Reads a frame to its last byte and checks every length and checksum.
#[track_caller]
pub fn verify(frame: &[u8]) -> Seen {
    verify_packet(&SlicedPacket::from_ethernet(frame).expect("a frame that parses"), frame.len() - 14)
}

/// The same for an IP packet that may be cut off, as in a quotation: ports and addresses alone.
#[track_caller]
pub fn read_quoted(packet: &[u8]) -> ((IpAddr, u16), (IpAddr, u16)) {
    let is_v4 = packet[0] >> 4 == 4;
    let header = if is_v4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if is_v4 {
        let (ip, _) = Ipv4Header::from_slice(packet).unwrap();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "checksum of the quoted header");
        ((IpAddr::from(ip.source), port(header)), (IpAddr::from(ip.destination), port(header + 2)))
    } else {
        let (ip, _) = Ipv6Header::from_slice(packet).unwrap();
        ((IpAddr::from(ip.source), port(header)), (IpAddr::from(ip.destination), port(header + 2)))
    }
}

#[track_caller]
fn verify_packet(packet: &SlicedPacket<'_>, ip_bytes: usize) -> Seen {
    let (src, dst, ttl, options) = match packet.net.as_ref().expect("an IP packet") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            // Over the bytes as they stand: the reserved bit has no place in the parsed header.
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(ip.header().slice()).ones_complement();
            assert_eq!(sum, 0, "IPv4 header checksum");
            assert_eq!(usize::from(header.total_len), ip_bytes, "total length");
            (header.source.into(), header.destination.into(), header.time_to_live, header.options.to_vec())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 40, ip_bytes, "payload length");
            (header.source.into(), header.destination.into(), header.hop_limit, vec![])
        }
        other => panic!("not IP: {other:?}"),
    };
    let (src, dst): (IpAddr, IpAddr) = (src, dst);
    let Some(transport) = packet.transport.as_ref() else {
        let payload = packet.ip_payload().expect("an IP packet");
        assert_eq!(payload.ip_number, IpNumber::SCTP, "a transport header");
        let (src_port, dst_port, chunk, payload) = sctp::verify(payload.payload);
        let layer4 = Some(Layer4::Sctp(chunk));
        return Seen { src: (src, src_port), dst: (dst, dst_port), layer4, ttl, payload, options };
    };
    let (ports, layer4, payload) = match transport {
        TransportSlice::Tcp(tcp) => {
            let sum = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => tcp.calc_checksum_ipv4(s.octets(), d.octets()).unwrap(),
                (IpAddr::V6(s), IpAddr::V6(d)) => tcp.calc_checksum_ipv6(s.octets(), d.octets()).unwrap(),
                _ => unreachable!(),
            };
            assert_eq!(tcp.checksum(), sum, "TCP checksum");
            let flags = u8::from(tcp.fin())
                | u8::from(tcp.syn()) << 1
                | u8::from(tcp.rst()) << 2
                | u8::from(tcp.psh()) << 3
                | u8::from(tcp.ack()) << 4;
            ((tcp.source_port(), tcp.destination_port()), Some(Layer4::Tcp(flags)), tcp.payload().to_vec())
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let sum = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => {
                    header.calc_checksum_ipv4_raw(s.octets(), d.octets(), udp.payload()).unwrap()
                }
                (IpAddr::V6(s), IpAddr::V6(d)) => {
                    header.calc_checksum_ipv6_raw(s.octets(), d.octets(), udp.payload()).unwrap()
                }
                _ => unreachable!(),
            };
            let has_none = header.checksum == 0 && src.is_ipv4();
            assert!(has_none || header.checksum == sum, "UDP checksum");
            ((udp.source_port(), udp.destination_port()), Some(Layer4::Udp), udp.payload().to_vec())
        }
        TransportSlice::Icmpv4(icmp) => {
            let kind = icmp.icmp_type();
            // As with the header: some bytes have no place in the parsed message.
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(icmp.slice()).ones_complement();
            assert_eq!(sum, 0, "ICMP checksum");
            let layer4 = match kind {
                Icmpv4Type::EchoRequest(echo) => Some(Layer4::EchoRequest(echo.id)),
                Icmpv4Type::EchoReply(echo) => Some(Layer4::EchoReply(echo.id)),
                _ => None,
            };
            ((0, 0), layer4, icmp.payload().to_vec())
        }
        TransportSlice::Icmpv6(icmp) => {
            let (IpAddr::V6(s), IpAddr::V6(d)) = (src, dst) else { unreachable!() };
            assert!(icmp.is_checksum_valid(s.octets(), d.octets()), "ICMPv6 checksum");
            let layer4 = match icmp.icmp_type() {
                Icmpv6Type::EchoRequest(echo) => Some(Layer4::EchoRequest(echo.id)),
                Icmpv6Type::EchoReply(echo) => Some(Layer4::EchoReply(echo.id)),
                _ => None,
            };
            ((0, 0), layer4, icmp.payload().to_vec())
        }
        other => panic!("not expected: {other:?}"),
    };
    Seen { src: (src, ports.0), dst: (dst, ports.1), layer4, ttl, payload, options }
}

/// The link addresses of a frame: destination, source.
pub fn macs(frame: &[u8]) -> (Mac, Mac) {
    (frame[..6].try_into().unwrap(), frame[6..12].try_into().unwrap())
}
