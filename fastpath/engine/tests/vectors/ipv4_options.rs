//! IPv4 options.

use atalho_engine::verdict::DropReason::{self, BadHeaderLength, SourceRouted};

use crate::lab::packet::Packet;
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 791 section 3.1", "options that only record are kept as they are", options_are_kept),
    vector("RFC 7126 section 4.3", "source routes are refused", source_routes),
    vector("RFC 791 section 3.1", "options whose lengths do not fit are refused", lengths),
];

const F: Family = Family::V4;

fn options_are_kept() {
    for options in [&[7, 7, 4, 0, 0, 0, 0, 1][..], &[68, 8, 5, 0, 0, 0, 0, 0], &[148, 4, 0, 0], &[1, 1, 1, 0]] {
        let with_options = Packet::udp((F.client(), 1), (F.vip_local(), 53)).options(options);
        let expected = Packet::udp((F.client(), 1), (F.web(), 5353)).options(options).ttl(63);
        Lab::new().forwards("options", CLIENT, &with_options, HOP_WEB, &expected);
    }
}

fn source_routes() {
    drops("a loose source route", &[131, 3, 4, 0], SourceRouted);
    drops("a strict source route behind padding", &[1, 137, 3, 4], SourceRouted);
}

fn lengths() {
    drops("an option without a length", &[1, 1, 1, 7], BadHeaderLength);
    drops("an option beyond the header", &[7, 9, 4, 0], BadHeaderLength);
    drops("an option of length 0", &[7, 0, 4, 0], BadHeaderLength);
    drops("an option of length 1", &[1, 7, 1, 0], BadHeaderLength);
}

fn drops(what: &str, options: &[u8], reason: DropReason) {
    let packet = Packet::udp((F.client(), 1), (F.web(), 2)).options(options);
    Lab::new().drops(what, CLIENT, &packet.build(), reason);
}
