//! Where the headers of a frame stand, found leniently, and how to make its lengths and checksums right. This is for
//! making packets; what leaves is judged by [`super::oracle`], which does not use it.

const ETHERNET: usize = 14;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// Offsets from the start of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    pub is_ipv6: bool,
    pub transport: usize,
    pub protocol: u8,
    /// Part of a datagram, so its transport checksum cannot be told.
    is_fragment: bool,
}

impl Layers {
    /// `None`: not IP, or cut off before its transport header.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET..)?;
        match (frame.get(12..14)?, ip.first()? >> 4) {
            ([0x08, 0x00], 4) => {
                let transport = ETHERNET + usize::from(ip[0] & 15) * 4;
                let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff;
                let found = Self { is_ipv6: false, transport, protocol: *ip.get(9)?, is_fragment: fragment != 0 };
                (transport >= ETHERNET + 20 && transport <= frame.len()).then_some(found)
            }
            ([0x86, 0xdd], 6) => Self::of_ipv6(frame, *ip.get(6)?),
            _ => None,
        }
    }

    fn of_ipv6(frame: &[u8], mut protocol: u8) -> Option<Self> {
        let (mut transport, mut is_fragment) = (ETHERNET + 40, false);
        // Hop-by-hop, routing, fragment, authentication, destination options.
        while matches!(protocol, 0 | 43 | 44 | 51 | 60) {
            let header = frame.get(transport..transport + 8)?;
            let units = usize::from(header[1]);
            transport += match protocol {
                44 => {
                    is_fragment |= u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0;
                    8
                }
                51 => (units + 2) * 4,
                _ => (units + 1) * 8,
            };
            protocol = header[0];
        }
        (transport <= frame.len()).then_some(Self { is_ipv6: true, transport, protocol, is_fragment })
    }

    /// The addresses, source first.
    pub fn addresses(&self) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        if self.is_ipv6 { (22..38, 38..54) } else { (26..30, 30..34) }
    }

    /// Where the transport checksum stands.
    fn checksum(&self) -> Option<usize> {
        let at = match self.protocol {
            TCP => 16,
            UDP => 6,
            ICMP | ICMPV6 => 2,
            _ => return None,
        };
        Some(self.transport + at)
    }
}

/// Makes lengths and checksums right, as far as there is room for them: mutations then get past the parser.
pub fn mend(frame: &mut [u8]) {
    let len = frame.len();
    if len < ETHERNET + 20 {
        return;
    }
    if frame[12..14] == [0x86, 0xdd] && len >= ETHERNET + 40 {
        put(frame, 18, len - ETHERNET - 40);
    } else if frame[12..14] == [0x08, 0x00] {
        put(frame, 16, len - ETHERNET);
    }
    let Some(layers) = Layers::of(frame) else { return };
    if !layers.is_ipv6 {
        put(frame, 24, 0);
        let sum = !fold(sum(&frame[ETHERNET..layers.transport]));
        put(frame, 24, usize::from(sum));
    }
    if !layers.is_fragment {
        mend_transport(frame, &layers);
    }
}

fn mend_transport(frame: &mut [u8], layers: &Layers) {
    let bytes = frame.len() - layers.transport;
    if layers.protocol == SCTP && bytes >= 12 {
        crate::lab::sctp::mend(&mut frame[layers.transport..]);
    }
    let Some(checksum) = layers.checksum().filter(|at| at + 2 <= frame.len()) else { return };
    if layers.protocol == UDP {
        put(frame, layers.transport + 4, bytes);
    }
    put(frame, checksum, 0);
    let (from, to) = layers.addresses();
    let pseudo = sum(&frame[from]) + sum(&frame[to]) + u64::from(layers.protocol) + bytes as u64;
    let pseudo = if layers.protocol == ICMP { 0 } else { pseudo };
    let sum = !fold(sum(&frame[layers.transport..]) + pseudo);
    let sum = if sum == 0 && layers.protocol == UDP { 0xffff } else { sum };
    put(frame, checksum, usize::from(sum));
}

fn put(frame: &mut [u8], at: usize, value: usize) {
    frame[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

/// The 16-bit words of `bytes` added up, an odd last byte as the upper half of one.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
