//! What `steer` claims: each case a frame, a verdict, and the one counter that moves.

use std::net::IpAddr;

use atalho_layout::{
    ClaimKey, ClaimKind, FLOW4, FLOW6, KernelCounter, LpmKey, Phase, SLOTS_PER_BUCKET, bucket_pair, flow_words_v4,
    flow_words_v6, flow4, flow6, hash, tag,
};

use super::frames::{Frame, TCP, UDP};
use super::lab::{Lab, Random, SECRET, SIZES, Table, counted, run_xdp, skipped};
use crate::bpf::Kernel;
use crate::check;

pub(super) fn mapped(address: &str) -> [u8; 16] {
    match address.parse().expect("an address") {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(super) fn key(address: &str, protocol: u8, port: u16) -> ClaimKey {
    ClaimKey { addr: mapped(address), port: port.to_be_bytes(), protocol, pad: 0 }
}

/// Words of an address as they stand in a packet.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(4)) {
        *word = u32::from_le_bytes(chunk.try_into().expect("four bytes"));
    }
    words
}

/// Where an entry is written, and how.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) phase: Phase,
    pub(super) ingress: u32,
    /// In the second bucket instead of the first.
    pub(super) second: bool,
    /// Slot within the bucket.
    pub(super) at: usize,
}

pub(super) const LIVE: Entry = Entry { phase: Phase::Live, ingress: 7, second: false, at: 3 };

/// Writes the entry of a flow into the shared table.
pub(super) fn insert(kernel: &Kernel, src: &str, dst: &str, protocol: u8, ports: (u16, u16), entry: Entry) {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().expect("an address"), dst.parse().expect("an address"));
    write(&Table::new(kernel, src.is_ipv6()), src, dst, protocol, ports, entry);
}

/// The same, into the table of its family.
pub(super) fn write(table: &Table, src: IpAddr, dst: IpAddr, protocol: u8, ports: (u16, u16), entry: Entry) {
    let ports: [u32; 1] = words(&[ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
    let ctl = 5 << 8 | entry.phase as u32;
    let place = |hash: u32, buckets: u32| {
        let (first, second) = bucket_pair(hash, buckets);
        let bucket = if entry.second { second } else { first };
        bucket as usize * SLOTS_PER_BUCKET + entry.at
    };
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let ([src], [dst]) = (words(&src.octets()), words(&dst.octets()));
            let hash = hash(&SECRET, &flow_words_v4(src, dst, ports[0], protocol));
            let mut words = [0; FLOW4.size / 4];
            words[flow4::CTL] = ctl;
            (words[flow4::SRC], words[flow4::DST], words[flow4::PORTS]) = (src, dst, ports[0]);
            (words[flow4::KIND], words[flow4::INGRESS]) = (u32::from(protocol) | 1 << 8, entry.ingress);
            table.write(place(hash, SIZES.buckets4), &words, tag(hash));
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (src, dst) = (words(&src.octets()), words(&dst.octets()));
            let hash = hash(&SECRET, &flow_words_v6(src, dst, ports[0], protocol));
            let mut words = [0; FLOW6.size / 4];
            words[flow6::CTL] = ctl;
            words[flow6::SRC..flow6::SRC + 4].copy_from_slice(&src);
            words[flow6::DST..flow6::DST + 4].copy_from_slice(&dst);
            words[flow6::PORTS] = ports[0];
            (words[flow6::KIND], words[flow6::INGRESS]) = (u32::from(protocol) | 1 << 8, entry.ingress);
            table.write(place(hash, SIZES.buckets6), &words, tag(hash));
        }
        _ => panic!("two families in one flow"),
    }
}

/// Ours, while no worker listens.
const OURS: (u32, KernelCounter) = (1, KernelCounter::UplinkNoWorker);
const PASS: (u32, KernelCounter) = (2, KernelCounter::UplinkPass);
const MALFORMED: (u32, KernelCounter) = (2, KernelCounter::Malformed);

