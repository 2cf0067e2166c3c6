//! Kernel side and workers must find the same flow in a packet: else one claims what the other does not know, or lets pass
//! what is the other's. Random packets with every kind of header, each read by the workers' parser; the flow that it finds is
//! written into the table, and the kernel has to claim the packet by it, and not without it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atalho_engine::flow::FlowKey;
use atalho_engine::verdict::DropReason;
use atalho_engine::wire::{self, fragment, sctp};
use atalho_layout::{ClaimKind, Phase};

use super::claims::{Entry, LIVE, key, write};
use super::frames::checksum;
use super::lab::{Lab, Random, Table, run_xdp, skipped};
use crate::check;

const PACKETS: usize = 30_000;
const NODE: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const PEER: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];

/// What XDP says.
const DROP: u32 = 1;
const PASS: u32 = 2;

const ICMP: [u8; 2] = [1, 58];
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

struct Generator(Random);

impl Generator {
    fn below(&self, bound: u64) -> u64 {
        self.0.next() % bound
    }

    fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn bytes(&self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.0.next() as u8).collect()
    }

    /// From the transport header on. A packet that is itself quoted may be about an error, which nobody follows.
    fn transport(&self, protocol: u8, src: IpAddr, dst: IpAddr, is_quoted: bool) -> Vec<u8> {
        let ports = self.bytes(4);
        match protocol {
            6 => [&ports, &self.bytes(8)[..], &[0x50, 2, 9, 9, 1, 1, 0, 0], b"content"].concat(),
            17 => [&ports, &[0, 15, 1, 1][..], b"content"].concat(),
            132 => {
                let mut packet = [&ports, &[1, 2, 3, 4, 0, 0, 0, 0][..], &[4, 0, 0, 8, 1, 1, 1, 1]].concat();
                let sum = sctp::checksum(&packet);
                packet[8..12].copy_from_slice(&sum);
                packet
            }
            1 | 58 => self.icmp(protocol, src, dst, is_quoted),
            _ => self.bytes(24),
        }
    }

    fn icmp(&self, protocol: u8, src: IpAddr, dst: IpAddr, is_quoted: bool) -> Vec<u8> {
        let v6 = usize::from(protocol == 58);
        let (echo, errors): (&[u8], &[u8]) = [(&[8, 0][..], &[3, 11, 12][..]), (&[128, 129], &[1, 2, 3, 4])][v6];
        let kind = if is_quoted && !self.one_in(8) || self.one_in(3) { self.pick(echo) } else { self.pick(errors) };
        let mut message = [&[kind, 0, 0, 0][..], &self.bytes(4)].concat();
        if errors.contains(&kind) {
            let mut quoted = self.packet(dst, src, true);
            if self.one_in(2) {
                quoted.truncate(28 + self.below(80) as usize);
            }
            message.extend(quoted);
        }
        let pseudo = match (src, dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                [&src.octets()[..], &dst.octets(), &(message.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat()
            }
            _ => Vec::new(),
        };
        let sum = checksum(&[&pseudo[..], &message].concat());
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    fn packet(&self, src: IpAddr, dst: IpAddr, is_quoted: bool) -> Vec<u8> {
        let protocol = self.pick(&[6, 17, 132, ICMP[usize::from(src.is_ipv6())], 6, 17, 132, 59, 47]);
        let transport = self.transport(protocol, src, dst, is_quoted);
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src, dst, protocol, &transport),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.ipv6(src, dst, protocol, &transport),
            _ => unreachable!("one family"),
        }
    }

    fn ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, transport: &[u8]) -> Vec<u8> {
        let words = if self.one_in(2) { 0 } else { self.below(11) as usize };
        let mut header = vec![1u8; 20 + words * 4];
        let total = (header.len() + transport.len()) as u16;
        header[..12].copy_from_slice(&[0x45 + words as u8, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&self.bytes(2));
        if self.one_in(6) {
            header[6..8].copy_from_slice(&self.pick(&[[0x20, 0], [0, 9], [0x20, 9], [0x40, 0], [0x80, 0]]));
        }
        header[12..16].copy_from_slice(&src.octets());
        header[16..20].copy_from_slice(&dst.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&header, transport].concat()
    }

    fn ipv6(&self, src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, transport: &[u8]) -> Vec<u8> {
        let count = if self.one_in(3) { 0 } else { self.below(8) as usize };
        let kinds: Vec<u8> = (0..count)
            .map(|at| if at == 0 { self.pick(&[0, 43, 44, 51, 60]) } else { self.pick(&[43, 44, 51, 60, 60, 51]) })
            .chain([protocol])
            .collect();
        let mut rest = Vec::new();
        for pair in kinds.windows(2) {
            // An authentication header of no units is none: workers drop it, whatever flow it might be of.
            let units = self.below(4) as u8 + u8::from(pair[0] == AUTHENTICATION);
            let mut header = match pair[0] {
                AUTHENTICATION => self.bytes((usize::from(units) + 2) * 4),
                // What is reserved there is no length.
                FRAGMENT => [&[0, units, 0, self.pick(&[0, 0, 0, 1, 8])][..], &self.bytes(4)].concat(),
                _ => self.bytes((usize::from(units) + 1) * 8),
            };
            header[..2].copy_from_slice(&[pair[1], units]);
            if pair[0] == 43 {
                header[2..4].copy_from_slice(&[self.pick(&[2, 4]), u8::from(self.one_in(8))]);
            }
            rest.extend(header);
        }
        rest.extend(transport);
        let length = (rest.len() as u16).to_be_bytes();
        [&[0x60, 0, 0, 0, length[0], length[1], kinds[0], 64][..], &src.octets(), &dst.octets(), &rest].concat()
    }
}

