//! ICMP errors about packets of flows.

use atalho_engine::verdict::{DropReason, Verdict};

use crate::lab::packet::{Layer4, Packet, SYN, read_quoted, verify};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[vector(
    "RFC 5508 section 4.2",
    "translated outside and inside, with every checksum",
    icmp_errors_are_translated_outside_and_inside,
)];

fn icmp_errors_are_translated_outside_and_inside() {
    for f in FAMILIES {
        for (layer4, port, target) in [(Layer4::Udp, 53, 5353), (SYN, 80, 8080)] {
            let mut lab = Lab::new();
            let asked = Packet::new((f.client(), 40_000), layer4, (f.vip_local(), port));
            lab.forwarded("request", CLIENT, &asked, HOP_WEB);
            let delivered = Packet::new((f.client(), 40_000), layer4, (f.web(), target)).ttl(63);
            let sent = lab.send(WEB, &delivered.unreachable(f.web()));
            assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_CLIENT });
            let seen = verify(&sent.frame);
            assert_eq!((seen.src.0, seen.dst.0), (f.vip_local(), f.client()), "the endpoint hides behind the VIP");
            let quoted = read_quoted(&seen.payload);
            assert_eq!(quoted, ((f.client(), 40_000), (f.vip_local(), port)), "the client sees its own packet");
            verify_quoted_whole(&seen.payload);
        }

        let mut lab = Lab::new();
        let asked = Packet::udp((f.client(), 40_000), (f.far(), 9));
        let out = lab.forwarded("pod to far host", CLIENT, &asked, HOP_GATEWAY);
        let on_the_wire = Packet::udp(out.src, out.dst).ttl(60);
        let sent = lab.send(UPLINK, &on_the_wire.unreachable(f.gateway()));
        assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_CLIENT });
        let seen = verify(&sent.frame);
        assert_eq!((seen.src.0, seen.dst.0), (f.gateway(), f.client()), "a router on the way shows itself");
        assert_eq!(read_quoted(&seen.payload), (asked.src, asked.dst));
        verify_quoted_whole(&seen.payload);

        let other = Packet::udp((f.node(), 61_001), (f.far(), 10));
        lab.drops("about no flow of ours", UPLINK, &other.unreachable(f.far()), DropReason::NotForUs);
        let mut damaged = on_the_wire.unreachable(f.gateway());
        *damaged.last_mut().unwrap() ^= 1;
        lab.drops("damaged", UPLINK, &damaged, DropReason::BadChecksum);
    }
}

/// A short packet is quoted whole, so its checksums can be verified like those of any other.
fn verify_quoted_whole(quoted: &[u8]) {
    let ether_type: &[u8] = if quoted[0] >> 4 == 4 { &[0x08, 0x00] } else { &[0x86, 0xdd] };
    verify(&[&[2; 12], ether_type, quoted].concat());
}
