//! What an ICMP error quotes: cut off anywhere, with other headers, with something behind.

use atalho_engine::verdict::{DropReason, Verdict};

use crate::lab::damage::changed;
use crate::lab::icmp;
use crate::lab::packet::{Layer4, Packet, SYN, verify};
use crate::lab::sctp::INIT;
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 792", "a quotation cut off at every byte behind its ports, SCTP's checksum included", cut_off),
    vector("RFC 792", "a quotation cut off before its ports", cut_too_early),
    vector("RFC 4884 section 4", "an extension behind a padded quotation is kept", extension),
    vector("RFC 5508 section 4.2", "a quoted packet whose TTL went down on the way", other_ttl),
    vector("RFC 768", "a quoted datagram without a checksum gets none", no_checksum),
    vector("RFC 791 section 3.1", "a quoted packet with options", options),
    vector("RFC 8200 section 4.1", "a quoted packet with extension headers", extension_headers),
    vector("RFC 1122 section 3.2.2", "errors about errors are dropped", about_errors),
    vector("RFC 5508 section 7", "quoted packets of protocols and types that have no flows", no_flow),
    vector("RFC 5508 section 4.1", "an error about another host's packet", another_hosts),
    vector("RFC 5508 section 4.1", "errors about no known flow: the node's own affair, or nobody's", unknown_flow),
    vector("RFC 2827 section 3", "a pod's error that is not from it", forged),
];

/// A pod's request to a far host, as it was sent and as it left, in bytes from the IP header on.
struct Request {
    lab: Lab,
    f: Family,
    sent: Vec<u8>,
    left: Vec<u8>,
}

impl Request {
    fn new(f: Family, layer4: Layer4) -> Self {
        Self::of(f, &Packet::new((f.client(), 40_000), layer4, (f.far(), 9)).build())
    }

    fn of(f: Family, frame: &[u8]) -> Self {
        let mut lab = Lab::new();
        let out = lab.send(CLIENT, frame);
        assert_eq!(out.verdict, Verdict::Forward { next_hop: HOP_GATEWAY });
        let mut sent = frame[14..].to_vec();
        let left = out.frame[14..].to_vec();
        // What comes back quotes the TTL that the packet had then, and in IPv4 the checksum over it.
        if f == Family::V4 {
            sent = damage::mended(&[&[0; 14], &sent[..]].concat(), &[(22, left[8])]).split_off(14);
        } else {
            sent[7] = left[7];
        }
        Self { lab, f, sent, left }
    }

    fn error(&self, quote: &[u8]) -> Vec<u8> {
        icmp::error(self.f.gateway(), self.f.node(), icmp::port_unreachable(self.f == Family::V4), [0; 4], quote)
    }

    /// An error that quotes `quote` reaches the client, quoting `expected`.
    #[track_caller]
    fn translates(&mut self, quote: &[u8], expected: &[u8]) {
        let sent = self.lab.send(UPLINK, &self.error(quote));
        assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_CLIENT }, "{} bytes", quote.len());
        let seen = verify(&sent.frame);
        assert_eq!((seen.src.0, seen.dst.0), (self.f.gateway(), self.f.client()));
        assert_eq!(seen.payload, expected, "{} bytes", quote.len());
    }

    #[track_caller]
    fn drops(&mut self, what: &str, quote: &[u8], reason: DropReason) {
        let error = self.error(quote);
        self.lab.drops(what, UPLINK, &error, reason);
    }
}

fn header_bytes(f: Family) -> usize {
    if f == Family::V4 { 20 } else { 40 }
}

fn cut_off() {
    for f in FAMILIES {
        for (layer4, checksum) in [(Layer4::Udp, 6..8), (SYN, 16..18), (Layer4::Sctp(INIT), 8..12)] {
            let mut request = Request::new(f, layer4);
            for end in header_bytes(f) + 8..=request.left.len() {
                // A part of a checksum says nothing, and stays.
                if (checksum.start + 1..checksum.end).contains(&(end - header_bytes(f))) {
                    continue;
                }
                let (quote, expected) = (request.left[..end].to_vec(), request.sent[..end].to_vec());
                request.translates(&quote, &expected);
            }
        }
    }
}

