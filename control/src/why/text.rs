//! An answer for people.

use std::io::{Result, Write};

use super::{Answer, Query, Verdict, shown};

/// Writes `answer` in a few lines.
pub(super) fn write(out: &mut dyn Write, query: &Query, answer: &Answer) -> Result<()> {
    let side = |address, port: Option<u16>| port.map_or_else(|| format!("{address}"), |port| shown(address, port));
    let detail = answer.detail.clone().unwrap_or_default();
    writeln!(
        out,
        "{} {} -> {}, coming in by {}",
        query.protocol.name(),
        side(query.src, query.src_port),
        side(query.dst, query.dst_port),
        detail.came_in
    )?;
    let reason = answer.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let what = match (answer.verdict, &answer.chosen) {
        (Verdict::Forward, Some(chosen)) => format!("forward, translated to {chosen}"),
        (Verdict::Forward, None) => "forward, destination unchanged".to_owned(),
        (Verdict::Pass, _) => "pass: left to the node's own stack, unchanged".to_owned(),
        (Verdict::Reject, _) => format!("reject{reason}: answered"),
        (Verdict::Drop, _) => format!("drop{reason}: nothing is answered"),
    };
    writeln!(out, "  {what}")?;
    if !detail.because.is_empty() {
        writeln!(out, "  because   {}", detail.because)?;
    }
    if let (Some(service), Some(vip)) = (&answer.service, &answer.vip) {
        writeln!(out, "  service   {service} ({vip})")?;
        let none = if answer.backends.is_empty() { "  none" } else { "" };
        writeln!(out, "  endpoints{none}")?;
        for backend in &answer.backends {
            let mark = if answer.chosen.as_ref() == Some(&backend.address) { "->" } else { "  " };
            let node = backend.node.as_deref().unwrap_or("no node");
            let here = if backend.local { ", this one" } else { "" };
            writeln!(out, "    {mark} {} on {node}{here}", backend.address)?;
        }
        for left_out in &detail.left_out {
            writeln!(out, "     x {}: {}", left_out.address, left_out.because)?;
        }
    }
    if answer.verdict == Verdict::Forward {
        let source =
            answer.source.as_deref().map_or_else(|| "kept".to_owned(), |source| format!("rewritten to {source}"));
        let because =
            if detail.source_because.is_empty() { String::new() } else { format!(": {}", detail.source_because) };
        writeln!(out, "  source    {source}{because}")?;
    }
    match &answer.egress {
        Some(egress) => writeln!(out, "  leaves    {} by {egress}", detail.leaves),
        None => Ok(()),
    }
}
