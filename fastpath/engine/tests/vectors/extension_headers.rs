//! IPv6 extension headers.

use atalho_engine::verdict::DropReason::{self, *};
use atalho_engine::verdict::Verdict;

use crate::lab::packet::{Packet, verify};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector(
        "RFC 8200 section 4.1",
        "every order of options and authentication that there may be is walked and kept",
        walked,
    ),
    vector("RFC 8200 section 4.1", "more than the bound, or hop-by-hop behind another", refused),
    vector("RFC 8200 section 4.2", "headers that do not fit their packet", lengths),
    vector("RFC 8200 section 4.4", "a routing header that has led to its end is walked", routed),
    vector("RFC 8200 section 4.4", "a routing header that leads on is refused", leads_on),
    vector("RFC 5095 section 3", "a routing header of type 0 is refused", type_0),
    vector("RFC 4302 section 2.2", "an authentication header is walked by its own length", authentication),
    vector("RFC 6946 section 4", "an atomic fragment is a whole packet", atomic_fragment),
    vector("RFC 8200 section 4.7", "nothing follows, or nothing that is supported", unsupported),
];

const F: Family = Family::V6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// An extension header: its type, and its bytes but the first, which says what follows.
type Header<'a> = (u8, &'a [u8]);

/// Six bytes of padding option.
const PADDING: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
/// SPI, sequence number and a check value of 12 bytes.
const AUTHENTICATED: &[u8] = &[4, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
const OPTIONS: Header<'_> = (DESTINATION, PADDING);

/// A UDP packet to a Service, `last` instead of UDP's number behind these headers.
fn with_last(headers: &[Header<'_>], last: u8) -> Vec<u8> {
    let plain = Packet::udp((F.client(), 1), (F.vip_local(), 53)).build();
    let mut extensions = Vec::new();
    for (i, (_, bytes)) in headers.iter().enumerate() {
        extensions.push(headers.get(i + 1).map_or(last, |(kind, _)| *kind));
        extensions.extend(*bytes);
    }
    let mut frame = [&plain[..54], &extensions, &plain[54..]].concat();
    frame[20] = headers.first().map_or(last, |(kind, _)| *kind);
    let payload = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&payload.to_be_bytes());
    frame
}

fn with(headers: &[Header<'_>]) -> Vec<u8> {
    with_last(headers, 17)
}

/// Goes to the endpoint, and the headers are as they were.
#[track_caller]
fn passes(headers: &[Header<'_>]) {
    let frame = with(headers);
    let sent = Lab::new().send(CLIENT, &frame);
    assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_WEB }, "{headers:?}");
    let seen = verify(&sent.frame);
    assert_eq!((seen.src, seen.dst), ((F.client(), 1), (F.web(), 5353)));
    let extensions: usize = headers.iter().map(|(_, bytes)| bytes.len() + 1).sum();
    assert_eq!(sent.frame[54..54 + extensions], frame[54..54 + extensions]);
    assert_eq!(sent.frame[20], frame[20]);
}

#[track_caller]
fn drops(headers: &[Header<'_>], reason: DropReason) {
    Lab::new().drops(&format!("{headers:?}"), CLIENT, &with(headers), reason);
}

fn walked() {
    let hop = (HOP_BY_HOP, PADDING);
    let authentication = (AUTHENTICATION, AUTHENTICATED);
    for headers in [
        &[hop][..],
        &[OPTIONS],
        &[hop, OPTIONS],
        &[hop, OPTIONS, authentication, OPTIONS],
        &[authentication, OPTIONS],
        &[hop, OPTIONS, OPTIONS, OPTIONS, OPTIONS, OPTIONS],
    ] {
        passes(headers);
    }
}

fn refused() {
    drops(&[OPTIONS, (HOP_BY_HOP, PADDING)], ExtensionHeaders);
    drops(&[(HOP_BY_HOP, PADDING), (HOP_BY_HOP, PADDING)], ExtensionHeaders);
    drops(&[OPTIONS; 7], ExtensionHeaders);
}

fn lengths() {
    let beyond = [200, 1, 4, 0, 0, 0, 0];
    drops(&[(DESTINATION, &beyond)], BadHeaderLength);
    drops(&[OPTIONS, (AUTHENTICATION, &beyond)], BadHeaderLength);
    // Shorter than what every authentication header has: there is no place for its sequence number.
    drops(&[(AUTHENTICATION, &[0; 7])], BadHeaderLength);
    let mut cut = with(&[OPTIONS]);
    // A payload of one byte: the header's own length is not there.
    cut[18..20].copy_from_slice(&[0, 1]);
    Lab::new().drops("cut off in its first bytes", CLIENT, &cut[..55], TooShort);
    // As long as they can be: 2,048 bytes, which is a longer packet than the link takes.
    let longest = [&[255, 1, 0][..], &[0; 2044]].concat();
    let sent = Lab::new().send(CLIENT, &with(&[(DESTINATION, &longest)]));
    assert!(matches!(sent.verdict, Verdict::Punt(_)), "{:?}", sent.verdict);
}

fn routed() {
    for kind in [2, 3, 4, 253] {
        passes(&[(ROUTING, &[0, kind, 0, 0, 0, 0, 0])]);
    }
    passes(&[(HOP_BY_HOP, PADDING), OPTIONS, (ROUTING, &[0, 4, 0, 0, 0, 0, 0]), OPTIONS]);
}

fn leads_on() {
    for kind in [2, 3, 4] {
        drops(&[(ROUTING, &[0, kind, 1, 0, 0, 0, 0])], SourceRouted);
    }
    drops(&[OPTIONS, (ROUTING, &[0, 4, 255, 0, 0, 0, 0])], SourceRouted);
}

fn type_0() {
    drops(&[(ROUTING, &[0, 0, 0, 0, 0, 0, 0])], SourceRouted);
    drops(&[(HOP_BY_HOP, PADDING), (ROUTING, &[0, 0, 1, 0, 0, 0, 0])], SourceRouted);
}

fn authentication() {
    passes(&[(AUTHENTICATION, AUTHENTICATED)]);
    // A check value of 16 bytes and padding to a multiple of eight.
    passes(&[(AUTHENTICATION, &[&[6][..], &[7; 30]].concat())]);
}

fn atomic_fragment() {
    passes(&[(FRAGMENT, &[0, 0, 0, 1, 2, 3, 4])]);
    passes(&[OPTIONS, (FRAGMENT, &[0, 0, 0, 1, 2, 3, 4]), OPTIONS]);
}

fn unsupported() {
    for (what, last) in [("nothing", 59), ("ESP", 50), ("mobility", 135), ("host identity", 139), ("ICMP of IPv4", 1)] {
        Lab::new().drops(what, CLIENT, &with_last(&[OPTIONS], last), UnknownProtocol);
        Lab::new().drops(what, CLIENT, &with_last(&[], last), UnknownProtocol);
    }
}
