//! Frames for tests, by hand: as short as a parser needs, both families alike.

use std::net::IpAddr;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// A packet to be, described.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) dst_mac: [u8; 6],
    pub(super) src_mac: [u8; 6],
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    /// From the transport header on.
    pub(super) payload: Vec<u8>,
    /// Identifier, offset in units of 8 bytes, more to come.
    pub(super) fragment: Option<(u16, u16, bool)>,
    /// IPv4: options of this many words. IPv6: destination options of 8 bytes, this many headers.
    pub(super) options: u8,
}

impl Frame {
    pub(super) fn new(src: &str, dst: &str, protocol: u8, payload: Vec<u8>) -> Self {
        let (src, dst) = (src.parse().expect("an address"), dst.parse().expect("an address"));
        Self { dst_mac: [0; 6], src_mac: [2, 0, 0, 0, 0, 9], src, dst, protocol, payload, fragment: None, options: 0 }
    }

    pub(super) fn ports(src: &str, dst: &str, protocol: u8, src_port: u16, dst_port: u16) -> Self {
        let mut payload = [src_port.to_be_bytes(), dst_port.to_be_bytes()].concat();
        payload.resize(20, 0);
        Self::new(src, dst, protocol, payload)
    }

    pub(super) fn echo(src: &str, dst: &str, request: bool, identifier: u16) -> Self {
        let v4 = src.parse::<IpAddr>().expect("an address").is_ipv4();
        let kind = match (v4, request) {
            (true, true) => 8,
            (true, false) => 0,
            (false, true) => 128,
            (false, false) => 129,
        };
        let identifier = identifier.to_be_bytes();
        let payload = vec![kind, 0, 0, 0, identifier[0], identifier[1], 0, 1];
        Self::new(src, dst, if v4 { 1 } else { 58 }, payload)
    }

    /// An ICMP error of this type from `src` to `dst` that quotes a packet.
    pub(super) fn icmp_error(src: &str, dst: &str, kind: u8, quoted: &Self) -> Self {
        let payload = [vec![kind, 0, 0, 0, 0, 0, 0, 0], quoted.ip_bytes()].concat();
        Self::new(src, dst, if quoted.src.is_ipv4() { 1 } else { 58 }, payload)
    }

    pub(super) fn with_mac(mut self, mac: [u8; 6]) -> Self {
        self.dst_mac = mac;
        self
    }

    pub(super) fn fragment(mut self, id: u16, offset: u16, more: bool) -> Self {
        self.fragment = Some((id, offset, more));
        self
    }

    pub(super) fn options(mut self, count: u8) -> Self {
        self.options = count;
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let ethertype: u16 = if self.src.is_ipv4() { 0x0800 } else { 0x86dd };
        [&self.dst_mac[..], &self.src_mac, &ethertype.to_be_bytes(), &self.ip_bytes()].concat()
    }

    fn ip_bytes(&self) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src.octets(), dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.ipv6(src.octets(), dst.octets()),
            _ => panic!("two families in one packet"),
        }
    }

    fn ipv4(&self, src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
        let header = 20 + usize::from(self.options) * 4;
        let mut bytes = vec![0u8; header];
        bytes[0] = 0x40 | (header / 4) as u8;
        bytes[2..4].copy_from_slice(&((header + self.payload.len()) as u16).to_be_bytes());
        if let Some((id, offset, more)) = self.fragment {
            bytes[4..6].copy_from_slice(&id.to_be_bytes());
            bytes[6..8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
        }
        bytes[8] = 64;
        bytes[9] = self.protocol;
        bytes[12..16].copy_from_slice(&src);
        bytes[16..20].copy_from_slice(&dst);
        bytes[20..].fill(1); // no operation
        let checksum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        [bytes, self.payload.clone()].concat()
    }

    fn ipv6(&self, src: [u8; 16], dst: [u8; 16]) -> Vec<u8> {
        let mut kinds = vec![60u8; usize::from(self.options)];
        kinds.extend(self.fragment.map(|_| 44));
        kinds.push(self.protocol);
        let mut rest = Vec::new();
        for pair in kinds.windows(2) {
            match (pair[0], self.fragment) {
                (44, Some((id, offset, more))) => {
                    let word = offset << 3 | u16::from(more);
                    rest.extend([pair[1], 0]);
                    rest.extend(word.to_be_bytes());
                    rest.extend(u32::from(id).to_be_bytes());
                }
                _ => rest.extend([pair[1], 0, 1, 4, 0, 0, 0, 0]), // padding of 6 bytes
            }
        }
        rest.extend(&self.payload);
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend([kinds[0], 64]);
        bytes.extend(src);
        bytes.extend(dst);
        bytes.extend(rest);
        bytes
    }
}

/// RFC 1071.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
