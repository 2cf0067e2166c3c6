//! Frames: what an Ethernet header may say, and where a frame ends.

use atalho_engine::verdict::DropReason::*;

use crate::lab::damage::changed;
use crate::lab::packet::Packet;
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 894 section 1", "a frame that is neither IPv4 nor IPv6, or ends in its header", headers),
    vector("RFC 1042 section 1", "padding behind the IP packet is trimmed", padding_is_trimmed),
    vector("RFC 1812 section 5.3.4", "a packet to one host in a frame to many", a_frame_to_everyone),
];

fn headers() {
    let v4 = Packet::udp((Family::V4.client(), 1), (Family::V4.web(), 2)).build();
    let mut lab = Lab::new();
    for (what, frame, reason) in [
        ("nothing", vec![], TooShort),
        ("half an Ethernet header", v4[..13].to_vec(), TooShort),
        ("ARP", changed(&v4, &[(12, 8), (13, 6)]), NotIp),
        ("an IEEE 802.3 length", changed(&v4, &[(12, 0), (13, 100)]), NotIp),
        ("VLAN", changed(&v4, &[(12, 0x81), (13, 0)]), VlanTagged),
        ("VLAN in VLAN", changed(&v4, &[(12, 0x88), (13, 0xa8)]), VlanTagged),
    ] {
        lab.drops(what, CLIENT, &frame, reason);
    }
}

fn padding_is_trimmed() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let short = Packet::udp((f.client(), 1), (f.web(), 2)).payload(b"x");
        let mut padded = short.build();
        let len = padded.len();
        padded.resize(len + 40, 0xee);
        let sent = lab.send(CLIENT, &padded);
        assert_eq!(sent.frame.len(), len, "the frame ends with the packet");
    }
}

fn a_frame_to_everyone() {
    for f in FAMILIES {
        let frame = Packet::udp((f.client(), 1), (f.web(), 2)).build();
        let mut lab = Lab::new();
        lab.drops("to a group", CLIENT, &changed(&frame, &[(0, 0x01)]), Multicast);
        lab.drops("to everyone", CLIENT, &changed(&frame, &[(0, 0xff)]), Multicast);
    }
}