/// What the workers find in a frame: the flow of a whole packet, or of a first fragment.
fn flow_of(frame: &[u8]) -> Result<FlowKey, DropReason> {
    match wire::parse(frame, frame.len()) {
        Ok(packet) => Ok(packet.key),
        Err(DropReason::Fragment) => match fragment::read(frame, frame.len())? {
            fragment if fragment.is_first() => Ok(fragment.packet.key),
            _ => Err(DropReason::Fragment),
        },
        Err(reason) => Err(reason),
    }
}

#[test]
fn the_kernel_claims_a_packet_by_the_flow_that_workers_find_in_it() {
    if skipped("the_kernel_claims_a_packet_by_the_flow_that_workers_find_in_it") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let mac = check::by_name("uplink").unwrap().mac;
    for node in NODE {
        kernel.claim(&key(node, 0, 0), ClaimKind::Node).unwrap();
    }
    let tables = [Table::new(&kernel, false), Table::new(&kernel, true)];
    let generator = Generator(Random::new(20_261_125));
    let (mut same, mut long) = (0, 0);
    for round in 0..PACKETS {
        let family = round % 2;
        let [src, dst]: [IpAddr; 2] = [PEER[family], NODE[family]].map(|address| address.parse().unwrap());
        let ethertype = [[0x08, 0x00], [0x86, 0xdd]][family];
        let mut frame = [&mac[..], &[2, 0, 0, 0, 0, 9], &ethertype, &generator.packet(src, dst, false)].concat();
        if generator.one_in(4) {
            let at = 14 + generator.below(frame.len() as u64 - 14) as usize;
            frame[at] = generator.0.next() as u8;
        }
        frame.truncate(if generator.one_in(16) { frame.len().min(60) } else { frame.len() });
        let Ok(flow) = flow_of(&frame) else { continue };
        // A damaged address is another host's, and claimed by nothing.
        if flow.dst != dst {
            continue;
        }
        let entry = |phase| {
            let ports = (flow.src_port, flow.dst_port);
            write(&tables[family], flow.src, flow.dst, flow.protocol as u8, ports, Entry { phase, ..LIVE });
        };
        let what = format!("round {round}: {flow:?} in {frame:02x?}");
        entry(Phase::Live);
        assert_eq!(run_xdp(&kernel, "steer", &frame), DROP, "not claimed by its flow, {what}");
        entry(Phase::Free);
        assert_eq!(run_xdp(&kernel, "steer", &frame), PASS, "claimed by another flow, {what}");
        same += 1;
        long += u32::from(frame.len() > 150);
    }
    println!(
        "{same} of {PACKETS} packets have a flow, the same in kernel and workers; {long} of them with long headers"
    );
    assert!(same > PACKETS as u32 / 4 && long > 500, "{same}, {long}");
}