#[track_caller]
fn expect(kernel: &mut Kernel, what: &str, frame: &[u8], (action, counter): (u32, KernelCounter)) {
    let (ran, moved) = counted(kernel, |kernel| run_xdp(kernel, "steer", frame));
    assert_eq!((ran, moved), (action, vec![(counter, 1)]), "{what}");
}

const FAMILIES: [Addresses; 2] = [
    Addresses { node: "192.0.2.2", peer: "198.51.100.7", vip: "10.96.0.10", pod: "10.244.0.11", ranged: "10.96.200.1" },
    Addresses {
        node: "2001:db8::2",
        peer: "2001:db8:7::7",
        vip: "fd00:96::a",
        pod: "fd00:244::b",
        ranged: "fd00:96::c8",
    },
];

struct Addresses {
    node: &'static str,
    peer: &'static str,
    vip: &'static str,
    pod: &'static str,
    ranged: &'static str,
}

fn claim_all(kernel: &mut Kernel) {
    for a in FAMILIES {
        kernel.claim(&key(a.node, 0, 0), ClaimKind::Node).unwrap();
        kernel.claim(&key(a.node, TCP, 30080), ClaimKind::NodePort).unwrap();
        kernel.claim(&key(a.vip, 0, 0), ClaimKind::Vip).unwrap();
        kernel.claim(&key(a.pod, 0, 0), ClaimKind::Pod).unwrap();
    }
    kernel.claim_range(&LpmKey { prefix_len: 96 + 16, addr: mapped("10.96.0.0") }).unwrap();
    kernel.claim_range(&LpmKey { prefix_len: 112, addr: mapped("fd00:96::") }).unwrap();
}

#[test]
fn steer_claims_what_is_ours_and_passes_the_rest() {
    if skipped("steer_claims_what_is_ours_and_passes_the_rest") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let mac = check::by_name("uplink").unwrap().mac;
    claim_all(&mut kernel);
    for a in FAMILIES {
        let to = |dst: &str, protocol, port| Frame::ports(a.peer, dst, protocol, 40000, port).with_mac(mac);
        let mut expect_frame = |what: &str, frame: Frame, outcome| {
            expect(&mut kernel, &format!("{what}, {}", a.node), &frame.bytes(), outcome);
        };
        expect_frame("a Service address", to(a.vip, TCP, 80), OURS);
        expect_frame("a Service address, a port that it has not", to(a.vip, UDP, 9), OURS);
        expect_frame("a pod of this node", to(a.pod, UDP, 53), OURS);
        expect_frame("an unallocated address of a Service range", to(a.ranged, TCP, 80), OURS);
        expect_frame("a node port", to(a.node, TCP, 30080), OURS);
        expect_frame("a node port behind options", to(a.node, TCP, 30080).options(3), OURS);
        expect_frame("a node port's number, another protocol", to(a.node, UDP, 30080), PASS);
        expect_frame("ssh to the node", to(a.node, TCP, 22), PASS);
        expect_frame("somebody else", to(a.peer, TCP, 30080), PASS);
        expect_frame("a Service address, another station's MAC", to(a.vip, TCP, 80).with_mac([2, 0, 0, 0, 0, 1]), PASS);
        expect_frame("echo to a Service address", Frame::echo(a.peer, a.vip, true, 7).with_mac(mac), OURS);
        expect_frame("echo to the node", Frame::echo(a.peer, a.node, true, 7).with_mac(mac), PASS);
        expect_frame("a later fragment to a pod", to(a.pod, UDP, 53).fragment(9, 100, false), OURS);
        expect_frame(
            "a transport header cut off, to a pod",
            Frame::new(a.peer, a.pod, TCP, vec![1]).with_mac(mac),
            OURS,
        );
        expect_frame(
            "a transport header cut off, to the node",
            Frame::new(a.peer, a.node, TCP, vec![1]).with_mac(mac),
            PASS,
        );
    }
}

