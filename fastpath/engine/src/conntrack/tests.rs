//! Tests of the table as a whole, and what they share.

mod collisions;
mod eviction;
mod life;
mod reference;
mod repair;
mod simulation;
mod threads;
mod walk;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atalho_layout::SECRET_WORDS;

use super::*;

const SECRET: [u64; SECRET_WORDS] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
    0x8ebc_6af0_9c88_c6e3,
    0x5899_65cc_7537_4cc3,
    0x1d8e_4e27_c47d_124f,
    0xeb44_acca_b455_d165,
    0x2545_f491_4f6c_dd1d,
];

/// Address `n` of a family.
fn address(is_ipv6: bool, n: u8) -> IpAddr {
    if is_ipv6 {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, n.into()))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 244, 0, n))
    }
}

fn key(is_ipv6: bool, protocol: Protocol, (src, src_port): (u8, u16), (dst, dst_port): (u8, u16)) -> FlowKey {
    FlowKey { src: address(is_ipv6, src), dst: address(is_ipv6, dst), src_port, dst_port, protocol }
}

/// A connection of `client` to a Service at address 200 port 80, translated to `backend` port 8080.
fn to_service(is_ipv6: bool, protocol: Protocol, client: (u8, u16), backend: u8) -> NewConnection {
    let request = key(is_ipv6, protocol, client, (200, 80));
    let answer = key(is_ipv6, protocol, (backend, 8080), client);
    let rewrite = |to: FlowKey| Rewrite { src: to.src, dst: to.dst, src_port: to.src_port, dst_port: to.dst_port };
    NewConnection {
        original: Direction { key: request, rewrite: rewrite(answer.reversed()), next_hop: 3, ingress: 11 },
        reply: Direction { key: answer, rewrite: rewrite(request.reversed()), next_hop: 4, ingress: 12 },
        is_service: true,
        first: Segment::Other,
    }
}

/// A packet of this flow that needs no judging passes.
fn pass(table: &ConnTable, flow: &Flow, now_s: u32) -> Followed {
    table.follow(flow, &Segment::Other, now_s, &Settings::default())
}

/// Makes everything that was removed reusable, as control does when no worker is running.
fn let_epochs_pass(epochs: &Epochs) {
    let target = epochs.advance();
    epochs.mark_safe(target);
}
