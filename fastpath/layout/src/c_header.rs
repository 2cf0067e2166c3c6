//! Prints the C side of the shared structures.

use std::fmt::Write;

use crate::flow::{SLOTS_PER_BUCKET, Struct, TAG_BYTES, state};
use crate::hash::SECRET_WORDS;
use crate::next_hop::hop;
use crate::{
    CLAIM_KEY, ClaimKind, FLOW4, FLOW6, FUNNEL_QUEUES_MAX, KERNEL_COUNTERS, LAYOUT_VERSION, LPM_KEY, NEXT_HOP,
    NextHopKind, PORT, PRESSURE, Phase, SHARES_PER_QUEUE, TAG_PREFIX,
};

/// The header `layout.h`: structs, constants, and a static assertion for every size and offset.
pub fn c_header() -> String {
    let mut out = String::from(
        "/* Made from the crate atalho-layout; do not edit. */\n#pragma once\n#include <linux/types.h>\n\n",
    );
    let constants: &[(&str, u64)] = &[
        ("LAYOUT_VERSION", LAYOUT_VERSION as u64),
        ("SLOTS_PER_BUCKET", SLOTS_PER_BUCKET as u64),
        ("TAG_BYTES", TAG_BYTES as u64),
        ("SECRET_WORDS", SECRET_WORDS as u64),
        ("TAG_PREFIX_0", TAG_PREFIX[0] as u64),
        ("TAG_PREFIX_1", TAG_PREFIX[1] as u64),
        ("SHARES_PER_QUEUE", SHARES_PER_QUEUE as u64),
        ("FUNNEL_QUEUES_MAX", FUNNEL_QUEUES_MAX as u64),
        ("PHASE_LIVE", Phase::Live as u64),
        ("KIND_REPLY", state::KIND_REPLY as u64),
        ("KIND_SNAT", state::KIND_SNAT as u64),
        ("KIND_DNAT", state::KIND_DNAT as u64),
        ("NEXT_HOP_NODE", NextHopKind::Node as u64),
        ("NEXT_HOP_POD", NextHopKind::Pod as u64),
        ("NEXT_HOP_UPLINK", NextHopKind::Uplink as u64),
        ("NEXT_HOP_RESOLVED", hop::RESOLVED),
        ("CLAIM_VIP", ClaimKind::Vip as u64),
        ("CLAIM_NODE_PORT", ClaimKind::NodePort as u64),
        ("CLAIM_POD", ClaimKind::Pod as u64),
        ("CLAIM_SERVICE_CIDR", ClaimKind::ServiceCidr as u64),
        ("CLAIM_NODE", ClaimKind::Node as u64),
    ];
    for (name, value) in constants {
        let suffix = if *value > u32::MAX as u64 { "ULL" } else { "" };
        let _ = writeln!(out, "#define {name} {value}{suffix}");
    }
    out.push_str("\nenum kernel_counter {\n");
    for counter in KERNEL_COUNTERS {
        let _ = writeln!(out, "    C_{} = {},", counter.name().to_uppercase(), *counter as u32);
    }
    let _ = writeln!(out, "    KERNEL_COUNTERS = {},\n}};", KERNEL_COUNTERS.len());
    for s in [&FLOW4, &FLOW6, &NEXT_HOP, &CLAIM_KEY, &LPM_KEY, &PORT, &PRESSURE] {
        print_struct(&mut out, s);
    }
    out
}

fn print_struct(out: &mut String, s: &Struct) {
    let _ = writeln!(out, "\nstruct {} {{", s.name);
    for f in s.fields {
        let array = if f.count > 1 { format!("[{}]", f.count) } else { String::new() };
        let _ = writeln!(out, "    {} {}{array};", f.c_type, f.name.to_lowercase());
    }
    let _ = writeln!(out, "}};\n_Static_assert(sizeof(struct {}) == {}, \"size\");", s.name, s.size);
    for f in s.fields {
        let _ = writeln!(
            out,
            "_Static_assert(__builtin_offsetof(struct {}, {}) == {}, \"offset of {}\");",
            s.name,
            f.name.to_lowercase(),
            f.offset,
            f.name
        );
    }
}
