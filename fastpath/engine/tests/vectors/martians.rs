//! Addresses that must not be on the wire.

use std::net::IpAddr;

use atalho_engine::verdict::DropReason::*;

use crate::lab::damage::{changed, mended};
use crate::lab::packet::{Packet, SYN};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 1122 section 3.2.1.3", "IPv4 sources and destinations", ipv4),
    vector("RFC 4291 section 2.5", "IPv6 sources and destinations", ipv6),
    vector("RFC 4213 section 4.2", "an IPv4 address in IPv6 disguise", mapped),
    vector("RFC 6274 section 4.1", "LAND: from itself to itself", land),
];

fn ipv4() {
    let v4 = Packet::udp((Family::V4.client(), 1), (Family::V4.web(), 2)).build();
    let mut lab = Lab::new();
    for (what, changes, reason) in [
        ("from loopback", &[(26, 127)][..], Martian),
        ("from everybody", &[(26, 255)], Martian),
        ("from this network", &[(26, 0)], Martian),
        ("to loopback", &[(30, 127)], Martian),
        ("to class E", &[(30, 241)], Martian),
        ("to a group", &[(30, 224)], Multicast),
        ("to all", &[(30, 255), (31, 255), (32, 255), (33, 255)], Multicast),
        ("link-local", &[(30, 169), (31, 254)], LinkLocal),
    ] {
        lab.drops(what, CLIENT, &mended(&v4, changes), reason);
    }
}

fn ipv6() {
    let v6 = Packet::udp((Family::V6.client(), 1), (Family::V6.web(), 2)).build();
    let mut lab = Lab::new();
    lab.drops("to a group", CLIENT, &changed(&v6, &[(38, 0xff)]), Multicast);
    lab.drops("link-local", CLIENT, &changed(&v6, &[(22, 0xfe), (23, 0x80)]), LinkLocal);
}

fn mapped() {
    let mapped: IpAddr = "::ffff:10.244.0.12".parse().unwrap();
    let disguised = Packet::udp((mapped, 1), (Family::V6.web(), 2)).build();
    Lab::new().drops("an IPv4 address in IPv6 disguise", CLIENT, &disguised, Martian);
}

fn land() {
    for f in FAMILIES {
        let land = Packet::tcp((f.node(), 80), SYN, (f.node(), 80)).build();
        Lab::new().drops("LAND", UPLINK, &land, Martian);
    }
}
