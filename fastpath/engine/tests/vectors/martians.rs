//! Addresses that must not be on the wire.

use std::net::IpAddr;

use atalho_engine::verdict::DropReason::*;

use crate::lab::damage::{changed, mended};
use crate::lab::packet::{Packet, SYN};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 1122 section 3.2.1.3", "IPv4 sources that no packet has", ipv4_sources),
    vector("RFC 1122 section 3.2.1.3", "IPv4 destinations that no forwarded packet has", ipv4_destinations),
    vector("RFC 1812 section 5.3.5.2", "directed broadcasts, as destination and as source", directed_broadcasts),
    vector("RFC 6890 section 2.2.2", "addresses for documentation and benchmarks are forwarded", documentation),
    vector("RFC 4291 section 2.5", "IPv6 sources and destinations", ipv6),
    vector("RFC 4291 section 2.5.5.2", "an IPv4 address in IPv6 disguise", mapped),
    vector("RFC 6274 section 4.1", "LAND: from itself to itself", land),
];

/// Offsets of the addresses in an IPv4 frame.
const SOURCE: usize = 26;
const DESTINATION: usize = 30;

fn with_address(at: usize, address: [u8; 4]) -> Vec<u8> {
    let frame = Packet::udp((Family::V4.client(), 1), (Family::V4.web(), 2)).build();
    let changes: Vec<_> = address.iter().enumerate().map(|(i, byte)| (at + i, *byte)).collect();
    mended(&frame, &changes)
}

fn ipv4_sources() {
    let mut lab = Lab::new();
    for (address, reason) in [
        ([0, 0, 0, 0], Martian),
        ([0, 1, 2, 3], Martian),
        ([127, 0, 0, 1], Martian),
        ([127, 255, 255, 254], Martian),
        ([169, 254, 1, 1], LinkLocal),
        ([224, 0, 0, 1], MulticastSource),
        ([239, 255, 255, 255], MulticastSource),
        ([240, 0, 0, 1], Martian),
        ([255, 255, 255, 255], BroadcastSource),
    ] {
        for port in [CLIENT, UPLINK] {
            lab.drops(&format!("from {address:?}"), port, &with_address(SOURCE, address), reason);
        }
    }
}

fn ipv4_destinations() {
    let mut lab = Lab::new();
    for (address, reason) in [
        ([0, 0, 0, 0], Martian),
        ([127, 0, 0, 1], Martian),
        ([169, 254, 169, 254], LinkLocal),
        ([224, 0, 0, 251], Multicast),
        ([239, 1, 2, 3], Multicast),
        ([241, 0, 0, 1], Martian),
        ([255, 255, 255, 255], Broadcast),
    ] {
        lab.drops(&format!("to {address:?}"), CLIENT, &with_address(DESTINATION, address), reason);
    }
}

fn directed_broadcasts() {
    let f = Family::V4;
    let mut lab = Lab::new();
    let everybody: IpAddr = "192.168.0.255".parse().unwrap();
    let to = Packet::udp((f.client(), 1), (everybody, 2)).build();
    lab.drops("to all hosts of the uplink's net", CLIENT, &to, Broadcast);
    let from = Packet::udp((everybody, 1), (f.node(), NODE_PORT_WEB)).build();
    lab.drops("from all hosts of the uplink's net", UPLINK, &from, BroadcastSource);
    let elsewhere = Packet::udp((f.client(), 1), ("203.0.113.255".parse().unwrap(), 2));
    lab.forwarded("what ends in 255 elsewhere may be a host", CLIENT, &elsewhere, HOP_GATEWAY);
}

fn documentation() {
    for address in ["192.0.2.1", "203.0.113.1", "198.18.0.1", "100.64.0.1", "2001:db8::1"] {
        let address: IpAddr = address.parse().unwrap();
        let f = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let packet = Packet::udp((f.client(), 1), (address, 2));
        Lab::new().forwarded("to another use's address", CLIENT, &packet, HOP_GATEWAY);
    }
}

fn ipv6() {
    let v6 = Packet::udp((Family::V6.client(), 1), (Family::V6.web(), 2)).build();
    let mut lab = Lab::new();
    let unspecified: Vec<_> = (22..38).map(|at| (at, 0)).collect();
    let loopback = [&unspecified[..15], &[(37, 1)]].concat();
    for (what, changes, reason) in [
        ("from nobody", &unspecified[..], Martian),
        ("from loopback", &loopback, Martian),
        ("from a group", &[(22, 0xff), (23, 0x02)], MulticastSource),
        ("from link-local", &[(22, 0xfe), (23, 0x80)], LinkLocal),
        ("to a group", &[(38, 0xff)], Multicast),
        ("to link-local", &[(38, 0xfe), (39, 0x80)], LinkLocal),
    ] {
        lab.drops(what, CLIENT, &changed(&v6, changes), reason);
    }
    let to = |address: &str| Packet::udp((Family::V6.client(), 1), (address.parse().unwrap(), 2)).build();
    lab.drops("to nobody", CLIENT, &to("::"), Martian);
    lab.drops("to loopback", CLIENT, &to("::1"), Martian);
}

fn mapped() {
    let mapped: IpAddr = "::ffff:10.244.0.12".parse().unwrap();
    let disguised = Packet::udp((mapped, 1), (Family::V6.web(), 2)).build();
    Lab::new().drops("as source", CLIENT, &disguised, Martian);
    let disguised = Packet::udp((Family::V6.client(), 1), (mapped, 2)).build();
    Lab::new().drops("as destination", CLIENT, &disguised, Martian);
}

fn land() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let land = Packet::tcp((f.node(), 80), SYN, (f.node(), 80)).build();
        lab.drops("with the same port", UPLINK, &land, Land);
        let near = Packet::udp((f.web(), 7), (f.web(), 19)).build();
        lab.drops("with another port", UPLINK, &near, Land);
        lab.drops("by the pod itself", WEB, &near, Land);
        let quoted = Packet::udp((f.far(), 7), (f.node(), 19)).build();
        let error = icmp::error(f.node(), f.node(), icmp::port_unreachable(f == Family::V4), [0; 4], &quoted[14..]);
        lab.drops("an error", UPLINK, &error, Land);
    }
}
