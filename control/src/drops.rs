//! `atalho drops`: what was dropped, where, what the reason means and what to do next. Every count grows for ever and
//! outlives no daemon but the kernel's own, which stay pinned.

mod command;
mod next_step;

use std::collections::BTreeMap;

use atalho_engine::verdict::DropReason;
use atalho_layout::KERNEL_COUNTERS;
use serde::{Deserialize, Serialize};

use crate::report::XdpCounts;
use crate::status::Collector;

pub use command::{DropsOptions, run};

/// The answer to `drops`: what happened at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// By workers, the slow path and the kernel programs; the greatest first.
    pub drops: Vec<Drop>,
    /// What the kernel programs dropped of each pod that is there; part of `drops`.
    pub pods: Vec<PodDrop>,
    /// What the kernel dropped at the workers' sockets, before or after they had it; not part of `drops`.
    pub sockets: Vec<SocketDrop>,
    /// What could not be read.
    pub faults: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    pub reason: String,
    pub by: By,
    pub packets: u64,
    pub text: String,
    pub next_step: String,
}

/// Who dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Worker,
    SlowPath,
    Kernel,
}

impl By {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "workers",
            Self::SlowPath => "slow path",
            Self::Kernel => "kernel",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDrop {
    /// `namespace/name`.
    pub pod: String,
    pub reason: String,
    pub packets: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketDrop {
    /// Number of the worker, from 0.
    pub worker: usize,
    /// uplink or funnel.
    pub port: String,
    /// As `struct xdp_statistics` of linux/if_xdp.h has it.
    pub reason: String,
    pub packets: u64,
    pub text: String,
    pub next_step: String,
}

/// Collects them.
pub fn of(collector: &Collector) -> Drops {
    let (reports, slow_path) = ((collector.reports)(), (collector.slow_path)());
    let mut found = Drops::default();
    for reason in DropReason::ALL {
        let by_workers = reports.iter().map(|report| report.dropped[*reason as usize]).sum();
        for (by, packets) in [(By::Worker, by_workers), (By::SlowPath, slow_path.dropped[*reason as usize])] {
            let (text, next_step) = (reason.text().to_owned(), next_step::of(*reason).to_owned());
            found.drops.push(Drop { reason: reason.name().to_owned(), by, packets, text, next_step });
        }
    }
    match collector.kernel_counters() {
        Ok(counters) => {
            for (counter, (name, text, packets)) in KERNEL_COUNTERS.iter().zip(counters) {
                if let Some(next_step) = next_step::of_kernel(*counter) {
                    let (reason, text, next_step) = (name.to_owned(), text.to_owned(), next_step.to_owned());
                    found.drops.push(Drop { reason, by: By::Kernel, packets, text, next_step });
                }
            }
        }
        Err(why) => found.faults.push(format!("the kernel's counters cannot be read: {why}")),
    }
    found.drops.retain(|drop| drop.packets > 0);
    found.drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
    match collector.pod_drops() {
        Ok(pods) => found.pods = pods.into_iter().flat_map(of_pod).collect(),
        Err(why) => found.faults.push(format!("the pods' drops cannot be read: {why}")),
    }
    for (worker, report) in reports.iter().enumerate() {
        for (port, counts) in &report.xdp {
            found.sockets.extend(of_socket(worker, port, counts));
        }
    }
    found
}

fn of_pod((pod, drops): (String, BTreeMap<String, u64>)) -> impl Iterator<Item = PodDrop> {
    drops.into_iter().map(move |(reason, packets)| PodDrop { pod: pod.clone(), reason, packets })
}

fn of_socket(worker: usize, port: &str, counts: &XdpCounts) -> impl Iterator<Item = SocketDrop> + use<> {
    let port = port.to_owned();
    let all = next_step::of_socket(counts);
    all.into_iter().filter(|(_, packets, ..)| *packets > 0).map(move |(reason, packets, text, next_step)| SocketDrop {
        worker,
        port: port.clone(),
        reason: reason.to_owned(),
        packets,
        text: text.to_owned(),
        next_step: next_step.to_owned(),
    })
}

#[cfg(test)]
mod tests;
