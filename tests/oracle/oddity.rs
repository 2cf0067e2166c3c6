//! What can be odd about a packet beside what it says: its headers, or a frame that was damaged on its way.

use super::frame::{ETHERNET_BYTES, Outline, word};
use super::packet::{Extension, Layer4, Packet, TCP, UDP};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Oddity {
    Ttl(u8),
    Class(u8),
    Identification(u16),
    ReservedFlag,
    DontFragment,
    FlowLabel(u32),
    Padding(usize),
    Options(&'static str, Vec<u8>),
    Extensions(&'static str, Vec<Extension>),
    /// Bits flipped in the IPv4 header's checksum.
    HeaderChecksum,
    /// The transport's checksum.
    TransportChecksum,
    /// A byte of the payload flipped.
    Payload,
    /// The IP length, longer or shorter than what is there.
    IpLength(i16),
    /// The IPv4 header length in words.
    HeaderLength(u8),
    Version(u8),
    /// UDP's own length.
    UdpLength(i16),
    /// TCP's data offset in words.
    DataOffset(u8),
    /// The frame cut off after so many bytes behind the Ethernet header.
    Cut(usize),
    OtherProtocol(u8),
}

use Oddity::{
    Class, Cut, DataOffset, DontFragment, Extensions, FlowLabel, HeaderChecksum, HeaderLength, Identification,
    IpLength, Options, OtherProtocol, Padding, Payload, ReservedFlag, TransportChecksum, Ttl, UdpLength, Version,
};

/// One for a packet of the family.
pub fn draw(is_ipv4: bool, random: &mut fastrand::Rng) -> Oddity {
    let pick = |values: &[i16], random: &mut fastrand::Rng| values[random.usize(..values.len())];
    match random.u8(..20) {
        0..=2 => Ttl([0, 1, 1, 2, 255][random.usize(..5)]),
        3..=4 => Class(random.u8(..)),
        5 if is_ipv4 => Identification(random.u16(..)),
        5 => FlowLabel(random.u32(..)),
        6 if is_ipv4 => {
            if random.bool() {
                ReservedFlag
            } else {
                DontFragment
            }
        }
        6..=7 => Padding(random.usize(1..64)),
        8..=10 if is_ipv4 => options(random),
        8..=10 => extensions(random),
        11 if is_ipv4 => HeaderChecksum,
        12 => TransportChecksum,
        13 => Payload,
        14 => IpLength(pick(&[-1, -8, -20, -40, 1, 8, 500], random)),
        15 if is_ipv4 => HeaderLength(random.u8(..16)),
        15 => Version(random.u8(..16)),
        16 => UdpLength(pick(&[-20, -8, -1, 1, 8, 1000], random)),
        17 => DataOffset(random.u8(..16)),
        18 => Cut(random.usize(1..60)),
        _ => OtherProtocol([2, 4, 41, 47, 50, 59, 103, 136, 200, 253][random.usize(..10)]),
    }
}

fn options(random: &mut fastrand::Rng) -> Oddity {
    let all: [(&str, &[u8]); 11] = [
        ("no operation", &[1, 1, 1, 0]),
        ("end at once", &[0, 0, 0, 0]),
        ("router alert", &[148, 4, 0, 0]),
        ("record route", &[7, 7, 4, 0, 0, 0, 0, 0]),
        ("record route, full", &[7, 7, 8, 1, 2, 3, 4, 0]),
        ("timestamp", &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("security", &[130, 4, 0, 0]),
        ("unknown", &[0x5e, 4, 7, 7]),
        ("loose source route", &[131, 7, 4, 203, 0, 113, 9, 0]),
        ("strict source route", &[137, 7, 4, 203, 0, 113, 9, 0]),
        ("length beyond", &[0x5e, 40, 7, 7]),
    ];
    let (name, bytes) = all[random.usize(..all.len())];
    Options(name, bytes.to_vec())
}

fn extensions(random: &mut fastrand::Rng) -> Oddity {
    // Units of 8 bytes beyond the first, then padding (RFC 8200 section 4.2).
    let padded = || vec![0, 1, 4, 0, 0, 0, 0];
    let all: [(&str, Vec<Extension>); 10] = [
        ("hop-by-hop", vec![(0, padded())]),
        ("destination options", vec![(60, padded())]),
        ("hop-by-hop and destination", vec![(0, padded()), (60, padded())]),
        ("hop-by-hop late", vec![(60, padded()), (0, padded())]),
        ("routing type 0", vec![(43, [&[2, 0, 1, 0, 0, 0, 0], &[0; 16][..]].concat())]),
        ("routing, none left", vec![(43, [&[2, 0, 0, 0, 0, 0, 0], &[0; 16][..]].concat())]),
        ("authentication", vec![(51, [&[4, 0, 0][..], &[9; 20]].concat())]),
        ("length beyond", vec![(60, vec![200, 1, 4, 0, 0, 0, 0])]),
        ("an option to be discarded", vec![(60, vec![0, 0x80 | 0x1e, 4, 0, 0, 0, 0])]),
        ("many", vec![(60, padded()), (60, padded()), (60, padded()), (60, padded()), (60, padded()), (60, padded())]),
    ];
    let (name, headers) = all[random.usize(..all.len())].clone();
    Extensions(name, headers)
}

impl Oddity {
    /// What concerns the packet as its sender made it.
    pub fn change(&self, packet: &mut Packet) {
        match self {
            Ttl(ttl) => packet.ttl = *ttl,
            Class(class) => packet.class = *class,
            Identification(number) => packet.identification = *number,
            ReservedFlag => packet.fragment |= 0x8000,
            DontFragment => packet.fragment |= 0x4000,
            FlowLabel(label) => packet.flow_label = *label,
            Padding(bytes) => packet.padding = *bytes,
            Options(_, bytes) => packet.options.clone_from(bytes),
            Extensions(_, headers) => packet.extensions.clone_from(headers),
            OtherProtocol(protocol) => packet.layer4 = Layer4::Other { protocol: *protocol, bytes: vec![7; 24] },
            _ => {}
        }
    }

    /// What happens to its frame.
    pub fn damage(&self, frame: &mut Vec<u8>) {
        let Some(outline) = Outline::of(frame) else { return };
        let is_ipv4 = outline.src.is_ipv4();
        let shift = |frame: &mut [u8], at: usize, by: i16| {
            if let Some(old) = word(frame, at) {
                frame[at..at + 2].copy_from_slice(&old.wrapping_add_signed(by).to_be_bytes());
            }
        };
        match self {
            HeaderChecksum => frame[ETHERNET_BYTES + 10] ^= 0x5a,
            TransportChecksum => {
                let at = outline.transport
                    + [(TCP, 16), (UDP, 6)].iter().find(|c| c.0 == outline.protocol).map_or(2, |c| c.1);
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= 0x5a;
                }
            }
            Payload => {
                if let Some(last) = frame[outline.transport..].last_mut() {
                    *last ^= 0x5a;
                }
            }
            IpLength(by) => {
                shift(frame, ETHERNET_BYTES + if is_ipv4 { 2 } else { 4 }, *by);
                mend_header(frame);
            }
            HeaderLength(words) => {
                frame[ETHERNET_BYTES] = frame[ETHERNET_BYTES] & 0xf0 | words;
                mend_header(frame);
            }
            Version(version) => {
                frame[ETHERNET_BYTES] = frame[ETHERNET_BYTES] & 0x0f | version << 4;
            }
            UdpLength(by) if outline.protocol == UDP => shift(frame, outline.transport + 4, *by),
            DataOffset(words) if outline.protocol == TCP => {
                if let Some(byte) = frame.get_mut(outline.transport + 12) {
                    *byte = *byte & 0x0f | words << 4;
                }
            }
            Cut(bytes) => frame.truncate(ETHERNET_BYTES + bytes),
            _ => {}
        }
    }
}

/// A right checksum for an IPv4 header whose fields were changed, so that the field is what is judged.
fn mend_header(frame: &mut [u8]) {
    let packet = &mut frame[ETHERNET_BYTES..];
    if packet[0] >> 4 != 4 {
        return;
    }
    let header_bytes = usize::from(packet[0] & 15) * 4;
    if let Some(header) = packet.get_mut(..header_bytes.max(20)) {
        header[10..12].fill(0);
        let sum = super::checksum::of(&[header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}
