//! Damaged packets and damaged files: every packet has one end, and no run ends otherwise than it says it may.

use crate::capture;
use crate::lab::{Frame, Lab, START_NS};
use crate::packets::{arp, echo_request, error, fragments, syn, syn_ack, udp};

const POD_1: &str = "pod:default/pod-1";
const POD_4: &str = "pod:default/pod-4";

/// SplitMix64: the same on every machine.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound as u64) as usize
    }
}

/// Good packets of every kind and both families.
fn good() -> Vec<(&'static str, Vec<u8>)> {
    let request = udp("10.244.1.14:40000", "10.96.0.50:443", &[7; 1900]);
    let mut packets = vec![
        (POD_4, syn("10.244.1.14:40000", "10.96.0.50:80")),
        (POD_1, syn_ack("10.244.1.11:8080", "10.244.1.14:40000")),
        (POD_4, udp("[fd00:244:0:1::14]:40000", "[fd00:96::50]:443", b"hello")),
        (POD_4, echo_request("10.244.1.14", "10.96.0.10")),
        (POD_4, echo_request("fd00:244:0:1::14", "fd00:96::10")),
        (POD_4, udp("10.244.1.14:40001", "198.51.100.7:53", b"query")),
        (POD_1, error("10.244.1.11", "10.244.1.14", 3, &request[14..42])),
        (POD_4, arp([10, 244, 1, 14])),
        ("uplink", udp("203.0.113.9:40000", "192.168.0.2:30053", b"query")),
        ("uplink", syn("[fd00:113::9]:40000", "[fd00:168::2]:30080")),
        ("uplink", syn("203.0.113.9:40000", "10.96.0.60:80")),
        ("node", syn("192.168.0.2:40000", "10.96.0.10:80")),
    ];
    packets.extend(fragments(&request, 800).into_iter().map(|fragment| (POD_4, fragment)));
    packets
}

fn damaged(packet: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for _ in 0..1 + draws.below(3) {
        match draws.below(4) {
            0 => packet.truncate(draws.below(packet.len() + 1)),
            1 => packet.resize(packet.len() + draws.below(200), 0xff),
            _ if packet.is_empty() => {}
            _ => {
                let at = draws.below(packet.len().min(80));
                packet[at] = draws.below(256) as u8;
            }
        }
    }
    packet
}

#[test]
fn damaged_packets_have_one_end_each() {
    let (good, mut draws) = (good(), Draws(1));
    let mut lab = Lab::new();
    for n in 0..20_000 {
        let (port, packet) = &good[draws.below(good.len())];
        let packet = if draws.below(5) == 0 { packet.clone() } else { damaged(packet, &mut draws) };
        lab = lab.packet(f64::from(n) * 0.002, port, packet);
    }
    let ran = lab.run();
    let dropped = ran.books["dropped"].as_object().expect("reasons");
    assert!(dropped.len() > 10, "{dropped:?}");
    assert!(ran.out.iter().all(|frame| frame.bytes.get(..2) != Some(&[2, 0xfe][..])), "a tag leaks");
}

#[test]
fn damaged_files_end_as_they_say() {
    let mut draws = Draws(2);
    let frames: Vec<Frame> = (0..)
        .zip(good())
        .map(|(n, (port, bytes))| Frame { port: port.to_owned(), time_ns: START_NS + n * 1_000_000, bytes })
        .collect();
    let whole = capture::write(&frames);
    for _ in 0..40 {
        let mut bytes = whole.clone();
        for _ in 0..1 + draws.below(4) {
            let at = draws.below(bytes.len());
            match draws.below(3) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = draws.below(256) as u8,
                _ => drop(bytes.drain(at..(at + draws.below(9)).min(bytes.len()))),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let ran = Lab::new().run_on(&bytes);
        assert!(matches!(ran.code, 0..=2), "{}: {}", ran.code, ran.said);
        assert_eq!(ran.code == 0, ran.said.is_empty(), "{}: {}", ran.code, ran.said);
    }
}
