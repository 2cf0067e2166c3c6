//! ICMP messages that are neither echo nor an error.

use atalho_engine::verdict::DropReason::*;

use crate::lab::icmp;
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector("RFC 1812 section 5.2.7.2", "redirects are dropped", redirects),
    vector("RFC 6633 section 3", "source quench is dropped", source_quench),
    vector("RFC 5508 section 7", "other types are dropped: timestamps, masks, routers, neighbours, groups", others),
    vector("RFC 792", "a message shorter than its header", short),
];

fn redirects() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        for code in 0..4 {
            let kind = if f == Family::V4 { [5, code] } else { [137, code] };
            let message = icmp::error(f.gateway(), f.client(), kind, [0; 4], &[0; 40]);
            lab.drops("a redirect", UPLINK, &message, IcmpRedirect);
        }
    }
}

fn source_quench() {
    let f = Family::V4;
    let message = icmp::error(f.gateway(), f.client(), [4, 0], [0; 4], &[0; 40]);
    Lab::new().drops("source quench", UPLINK, &message, IcmpType);
}

fn others() {
    let mut lab = Lab::new();
    for (f, kinds) in [
        (Family::V4, &[1u8, 2, 6, 9, 10, 13, 14, 15, 16, 17, 18, 30, 40, 42, 255][..]),
        (Family::V6, &[0, 5, 100, 127, 130, 131, 132, 133, 134, 135, 136, 138, 143, 151, 155, 160, 255]),
    ] {
        for kind in kinds {
            let message = icmp::error(f.client(), f.web(), [*kind, 0], [0; 4], &[0; 40]);
            lab.drops(&format!("type {kind}"), CLIENT, &message, IcmpType);
        }
    }
}

fn short() {
    for f in FAMILIES {
        let message = icmp::error(f.client(), f.web(), [3, 0], [0; 4], &[]);
        let at = if f == Family::V4 { 16 } else { 18 };
        let mut cut = message[..message.len() - 1].to_vec();
        cut[at + 1] -= 1;
        let cut = if f == Family::V4 { damage::mended(&cut, &[]) } else { cut };
        Lab::new().drops("seven bytes", CLIENT, &cut, TooShort);
    }
}