#[test]
fn the_links_own_business_always_passes() {
    if skipped("the_links_own_business_always_passes") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let mac = check::by_name("uplink").unwrap().mac;
    claim_all(&mut kernel);
    let pod = FAMILIES[1].pod;
    // Even for an address that is ours: the kernel answers for it.
    for kind in 133..=137u8 {
        let frame = Frame::new("2001:db8:7::7", pod, 58, vec![kind, 0, 0, 0, 0, 0, 0, 0]).with_mac(mac);
        expect(&mut kernel, &format!("neighbour discovery {kind}"), &frame.bytes(), PASS);
    }
    kernel.claim(&key("fe80::5", 0, 0), ClaimKind::Vip).unwrap();
    expect(&mut kernel, "link-local", &Frame::ports("fe80::9", "fe80::5", UDP, 1, 2).with_mac(mac).bytes(), PASS);
    let vip = Frame::ports("198.51.100.7", "10.96.0.10", TCP, 1, 80).with_mac(mac).bytes();
    let tagged = [&vip[..12], &[0x81, 0, 0, 5], &vip[12..]].concat();
    expect(&mut kernel, "a VLAN tag", &tagged, PASS);
    let mut arp = vip.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    expect(&mut kernel, "ARP", &arp, PASS);
}

#[test]
fn broken_headers_are_left_to_the_stack_and_counted() {
    if skipped("broken_headers_are_left_to_the_stack_and_counted") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let mac = check::by_name("uplink").unwrap().mac;
    claim_all(&mut kernel);
    for a in FAMILIES {
        let whole = Frame::ports(a.peer, a.vip, TCP, 1, 80).with_mac(mac).bytes();
        let header = if a.vip.contains(':') { 40 } else { 20 };
        expect(&mut kernel, "cut in the IP header", &whole[..14 + header - 1], MALFORMED);
        let mut wrong = whole.clone();
        wrong[14] = 0x20;
        expect(&mut kernel, "a wrong version", &wrong, MALFORMED);
    }
    let mut short_header = Frame::ports("198.51.100.7", "10.96.0.10", TCP, 1, 80).with_mac(mac).bytes();
    short_header[14] = 0x44;
    expect(&mut kernel, "a header length below the minimum", &short_header, MALFORMED);
}

#[test]
fn a_flow_written_by_rust_is_found_by_the_kernel() {
    if skipped("a_flow_written_by_rust_is_found_by_the_kernel") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let mac = check::by_name("uplink").unwrap().mac;
    claim_all(&mut kernel);
    let random = Random::new(20_261_124);
    for round in 0..400 {
        let (a, b, c) = (random.next(), random.next(), random.next());
        let v6 = round % 2 == 1;
        let address = |bits: u64| {
            if v6 {
                std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(bits) << 7).to_string()
            } else {
                std::net::Ipv4Addr::from(0xcb00_0000 | bits as u32 & 0x00ff_ffff).to_string()
            }
        };
        let (src, dst, ports) = (address(a), address(b), (c as u16, (c >> 16) as u16));
        let protocol = [TCP, UDP, 132][(c >> 32) as usize % 3];
        let frame = Frame::ports(&src, &dst, protocol, ports.0, ports.1).with_mac(mac).bytes();
        let what = format!("round {round}: {src} {dst} {protocol} {ports:?}");
        let entry = Entry { second: c >> 40 & 1 == 1, at: (c >> 48) as usize % SLOTS_PER_BUCKET, ..LIVE };
        for phase in [Phase::Claimed, Phase::Tentative, Phase::Dying, Phase::Free] {
            insert(&kernel, &src, &dst, protocol, ports, Entry { phase, ..entry });
            expect(&mut kernel, &format!("{phase:?}, {what}"), &frame, PASS);
        }
        insert(&kernel, &src, &dst, protocol, ports, entry);
        expect(&mut kernel, &what, &frame, OURS);
        let turned = Frame::ports(&dst, &src, protocol, ports.1, ports.0).with_mac(mac).bytes();
        expect(&mut kernel, &format!("turned round, {what}"), &turned, PASS);
    }
}

