//! SCTP: ports and CRC32c through a Service, what opens an association, chunks that do not fit.

use atalho_engine::verdict::{DropReason, PuntReason};

use crate::lab::damage::changed;
use crate::lab::packet::{Layer4, Packet};
use crate::lab::sctp::{ABORT, COOKIE_ECHO, DATA, HEARTBEAT, INIT, INIT_ACK, mend};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 9260 section 6.8", "an association through a Service: ports and CRC32c anew, both ways", cluster_ip),
    vector("RFC 9260 section 6.8", "an association through a node port: masqueraded", node_port),
    vector("RFC 9260 section 6.8", "a wrong CRC32c is found before it is covered up", wrong_checksum),
    vector("RFC 9260 section 5.1", "only an INIT begins an association through a Service", what_begins),
    vector("RFC 9260 section 8.4", "the middle of an association is picked up where nothing is translated", mid_stream),
    vector("RFC 9260 section 6.10", "chunks that do not fit their packet, or travel together", chunks),
    vector("Service v1, endpoints", "no endpoint", no_endpoint),
];

const SERVICE_PORT: u16 = 38412;
const TARGET_PORT: u16 = 3868;

fn cluster_ip() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let (client, vip, web) = ((f.client(), 40_000), (f.vip_local(), SERVICE_PORT), (f.web(), TARGET_PORT));
        for (there, back) in [(INIT, INIT_ACK), (COOKIE_ECHO, DATA), (DATA, DATA)] {
            let asked = Packet::new(client, Layer4::Sctp(there), vip);
            let expected = Packet::new(client, Layer4::Sctp(there), web).ttl(63);
            lab.forwards("there", CLIENT, &asked, HOP_WEB, &expected);
            let answer = Packet::new(web, Layer4::Sctp(back), client);
            let expected = Packet::new(vip, Layer4::Sctp(back), client).ttl(63);
            lab.forwards("back", WEB, &answer, HOP_CLIENT, &expected);
        }
        assert_eq!(lab.books().admitted, 1);
    }
}

fn node_port() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let (far, asked) = ((f.far(), 50_000), (f.node(), NODE_PORT_REMOTE));
        let request = Packet::new(far, Layer4::Sctp(INIT), asked);
        let seen = lab.forwarded("there", UPLINK, &request, HOP_OTHER_NODE);
        assert_eq!((seen.src.0, seen.dst), (f.node(), (f.remote_pod(), 8080)));
        let answer = Packet::new(seen.dst, Layer4::Sctp(INIT_ACK), seen.src);
        let expected = Packet::new(asked, Layer4::Sctp(INIT_ACK), far).ttl(63);
        lab.forwards("back", UPLINK, &answer, HOP_GATEWAY, &expected);
    }
}

fn wrong_checksum() {
    for f in FAMILIES {
        let mut frame = Packet::new((f.client(), 40_000), Layer4::Sctp(INIT), (f.vip_local(), SERVICE_PORT)).build();
        *frame.last_mut().unwrap() ^= 1;
        Lab::new().drops("damaged", CLIENT, &frame, DropReason::BadChecksum);
    }
}

fn what_begins() {
    for f in FAMILIES {
        let packet =
            |chunk| Packet::new((f.client(), 40_000), Layer4::Sctp(chunk), (f.vip_local(), SERVICE_PORT)).build();
        for chunk in [DATA, INIT_ACK, HEARTBEAT] {
            Lab::new().punts("not an INIT", CLIENT, &packet(chunk), PuntReason::NoConnection);
        }
        for chunk in [COOKIE_ECHO, ABORT] {
            Lab::new().drops("nobody answers it", CLIENT, &packet(chunk), DropReason::SctpNotInit);
        }
    }
}

fn mid_stream() {
    for f in FAMILIES {
        let packet = |chunk| Packet::new((f.client(), 40_000), Layer4::Sctp(chunk), (f.web(), 3868));
        Lab::new().forwarded("a HEARTBEAT", CLIENT, &packet(HEARTBEAT), HOP_WEB);
        Lab::new().drops("DATA", CLIENT, &packet(DATA).build(), DropReason::SctpNotInit);
        let mut lab = Lab::new();
        lab.tables.settings = atalho_engine::tables::Settings { tcp_loose: false, ..Default::default() }.into();
        lab.drops("not picked up", CLIENT, &packet(HEARTBEAT).build(), DropReason::SctpNotInit);
    }
}

fn chunks() {
    for f in FAMILIES {
        let frame = |chunk, payload: &[u8]| {
            Packet::new((f.client(), 40_000), Layer4::Sctp(chunk), (f.web(), 3868)).payload(payload).build()
        };
        let at = if f == Family::V4 { 34 } else { 54 };
        let mended = |frame: &[u8], changes: &[(usize, u8)]| {
            let mut frame = changed(frame, changes);
            mend(&mut frame[at..]);
            frame
        };
        let (init, data) = (frame(INIT, b""), frame(DATA, b"four"));
        let mut lab = Lab::new();
        for (what, frame) in [
            ("a chunk beyond the packet", mended(&data, &[(at + 15, 9)])),
            ("a chunk shorter than its header", mended(&data, &[(at + 15, 3)])),
            ("the rest is no chunk", mended(&frame(DATA, &[0; 8]), &[(at + 15, 4)])),
            ("an INIT with a tag", mended(&init, &[(at + 4, 1)])),
            ("an INIT that offers no tag", mended(&init, &[(at + 16, 0), (at + 17, 0), (at + 18, 0), (at + 19, 0)])),
            ("DATA without a tag", mended(&data, &[(at + 4, 0), (at + 5, 0), (at + 6, 0), (at + 7, 0)])),
            ("an INIT with company", mended(&frame(INIT, &[0, 0, 0, 4]), &[(at + 15, 20)])),
        ] {
            lab.drops(what, CLIENT, &frame, DropReason::SctpChunks);
        }
    }
}

fn no_endpoint() {
    for f in FAMILIES {
        let packet = Packet::new((f.client(), 40_000), Layer4::Sctp(INIT), (f.vip_empty(), SERVICE_PORT));
        Lab::new().punts("no endpoint", CLIENT, &packet.build(), PuntReason::NoEndpoint);
    }
}