fn cut_too_early() {
    for f in FAMILIES {
        let mut request = Request::new(f, Layer4::Udp);
        for end in 0..header_bytes(f) + 8 {
            let quote = request.left[..end].to_vec();
            request.drops("cut off", &quote, DropReason::IcmpQuote);
        }
    }
}

fn extension() {
    for f in FAMILIES {
        // 128 bytes of quotation, zero behind the packet, then a structure with a checksum of its own.
        let structure = [0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0, 0, 0x10, 1];
        let mut request = Request::new(f, Layer4::Udp);
        let padded = |packet: &[u8]| {
            let mut quote = packet.to_vec();
            quote.resize(128, 0);
            [&quote[..], &structure].concat()
        };
        // The length of the quotation: in words of 4 bytes in the third byte, in IPv6 of 8 in the first.
        let rest = if f == Family::V4 { [0, 32, 0, 0] } else { [16, 0, 0, 0] };
        let kind = if f == Family::V4 { [11, 0] } else { [3, 0] };
        let error = icmp::error(f.gateway(), f.node(), kind, rest, &padded(&request.left));
        let sent = request.lab.send(UPLINK, &error);
        assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_CLIENT });
        let at = 14 + header_bytes(f) + 4;
        assert_eq!(sent.frame[at..], [&rest[..], &padded(&request.sent)].concat());
    }
}

fn other_ttl() {
    for f in FAMILIES {
        let mut request = Request::new(f, Layer4::Udp);
        let with_ttl = |packet: &[u8], ttl| {
            let frame = [&[0; 14], packet].concat();
            let frame =
                if f == Family::V4 { damage::mended(&frame, &[(22, ttl)]) } else { changed(&frame, &[(21, ttl)]) };
            frame[14..].to_vec()
        };
        for ttl in [0, 1, 7, 62] {
            let (quote, expected) = (with_ttl(&request.left, ttl), with_ttl(&request.sent, ttl));
            request.translates(&quote, &expected);
        }
    }
}

fn no_checksum() {
    let f = Family::V4;
    let frame = Packet::udp((f.client(), 40_000), (f.far(), 9)).build();
    let mut request = Request::of(f, &changed(&frame, &[(40, 0), (41, 0)]));
    let (quote, expected) = (request.left.clone(), request.sent.clone());
    assert_eq!(quote[26..28], [0, 0]);
    request.translates(&quote, &expected);
}

fn options() {
    let f = Family::V4;
    for options in [&[7, 7, 4, 0, 0, 0, 0, 1][..], &[1; 40]] {
        let packet = Packet::udp((f.client(), 40_000), (f.far(), 9)).options(options);
        let mut request = Request::of(f, &packet.build());
        for end in [28 + options.len(), request.left.len()] {
            let (quote, expected) = (request.left[..end].to_vec(), request.sent[..end].to_vec());
            request.translates(&quote, &expected);
        }
    }
}

fn extension_headers() {
    let f = Family::V6;
    let plain = Packet::udp((f.client(), 40_000), (f.far(), 9)).build();
    let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let authentication = |next| [&[next, 4][..], &[9; 22]].concat();
    let fragment = |next| [next, 0, 0, 0, 1, 2, 3, 4];
    for (first, headers) in [
        (0, options(17).to_vec()),
        (60, options(17).to_vec()),
        (51, authentication(17)),
        (44, fragment(17).to_vec()),
        (0, [&options(60)[..], &options(51), &authentication(60), &options(17)].concat()),
    ] {
        let mut frame = [&plain[..54], &headers, &plain[54..]].concat();
        frame[20] = first;
        frame[19] += headers.len() as u8;
        let mut request = Request::of(f, &frame);
        for end in [48 + headers.len(), request.left.len()] {
            let (quote, expected) = (request.left[..end].to_vec(), request.sent[..end].to_vec());
            request.translates(&quote, &expected);
        }
        let quote = request.left[..47 + headers.len()].to_vec();
        request.drops("cut off in its ports", &quote, DropReason::IcmpQuote);
    }
}

