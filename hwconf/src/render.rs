//! Facts and plans as text for people and as JSON.

use std::fmt::Write;

use crate::facts::{Core, Facts, Irq};
use crate::plan::Plan;

/// Facts or a plan as JSON, indented.
///
/// # Errors
/// None for the types of this crate, whose maps have names as keys.
pub fn json(value: &impl serde::Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value)
}

/// The facts, a line each.
pub fn facts_text(facts: &Facts) -> String {
    let interface = &facts.interface;
    let said = |value: Option<String>| value.unwrap_or_else(|| "not said by the driver".to_owned());
    let mut rows: Vec<(&str, String)> = vec![
        ("interface", format!("{} (index {}, MTU {})", interface.name, interface.index, interface.mtu)),
        ("driver", said(interface.driver.clone())),
        ("NUMA node", interface.numa_node.map_or_else(|| "none".to_owned(), |node| node.to_string())),
        ("queues", {
            let most = interface.queues.most.map_or_else(String::new, |most| format!(" (at most {most})"));
            format!("{} rx, {} tx{most}", interface.queues.rx, interface.queues.tx)
        }),
        ("rings", said(interface.rings.map(|r| format!("rx {} of {}, tx {} of {}", r.rx, r.rx_most, r.tx, r.tx_most)))),
        (
            "RSS",
            said(interface.rss.map(|rss| {
                let (entries, queues) = (rss.table_entries, rss.table_queues);
                format!("table of {entries} entries over {queues} queue(s), key of {} bytes", rss.key_bytes)
            })),
        ),
        (
            "XDP",
            interface.xdp.as_ref().map_or_else(
                || "not said by the kernel".to_owned(),
                |xdp| {
                    let segments =
                        xdp.zero_copy_segments_max.map_or_else(String::new, |n| format!(" (zero-copy pieces: {n})"));
                    if xdp.features.is_empty() { "none".to_owned() } else { xdp.features.join(", ") + &segments }
                },
            ),
        ),
    ];
    rows.push(("IRQs", if interface.irqs.is_empty() { "none".to_owned() } else { interface.irqs.len().to_string() }));

    let mut out = String::new();
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<10} {value}");
    }
    let irqs = interface.irqs.iter().map(irq_row).collect::<Vec<_>>();
    table(&mut out, &["IRQ", "NAME", "CORES", "COUNT"], &irqs);
    let cores = facts.cores.iter().map(core_row).collect::<Vec<_>>();
    table(&mut out, &["CORE", "NODE", "PACKAGE", "SIBLINGS", "USE"], &cores);
    out
}

/// The plan, a worker a line, then its notes.
pub fn plan_text(plan: &Plan) -> String {
    let mut out = String::new();
    let row = |line: &crate::plan::PlanLine| {
        vec![line.worker.to_string(), line.core.to_string(), line.queue.to_string(), line.reason.clone()]
    };
    table(&mut out, &["WORKER", "CORE", "QUEUE", "REASON"], &plan.lines.iter().map(row).collect::<Vec<_>>());
    for note in &plan.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn irq_row(irq: &Irq) -> Vec<String> {
    vec![irq.number.to_string(), irq.name.clone(), numbers(&irq.cores), irq.count.to_string()]
}

fn core_row(core: &Core) -> Vec<String> {
    let allowed = if core.allowed { "allowed" } else { "outside this process's affinity mask" };
    let isolated = if core.isolated { ", isolated" } else { "" };
    vec![
        core.number.to_string(),
        core.numa_node.map_or_else(|| "-".to_owned(), |node| node.to_string()),
        core.package.to_string(),
        numbers(&core.siblings),
        format!("{allowed}{isolated}"),
    ]
}

fn numbers(list: &[u32]) -> String {
    list.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Columns as wide as their widest cell, the last one ragged; nothing at all without rows.
fn table(out: &mut String, heads: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    let widest = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(heads[column].len());
    let widths: Vec<usize> = (0..heads.len()).map(widest).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let text = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(&mut heads.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}
