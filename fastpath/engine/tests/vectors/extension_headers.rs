//! IPv6 extension headers.

use atalho_engine::verdict::{DropReason, Verdict};

use crate::lab::damage::changed;
use crate::lab::packet::{Packet, verify};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 8200 section 4.1", "options headers are walked within a bound, and kept", walked),
    vector("RFC 8200 section 4.1", "more than one of each, in another order", refused),
    vector("RFC 5095 section 3", "routing headers are refused", routing),
];

const F: Family = Family::V6;

/// A UDP packet to a Service with headers of eight bytes (six bytes of padding option) of these types.
fn with(types: &[u8]) -> Vec<u8> {
    let plain = Packet::udp((F.client(), 1), (F.vip_local(), 53)).build();
    let mut headers = Vec::new();
    for i in 0..types.len() {
        let next = types.get(i + 1).copied().unwrap_or(17);
        headers.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    let mut frame = [&plain[..54], &headers, &plain[54..]].concat();
    frame[20] = types[0];
    let payload = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&payload.to_be_bytes());
    frame
}

fn walked() {
    for types in [&[0][..], &[60], &[0, 60], &[0, 60, 60, 60]] {
        let mut lab = Lab::new();
        let frame = with(types);
        let sent = lab.send(CLIENT, &frame);
        assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_WEB }, "{types:?}");
        let seen = verify(&sent.frame);
        assert_eq!((seen.src, seen.dst), ((F.client(), 1), (F.web(), 5353)));
        assert_eq!(sent.frame.len(), frame.len());
    }
}

fn refused() {
    let mut lab = Lab::new();
    for types in [&[60, 0][..], &[0, 60, 60, 60, 60]] {
        lab.drops("refused", CLIENT, &with(types), DropReason::ExtensionHeaders);
    }
    let long = changed(&with(&[60]), &[(55, 200)]);
    lab.drops("a header beyond the packet", CLIENT, &long, DropReason::BadHeaderLength);
}

fn routing() {
    let mut lab = Lab::new();
    lab.drops("a routing header", CLIENT, &with(&[43]), DropReason::ExtensionHeaders);
    lab.drops("behind another", CLIENT, &with(&[0, 43]), DropReason::ExtensionHeaders);
}