fn about_errors() {
    for f in FAMILIES {
        let mut request = Request::new(f, Layer4::Udp);
        for kind in icmp::kinds(f == Family::V4) {
            let inner = icmp::error(f.node(), f.far(), kind, [0; 4], &request.left);
            request.drops("an error", &inner[14..], DropReason::IcmpAboutError);
        }
    }
}

fn no_flow() {
    for f in FAMILIES {
        let mut request = Request::new(f, Layer4::Udp);
        let at = if f == Family::V4 { 9 } else { 6 };
        for protocol in [2, 47, 50, 59] {
            let quote = changed(&request.left, &[(at, protocol)]);
            request.drops("a protocol", &quote, DropReason::IcmpQuote);
        }
        for kind in if f == Family::V4 { [5, 13] } else { [137, 135] } {
            let quote = icmp::error(f.node(), f.far(), [kind, 0], [0; 4], &[0; 32]);
            request.drops("a message for one link", &quote[14..], DropReason::IcmpQuote);
        }
    }
    let mut request = Request::new(Family::V4, Layer4::Udp);
    let later = changed(&request.left, &[(6, 0), (7, 9)]);
    request.drops("a later fragment", &later, DropReason::IcmpQuote);
}

fn another_hosts() {
    for f in FAMILIES {
        let mut request = Request::new(f, Layer4::Udp);
        let kind = icmp::port_unreachable(f == Family::V4);
        let error = icmp::error(f.gateway(), f.web(), kind, [0; 4], &request.left);
        request.lab.drops("sent to another", UPLINK, &error, DropReason::IcmpQuote);
    }
}

fn unknown_flow() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let nodes_own = Packet::udp((f.node(), 5_000), (f.far(), 53));
        lab.drops("about the node's packet", UPLINK, &nodes_own.unreachable(f.far()), DropReason::NotForUs);
        let to_pod = Packet::udp((f.node(), 5_000), (f.web(), 53));
        let error = to_pod.unreachable(f.web());
        let sent = lab.send(WEB, &error);
        assert_eq!(sent.verdict, Verdict::Forward { next_hop: HOP_NODE }, "from a pod to its node");
        assert_eq!(sent.frame[14..], error[14..], "as it is");
        let transit = Packet::udp((f.other_node(), 5_000), (f.far(), 53));
        lab.drops("between others", UPLINK, &transit.unreachable(f.far()), DropReason::NotForUs);
        let of_pod = Packet::udp((f.client(), 5_000), (f.far(), 53));
        lab.drops("about a pod's", UPLINK, &of_pod.unreachable(f.far()), DropReason::IcmpUnknownFlow);
        let of_vip = Packet::udp((f.vip_local(), 53), (f.far(), 5_000));
        lab.drops("about a Service's", UPLINK, &of_vip.unreachable(f.far()), DropReason::IcmpUnknownFlow);
        let of_other_pod = Packet::udp((f.remote_pod(), 53), (f.client(), 5_000));
        lab.drops("from a pod", CLIENT, &of_other_pod.unreachable(f.client()), DropReason::IcmpUnknownFlow);
    }
}

fn forged() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let request = Packet::udp((f.client(), 40_000), (f.web(), 8080));
        lab.forwarded("request", CLIENT, &request, HOP_WEB);
        lab.drops("from a router that it is not", WEB, &request.unreachable(f.gateway()), DropReason::WrongSource);
        lab.drops("from outside with a pod's address", UPLINK, &request.unreachable(f.web()), DropReason::Martian);
        let unknown = Packet::udp((f.client(), 40_001), (f.web(), 8080));
        lab.drops("about no flow", WEB, &unknown.unreachable(f.gateway()), DropReason::WrongSource);
    }
}
