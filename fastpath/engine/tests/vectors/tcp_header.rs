//! The TCP header.

use atalho_engine::verdict::DropReason::*;

use crate::lab::damage::{changed, mended};
use crate::lab::packet::{Packet, SYN};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[vector("RFC 9293 section 3.1", "a data offset that does not fit", data_offset)];

fn data_offset() {
    let tcp = Packet::tcp((Family::V4.client(), 1), SYN, (Family::V4.web(), 2)).build();
    let mut lab = Lab::new();
    for (what, frame, reason) in [
        ("a header of 16 bytes", changed(&tcp, &[(46, 0x40)]), BadHeaderLength),
        ("a header beyond the packet", changed(&tcp, &[(46, 0xf0)]), BadHeaderLength),
        ("a total length that cuts it off", mended(&tcp, &[(16, 0), (17, 39)]), TooShort),
    ] {
        lab.drops(what, CLIENT, &frame, reason);
    }
}