#[test]
fn echo_and_errors_are_found_by_their_flow() {
    if skipped("echo_and_errors_are_found_by_their_flow") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let mac = check::by_name("uplink").unwrap().mac;
    claim_all(&mut kernel);
    for a in FAMILIES {
        let v4 = !a.node.contains(':');
        let icmp = if v4 { 1 } else { 58 };
        // The node asked; its answer carries the identifier on the requester's side.
        insert(&kernel, a.peer, a.node, icmp, (0, 0x1234), LIVE);
        expect(
            &mut kernel,
            "an echo reply of a flow",
            &Frame::echo(a.peer, a.node, false, 0x1234).with_mac(mac).bytes(),
            OURS,
        );
        expect(
            &mut kernel,
            "another identifier",
            &Frame::echo(a.peer, a.node, false, 0x1235).with_mac(mac).bytes(),
            PASS,
        );
        expect(
            &mut kernel,
            "a request with it",
            &Frame::echo(a.peer, a.node, true, 0x1234).with_mac(mac).bytes(),
            PASS,
        );
        insert(&kernel, a.peer, a.node, icmp, (0x77, 0), Entry { at: 5, ..LIVE });
        expect(
            &mut kernel,
            "an echo request of a flow",
            &Frame::echo(a.peer, a.node, true, 0x77).with_mac(mac).bytes(),
            OURS,
        );

        // The node sent node:5000 -> peer:80; an error quotes that; the flow in question is peer:80 -> node:5000.
        insert(&kernel, a.peer, a.node, TCP, (80, 5000), Entry { at: 6, ..LIVE });
        let sent = Frame::ports(a.node, a.peer, TCP, 5000, 80);
        let router = if v4 { "203.0.113.1" } else { "2001:db8:9::1" };
        let kinds: &[u8] = if v4 { &[3, 11, 12] } else { &[1, 2, 3, 4] };
        for kind in kinds {
            let error = Frame::icmp_error(router, a.node, *kind, &sent).with_mac(mac);
            expect(&mut kernel, &format!("error {kind}"), &error.bytes(), OURS);
            let other =
                Frame::icmp_error(router, a.node, *kind, &Frame::ports(a.node, a.peer, TCP, 5001, 80)).with_mac(mac);
            expect(&mut kernel, &format!("error {kind} about another flow"), &other.bytes(), PASS);
        }
        let ping =
            Frame::icmp_error(router, a.node, kinds[0], &Frame::echo(a.node, a.peer, true, 0x1234)).with_mac(mac);
        expect(&mut kernel, "an error about an echo", &ping.bytes(), OURS);
        let mut cut = Frame::icmp_error(router, a.node, kinds[0], &sent).with_mac(mac);
        cut.payload.truncate(cut.payload.len() - 18);
        expect(&mut kernel, "a quote cut before its ports", &cut.bytes(), PASS);
    }
}

#[test]
fn fragments_to_the_node_follow_their_first() {
    if skipped("fragments_to_the_node_follow_their_first") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let mac = check::by_name("uplink").unwrap().mac;
    claim_all(&mut kernel);
    for a in FAMILIES {
        insert(&kernel, a.peer, a.node, UDP, (53, 5000), LIVE);
        let part = |port, id, offset, more| {
            Frame::ports(a.peer, a.node, UDP, 53, port).with_mac(mac).fragment(id, offset, more).bytes()
        };
        expect(&mut kernel, "a later one before its first", &part(0, 77, 100, true), PASS);
        expect(&mut kernel, "the first", &part(5000, 77, 0, true), OURS);
        expect(&mut kernel, "a later one", &part(0, 77, 100, true), OURS);
        expect(&mut kernel, "the last", &part(0, 77, 200, false), OURS);
        expect(&mut kernel, "another datagram", &part(0, 78, 100, true), PASS);
        expect(&mut kernel, "the first of another flow", &part(5001, 79, 0, true), PASS);
        expect(&mut kernel, "its later one", &part(0, 79, 100, false), PASS);
        // An IPv6 fragment may call what follows by another name than the first one does.
        let renamed = Frame::new(a.peer, a.node, 60, vec![0; 24]).with_mac(mac).fragment(77, 300, false).bytes();
        let is_v6 = a.node.contains(':');
        expect(&mut kernel, "a later one of another protocol", &renamed, if is_v6 { OURS } else { PASS });
    }
}
