//! Transport checksums: made anew from the difference alone, so what is wrong stays wrong.

use atalho_engine::verdict::Verdict;

use crate::lab::packet::{Layer4, Packet, SYN};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 1624 section 3", "a packet damaged on its way leaves damaged in the same bits", damage_stays),
    vector("RFC 1624 section 5", "checksums of every value, through addresses and ports of every kind", every_value),
];

fn damage_stays() {
    for f in FAMILIES {
        let requests = [
            (Packet::new((f.client(), 1), Layer4::Udp, (f.vip_local(), 53)), HOP_WEB),
            (Packet::new((f.client(), 1), SYN, (f.vip_local(), 80)), HOP_WEB),
            (Packet::echo(f.client(), Layer4::EchoRequest(7), f.far()), HOP_GATEWAY),
        ];
        for (request, next_hop) in requests {
            let whole = request.build();
            let mut lab = Lab::new();
            let right = lab.send(CLIENT, &whole);
            assert_eq!(right.verdict, Verdict::Forward { next_hop });
            // A bit of the payload's last byte; the packet is of the same flow.
            let mut damaged = whole.clone();
            *damaged.last_mut().unwrap() ^= 0x10;
            let sent = lab.send_unverified(CLIENT, &damaged);
            assert_eq!(sent.verdict, Verdict::Forward { next_hop });
            let mut expected = right.frame.clone();
            *expected.last_mut().unwrap() ^= 0x10;
            assert_eq!(sent.frame, expected);
        }
    }
}

/// Source ports run through all values, and with them the checksum; what leaves is verified each time.
fn every_value() {
    for f in FAMILIES {
        for (layer4, port) in [(Layer4::Udp, 53), (SYN, 80)] {
            let mut lab = Lab::new();
            // The table has room for a thousand connections and makes it anew.
            for src_port in (1..=u16::MAX).step_by(17) {
                let request = Packet::new((f.client(), src_port), layer4, (f.vip_local(), port)).payload(b"");
                let sent = lab.send(CLIENT, &request.build());
                if sent.verdict != (Verdict::Forward { next_hop: HOP_WEB }) {
                    lab = Lab::new();
                }
            }
        }
    }
}
