//! Services for people: a line for each VIP, or everything about one Service.

use std::fmt::Write;

use super::{ServiceRow, Side, VipRow};

pub(super) const HEAD: &str =
    "SERVICE                        VIP           PROTO  ADDRESS                          ENDPOINTS";

/// A line for each VIP.
pub(super) fn lines(row: &ServiceRow) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    if let Some(why) = &row.not_ours {
        let _ = writeln!(text, "{:<30} -             -      -                                {why}", row.service);
    }
    for vip in &row.vips {
        let VipRow { port, vip: kind, protocol, address, inside, outside, .. } = vip;
        let count = |side: &Side| format!("{} of {}", side.endpoints.len(), side.endpoints.len() + side.left_out.len());
        let mut endpoints = count(inside);
        if outside.endpoints != inside.endpoints {
            let _ = write!(endpoints, "; from outside {}", count(outside));
        }
        let _ = writeln!(text, "{port:<30} {kind:<13} {protocol:<6} {address:<32} {endpoints}");
    }
    for refusal in &row.refused {
        let _ = writeln!(text, "{:<30} refused: {refusal}", row.service);
    }
    text
}

/// Everything about one.
pub(super) fn whole(row: &ServiceRow) -> String {
    let mut text = format!("{}\n", row.service);
    if let Some(why) = &row.not_ours {
        let _ = writeln!(text, "  not served here: {why}");
    }
    for refusal in &row.refused {
        let _ = writeln!(text, "  refused: {refusal}");
    }
    for vip in &row.vips {
        let affinity = vip.session_affinity_s.map(|s| format!(", a client stays for {s} s")).unwrap_or_default();
        let _ = writeln!(text, "\n  {} {} {} of {}{affinity}", vip.vip, vip.protocol, vip.address, vip.port);
        if let Some(ranges) = &vip.source_ranges {
            let _ = writeln!(text, "    for clients of {} alone", ranges.join(", "));
        }
        if vip.inside == vip.outside {
            side(&mut text, "from everywhere", &vip.inside);
        } else {
            side(&mut text, "from pods and this node", &vip.inside);
            side(&mut text, "from outside", &vip.outside);
        }
    }
    text
}

fn side(text: &mut String, from: &str, side: &Side) {
    let source = if side.masquerade { "source rewritten to the node's" } else { "source kept" };
    let none =
        if side.endpoints.is_empty() { format!("; no endpoint: {}", side.without_endpoint) } else { String::new() };
    let _ = writeln!(text, "    {from}, {source}{none}");
    for endpoint in &side.endpoints {
        let node = endpoint.node.as_deref().unwrap_or("no node");
        let here = if endpoint.local { ", this one" } else { "" };
        let _ = writeln!(text, "      -> {} on {node}{here}", endpoint.address);
    }
    for left_out in &side.left_out {
        let _ = writeln!(text, "       x {}: {}", left_out.address, left_out.because);
    }
}
