//! Frames that nobody should send: every kind of wrong, every length, the same ones for the same seed.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use etherparse::PacketBuilder;
use pnet_datalink::{Channel, MacAddr};

use crate::lab::paths::cluster_ip;
use crate::lab::plan::{Family, node_address, outside_address, pod_address, remote_pod_address};

/// Longest frame: an MTU of 1500 and the Ethernet header.
pub const FRAME_BYTES_MAX: usize = 1514;
const ETHERNET_BYTES: usize = 14;

/// What a frame is addressed to and comes from; both families of each.
#[derive(Debug, Clone)]
pub struct Aim {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    pub sources: Vec<IpAddr>,
    pub destinations: Vec<IpAddr>,
    /// Ports that Services and servers use, so that some frames meet something.
    pub ports: Vec<u16>,
}

/// Sends junk out of an interface, past the namespace's own stack.
pub struct Sender<'a> {
    pub interface: &'a str,
    /// The next hop.
    pub to: MacAddr,
    pub sources: Vec<IpAddr>,
}

impl Sender<'_> {
    /// Sends `count` frames and returns how many the kernel took: it refuses what a full queue has no room for.
    pub fn send(&self, count: u64, seed: u64) -> Result<u64> {
        let interface = pnet_datalink::interfaces().into_iter().find(|interface| interface.name == self.interface);
        let interface = interface.with_context(|| format!("no interface {}", self.interface))?;
        let Channel::Ethernet(mut sender, _receiver) =
            pnet_datalink::channel(&interface, pnet_datalink::Config::default())
                .with_context(|| format!("cannot open {} for sending", self.interface))?
        else {
            bail!("{} is no Ethernet interface", self.interface);
        };
        let own = interface.mac.with_context(|| format!("{} has no MAC address", self.interface))?;
        let mut junk = Junk::new(self.aim(own), seed);
        let mut taken = 0;
        for _ in 0..count {
            if matches!(sender.send_to(&junk.frame(), None), Some(Ok(()))) {
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// At everything that a lab has: Services, an unallocated address, pods, the node, hosts outside.
    fn aim(&self, own: MacAddr) -> Aim {
        let mut destinations = Vec::new();
        for family in Family::BOTH {
            destinations.extend([10, 20, 30, 40, 50, 60, 77].map(|last| cluster_ip(last, family)));
            destinations.extend([pod_address(1, family), pod_address(3, family), remote_pod_address(1, family)]);
            destinations.extend([node_address(family), outside_address(family)]);
        }
        Aim {
            destination_mac: self.to.octets(),
            source_mac: own.octets(),
            sources: self.sources.clone(),
            destinations,
            ports: vec![80, 443, 53, 8080, 5353, 30080, 30053, 7000],
        }
    }
}

/// An endless source of junk.
pub struct Junk {
    aim: Aim,
    state: u64,
}

impl Junk {
    pub fn new(aim: Aim, seed: u64) -> Self {
        Self { aim, state: seed }
    }

    /// The next frame, 14 to 1514 bytes.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self.below(14) {
            0 => self.noise(),
            1 => self.well_formed(),
            2 => self.flipped(),
            3 => self.cut_short(),
            4 => self.lying_lengths(),
            5 => self.tagged(),
            6 => self.options(),
            7 => self.fragment(),
            8 => self.extension_headers(),
            9 => self.icmp_error(),
            10 => self.strange_tcp(),
            11 => self.time_to_live(),
            12 => self.strange_address(),
            _ => self.other_protocol(),
        };
        // Frames keep their addresses: the question is what the dataplane does, not what a NIC filters.
        frame.resize(frame.len().clamp(ETHERNET_BYTES, FRAME_BYTES_MAX), 0);
        frame[..6].copy_from_slice(&self.aim.destination_mac);
        frame[6..12].copy_from_slice(&self.aim.source_mac);
        frame
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn port(&mut self) -> u16 {
        if self.below(4) == 0 {
            return self.next() as u16;
        }
        let index = self.below(self.aim.ports.len());
        self.aim.ports[index]
    }

    /// A source and a destination of one family; now and then a source that is anybody's.
    fn addresses(&mut self) -> (IpAddr, IpAddr) {
        let index = self.below(self.aim.destinations.len());
        let destination = self.aim.destinations[index];
        if self.below(8) == 0 {
            let random = self.next();
            let source = match destination {
                IpAddr::V4(_) => IpAddr::from((random as u32).to_be_bytes()),
                IpAddr::V6(_) => IpAddr::from((0xfd00_u128 << 112 | u128::from(random)).to_be_bytes()),
            };
            return (source, destination);
        }
        loop {
            let index = self.below(self.aim.sources.len());
            let source = self.aim.sources[index];
            if source.is_ipv4() == destination.is_ipv4() {
                return (source, destination);
            }
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        let length = match self.below(4) {
            0 => 0,
            1 => self.below(64),
            _ => self.below(1400),
        };
        (0..length).map(|_| self.byte()).collect()
    }

    /// A frame with nothing wrong: UDP, a TCP SYN, or an echo request.
    fn well_formed(&mut self) -> Vec<u8> {
        let (source, destination) = self.addresses();
        let (from, to, payload) = (self.port(), self.port(), self.payload());
        let ethernet = PacketBuilder::ethernet2(self.aim.source_mac, self.aim.destination_mac);
        let ip = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => ethernet.ipv4(source.octets(), destination.octets(), 64),
            (IpAddr::V6(source), IpAddr::V6(destination)) => ethernet.ipv6(source.octets(), destination.octets(), 64),
            _ => return self.noise(),
        };
        let mut frame = Vec::new();
        let written = match self.below(3) {
            0 => ip.udp(from, to).write(&mut frame, &payload),
            1 => ip.tcp(from, to, self.next() as u32, 1024).syn().write(&mut frame, &payload),
            _ if source.is_ipv4() => ip.icmpv4_echo_request(from, to).write(&mut frame, &payload),
            _ => ip.icmpv6_echo_request(from, to).write(&mut frame, &payload),
        };
        // What etherparse would not write is junk of its own kind.
        if written.is_ok() { frame } else { self.noise() }
    }

    fn noise(&mut self) -> Vec<u8> {
        let length = ETHERNET_BYTES + self.below(FRAME_BYTES_MAX - ETHERNET_BYTES + 1);
        let mut frame: Vec<u8> = (0..length).map(|_| self.byte()).collect();
        let kind: [u8; 2] = [[0x08, 0x00], [0x86, 0xdd], [self.byte(), self.byte()]][self.below(3)];
        frame[12..14].copy_from_slice(&kind);
        frame
    }

    fn flipped(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        for _ in 0..=self.below(8) {
            let at = ETHERNET_BYTES + self.below((frame.len() - ETHERNET_BYTES).clamp(1, 60));
            if let Some(byte) = frame.get_mut(at) {
                *byte ^= 1 << (self.state % 8);
            }
        }
        frame
    }

    fn cut_short(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        frame.truncate(self.below(frame.len()));
        frame
    }

    fn lying_lengths(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        let lie = (self.next() as u16).to_be_bytes();
        let at = match (is_v4(&frame), self.below(2)) {
            (true, 0) => 16,
            (true, _) => 38,
            (false, 0) => 18,
            (false, _) => 58,
        };
        if let Some(field) = frame.get_mut(at..at + 2) {
            field.copy_from_slice(&lie);
        }
        if is_v4(&frame) && at == 16 {
            finish_v4(&mut frame);
        }
        frame
    }

    fn tagged(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        for _ in 0..=self.below(2) {
            let kind = [[0x81, 0x00], [0x88, 0xa8]][self.below(2)];
            let tag = [kind[0], kind[1], self.byte(), self.byte()];
            frame.splice(12..12, tag);
        }
        frame
    }

    /// IPv4 options of any content, in a header of any length.
    fn options(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        if !is_v4(&frame) {
            return self.extension_headers();
        }
        let words = self.below(11);
        frame[14] = 0x40 | (5 + words as u8);
        let options: Vec<u8> = (0..words * 4).map(|_| [0, 1, 7, 68, 131, 137, self.byte()][self.below(7)]).collect();
        frame.splice(34..34, options);
        let total = (frame.len() - ETHERNET_BYTES) as u16;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        finish_v4(&mut frame);
        frame
    }

    fn fragment(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        let field = (self.next() as u16 & 0x3fff).to_be_bytes();
        if is_v4(&frame) {
            frame[20..22].copy_from_slice(&field);
            finish_v4(&mut frame);
            return frame;
        }
        let header = [frame[20], self.byte(), field[0], field[1], 0, 0, 0, self.byte()];
        frame[20] = 44;
        frame.splice(54..54, header);
        finish_v6(&mut frame);
        frame
    }

    /// A chain of IPv6 extension headers in any order.
    fn extension_headers(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        if is_v4(&frame) {
            return self.fragment();
        }
        for _ in 0..=self.below(12) {
            let kind = [0, 43, 44, 51, 60, 135, 139, 50][self.below(8)];
            let units = if kind == 44 { 0 } else { self.below(3) };
            let mut header: Vec<u8> = (0..8 + units * 8).map(|_| self.byte()).collect();
            (header[0], header[1]) = (frame[20], units as u8);
            frame[20] = kind;
            frame.splice(54..54, header);
        }
        finish_v6(&mut frame);
        frame
    }

    /// An ICMP error that quotes a packet nobody sent, or half of one.
    fn icmp_error(&mut self) -> Vec<u8> {
        let quoted = self.well_formed();
        let mut frame = self.well_formed();
        let v4 = is_v4(&frame);
        let (protocol_at, start) = if v4 { (23, 34) } else { (20, 54) };
        frame[protocol_at] = if v4 { 1 } else { 58 };
        frame.truncate(start);
        let kind = if v4 { [3, 4, 5, 11, 12][self.below(5)] } else { [1, 2, 3, 4, 137][self.below(5)] };
        frame.extend([kind, self.byte() % 8, self.byte(), self.byte(), 0, 0, 0, 0]);
        let cut = self.below(quoted.len() - ETHERNET_BYTES + 1);
        frame.extend(&quoted[ETHERNET_BYTES..ETHERNET_BYTES + cut]);
        if v4 {
            let total = (frame.len() - ETHERNET_BYTES) as u16;
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            finish_v4(&mut frame);
        } else {
            finish_v6(&mut frame);
        }
        frame
    }

    /// Every combination of flags, header lengths included.
    fn strange_tcp(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        let (protocol_at, start) = if is_v4(&frame) { (23, 34) } else { (20, 54) };
        frame[protocol_at] = 6;
        let (offset, flags) = (self.byte(), self.byte());
        if frame.len() > start + 13 {
            frame[start + 12] = offset;
            frame[start + 13] = flags;
        }
        if is_v4(&frame) {
            finish_v4(&mut frame);
        }
        frame
    }

    fn time_to_live(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        let left = self.below(3) as u8;
        let at = if is_v4(&frame) { 22 } else { 21 };
        frame[at] = left;
        if is_v4(&frame) {
            finish_v4(&mut frame);
        }
        frame
    }

    /// To or from an address that no packet on a wire should bear.
    fn strange_address(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        if is_v4(&frame) {
            let address =
                [[127, 0, 0, 1], [0; 4], [255; 4], [224, 0, 0, 1], [169, 254, 1, 1], [10, 96, 200, 200]][self.below(6)];
            let at = [26, 30][self.below(2)];
            frame[at..at + 4].copy_from_slice(&address);
            finish_v4(&mut frame);
        } else {
            let first = [[0, 0], [0xff, 2], [0xfe, 0x80], [0xfd, 0]][self.below(4)];
            let at = [22, 38][self.below(2)];
            frame[at..at + 2].copy_from_slice(&first);
        }
        frame
    }

    fn other_protocol(&mut self) -> Vec<u8> {
        let mut frame = self.well_formed();
        if self.below(2) == 0 {
            let kind = [[0x08, 0x06], [0x88, 0xcc], [0x88, 0x47], [0x00, 0x40]][self.below(4)];
            frame[12..14].copy_from_slice(&kind);
            return frame;
        }
        let protocol = self.byte();
        let at = if is_v4(&frame) { 23 } else { 20 };
        frame[at] = protocol;
        if is_v4(&frame) {
            finish_v4(&mut frame);
        }
        frame
    }
}

fn is_v4(frame: &[u8]) -> bool {
    frame.len() >= 34 && frame[12..14] == [0x08, 0x00]
}

/// Makes the IPv4 header checksum right again, so that what is wrong behind it is reached.
fn finish_v4(frame: &mut [u8]) {
    let end = (ETHERNET_BYTES + usize::from(frame[14] & 15) * 4).min(frame.len());
    frame[24..26].fill(0);
    let mut sum = 0_u32;
    for pair in frame[ETHERNET_BYTES..end].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// Makes the IPv6 payload length right again.
fn finish_v6(frame: &mut [u8]) {
    let payload = frame.len().saturating_sub(54) as u16;
    if let Some(field) = frame.get_mut(18..20) {
        field.copy_from_slice(&payload.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn aim() -> Aim {
        Aim {
            destination_mac: [2, 0, 0, 0, 0, 1],
            source_mac: [2, 0, 0, 0, 0, 2],
            sources: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            destinations: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            ports: vec![80],
        }
    }

    #[test]
    fn any_length_comes_and_the_same_seed_is_the_same_junk() {
        let (mut one, mut two) = (Junk::new(aim(), 3), Junk::new(aim(), 3));
        let mut lengths = BTreeSet::new();
        for _ in 0..50_000 {
            let frame = one.frame();
            assert!((ETHERNET_BYTES..=FRAME_BYTES_MAX).contains(&frame.len()));
            assert_eq!(frame[..6], [2, 0, 0, 0, 0, 1]);
            lengths.insert(frame.len());
            assert_eq!(frame, two.frame());
        }
        assert!(lengths.len() > 1490, "only {} lengths of 1501", lengths.len());
    }
}
