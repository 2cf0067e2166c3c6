//! The TCP header.

use atalho_engine::verdict::DropReason::*;
use atalho_engine::verdict::Verdict;

use crate::lab::damage::{changed, mended};
use crate::lab::packet::{Packet, SYN};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 9293 section 3.1", "a data offset that does not fit", data_offset),
    vector("RFC 9293 section 3.10.7", "every set of flags: those that no segment has are refused", flags),
];

const FIN: u8 = 1;
const SYN_FLAG: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const URG: u8 = 32;

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

/// Said the long way round: of SYN, RST and FIN one at most, and without ACK only SYN and RST alone.
fn is_segment(flags: u8) -> bool {
    let what = flags & (FIN | SYN_FLAG | RST);
    let is_one = what.count_ones() <= 1;
    let has_ack = flags & ACK != 0;
    let is_urgent = flags & URG != 0;
    is_one
        && (has_ack || what == SYN_FLAG || what == RST)
        && !(is_urgent && (what == RST || what == SYN_FLAG && has_ack))
}

fn flags() {
    for f in FAMILIES {
        let at = if f == Family::V4 { 47 } else { 67 };
        // A flow's own, so that what is refused is so for its flags.
        let frame = Packet::tcp((f.client(), 1), SYN, (f.web(), 2)).build();
        for flags in 0..=u8::MAX {
            let mut lab = Lab::new();
            lab.send(CLIENT, &frame);
            let sent = lab.send_unverified(CLIENT, &changed(&frame, &[(at, flags)]));
            let is_refused = sent.verdict == Verdict::Drop(TcpFlags);
            assert_eq!(is_refused, !is_segment(flags & !(PSH | 0xc0)), "{f:?}, flags {flags:#x}");
        }
    }
}
