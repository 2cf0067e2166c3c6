//! ICMP echo.

use atalho_engine::verdict::DropReason;

use crate::lab::packet::{Layer4, Packet};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] =
    &[vector("RFC 5508 section 3.1", "the identifier is translated like a port, and back", echo)];

fn echo() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let request = Packet::echo(f.client(), Layer4::EchoRequest(77), f.web());
        lab.forwards("pod pings pod", CLIENT, &request, HOP_WEB, &request.clone().ttl(63));
        let reply = Packet::echo(f.web(), Layer4::EchoReply(77), f.client());
        lab.forwards("its reply", WEB, &reply, HOP_CLIENT, &reply.clone().ttl(63));

        for id in [1234, 0] {
            let request = Packet::echo(f.client(), Layer4::EchoRequest(id), f.far());
            let seen = lab.forwarded("pod pings far host", CLIENT, &request, HOP_GATEWAY);
            assert_eq!(seen.src.0, f.node());
            let Some(Layer4::EchoRequest(new_id)) = seen.layer4 else { panic!("{seen:?}") };
            assert_ne!(new_id, id, "the identifier is translated like a port");
            let reply = Packet::echo(f.far(), Layer4::EchoReply(new_id), f.node());
            let expected = Packet::echo(f.far(), Layer4::EchoReply(id), f.client()).ttl(63);
            lab.forwards("its reply", UPLINK, &reply, HOP_CLIENT, &expected);
        }
        let stray = Packet::echo(f.far(), Layer4::EchoReply(5), f.client());
        lab.drops("a reply that nobody asked for", UPLINK, &stray.build(), DropReason::IcmpUnknownFlow);
    }
}
