//! TCP connections: beginnings, middles, and a tuple used again.

use atalho_engine::verdict::{DropReason, Verdict};

use crate::lab::packet::{ACK, ACKNOWLEDGED, Layer4, Packet, SYN, SYN_ACK, verify};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector(
        "RFC 9293 section 3.10.7",
        "the middle of a connection is picked up or not, as configured",
        middles_of_connections,
    ),
    vector(
        "RFC 9293 section 3.10.7",
        "a batch that begins and continues a flow makes one connection",
        a_batch_that_begins_and_continues_a_flow_makes_one_connection,
    ),
    vector(
        "RFC 9293 section 3.6.1",
        "a connection on the tuple of one that is over is chosen anew",
        a_new_connection_on_the_ports_of_one_that_is_over_is_chosen_anew,
    ),
];

fn middles_of_connections() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let middle = Packet::new((f.client(), 40_000), ACK, (f.web(), 8080));
        lab.forwarded("picked up", CLIENT, &middle, HOP_WEB);
        let reset = Packet::new((f.client(), 40_001), Layer4::Tcp(4), (f.web(), 8080));
        lab.drops("a reset of nothing", CLIENT, &reset.build(), DropReason::TcpNotSyn);
        lab.tables.settings = atalho_engine::tables::Settings { tcp_loose: false, ..Default::default() }.into();
        let middle = Packet::new((f.client(), 40_002), ACK, (f.web(), 8080));
        lab.drops("not picked up", CLIENT, &middle.build(), DropReason::TcpNotSyn);
    }
}

fn a_batch_that_begins_and_continues_a_flow_makes_one_connection() {
    use atalho_engine::pipeline::Slot;
    // In the middle of the batch the rest of a connection to a Service is nothing without its beginning.
    let asked = |f: Family| [(f.far(), HOP_GATEWAY), (f.vip_remote(), HOP_OTHER_NODE)];
    for (asked, next_hop) in FAMILIES.into_iter().flat_map(asked) {
        let mut lab = Lab::new();
        let client = if asked.is_ipv4() { Family::V4.client() } else { Family::V6.client() };
        let packet = |flags| Packet::new((client, 40_000), flags, (asked, 80)).build();
        let mut frames: Vec<Vec<u8>> = (0..200).map(|i| packet(if i == 0 { SYN } else { ACK })).collect();
        let mut batch: Vec<Slot<'_>> = frames.iter_mut().map(|frame| Slot::new(frame, CLIENT)).collect();
        lab.engine.process(&lab.tables, lab.now_s, &mut batch);
        for slot in &batch {
            assert_eq!(slot.verdict, Verdict::Forward { next_hop });
        }
        let sources: std::collections::HashSet<_> = frames.iter().map(|frame| verify(frame).src).collect();
        assert_eq!(sources.len(), 1, "one masqueraded source for all");
        assert_eq!(lab.table.count(), 1);
        assert_eq!(lab.books().received, 200);
    }
}

fn a_new_connection_on_the_ports_of_one_that_is_over_is_chosen_anew() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let (client, vip, web) = ((f.client(), 40_000), (f.vip_local(), 80), (f.web(), 8080));
        lab.forwarded("SYN", CLIENT, &Packet::new(client, SYN, vip), HOP_WEB);
        lab.forwarded("SYN-ACK", WEB, &Packet::new(web, SYN_ACK, client), HOP_CLIENT);
        lab.forwarded("ACK", CLIENT, &Packet::new(client, ACK, vip), HOP_WEB);
        lab.forwarded("SYN again, too early", CLIENT, &Packet::new(client, SYN, vip), HOP_WEB);
        assert_eq!(lab.books().admitted, 1);
        let reset = Packet::new(web, Layer4::Tcp(4), client).payload(b"");
        lab.forwarded("a blind reset changes nothing", WEB, &reset, HOP_CLIENT);
        lab.forwarded("SYN again, still too early", CLIENT, &Packet::new(client, SYN, vip), HOP_WEB);
        assert_eq!(lab.books().admitted, 1);
        lab.forwarded("reset", WEB, &reset.sequence(ACKNOWLEDGED), HOP_CLIENT);
        lab.forwarded("SYN again", CLIENT, &Packet::new(client, SYN, vip), HOP_WEB);
        assert_eq!(lab.books().admitted, 2);
        assert_eq!(lab.table.count(), 1);
    }
}
