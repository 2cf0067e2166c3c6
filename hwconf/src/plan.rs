//! Facts and wishes make a plan: worker *i* has queue *i* and a core, each with the reason why that core.
//!
//! Cores are ranked by what they cost: first those that the operator isolated, then a physical core of its own before a
//! hyperthread (two workers on one core share its execution units), then the NUMA node of the interface (frames stay
//! near), last core 0, where the kernel does most of its housekeeping. Ties go to the lower number, so a plan is the
//! same every time. IRQs and RSS are shown but not planned yet.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::facts::{Core, Facts};

/// The core that the kernel boots on and keeps house on.
const KERNEL_CORE: u32 = 0;

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wishes {
    pub workers: WorkerCount,
}

/// How many workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WorkerCount {
    /// One per queue, at most one per physical core.
    #[default]
    Auto,
    Fixed(u32),
}

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub interface: String,
    pub lines: Vec<PlanLine>,
    /// What the operator should know or do; empty if all is well.
    pub notes: Vec<String>,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanLine {
    pub worker: u32,
    /// Logical processor to pin it to.
    pub core: u32,
    /// Queue of the uplink and of the funnel.
    pub queue: u32,
    pub reason: String,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("no worker is wanted; set [worker] count to 1 or more, or to \"auto\"")]
    NoWorkers,
    #[error(
        "{interface} has no queue with both directions, so no worker can use it; choose another [uplink] interface"
    )]
    NoQueues { interface: String },
    #[error(
        "{wanted} workers are wanted but {interface} has {queues} queue(s), and each worker needs one of its own; \
         set [worker] count to {queues} or \"auto\", or give it more queues{remedy}"
    )]
    FewerQueues { interface: String, wanted: u32, queues: u32, remedy: String },
    #[error(
        "{wanted} workers are wanted but this process may run on {cores} core(s), and each worker needs one of its own; \
         set [worker] count to {cores} or \"auto\", or widen the affinity mask (taskset, cpuset, CPUAffinity=)"
    )]
    FewerCores { wanted: u32, cores: u32 },
    #[error(
        "this process may run on none of the online cores; widen the affinity mask (taskset, cpuset, CPUAffinity=)"
    )]
    NoCores,
}

/// A worker per core per queue.
///
/// # Errors
/// More workers wanted than there are queues or cores, or none possible.
pub fn plan(facts: &Facts, wishes: &Wishes) -> Result<Plan, PlanError> {
    let interface = &facts.interface;
    let queues = interface.queues.usable();
    if queues == 0 {
        return Err(PlanError::NoQueues { interface: interface.name.clone() });
    }
    let mut candidates: Vec<Candidate<'_>> = candidates(facts);
    if candidates.is_empty() {
        return Err(PlanError::NoCores);
    }
    let physical = candidates.iter().filter(|candidate| candidate.thread == 0).count() as u32;
    let count = match wishes.workers {
        WorkerCount::Auto => queues.min(physical),
        WorkerCount::Fixed(0) => return Err(PlanError::NoWorkers),
        WorkerCount::Fixed(wanted) if wanted > queues => {
            let remedy = match interface.queues.most {
                Some(most) if most >= wanted => format!(" (`ethtool -L {} combined {wanted}`)", interface.name),
                Some(most) => format!(" (its driver has {most} at most)"),
                None => String::new(),
            };
            return Err(PlanError::FewerQueues { interface: interface.name.clone(), wanted, queues, remedy });
        }
        WorkerCount::Fixed(wanted) if wanted as usize > candidates.len() => {
            return Err(PlanError::FewerCores { wanted, cores: candidates.len() as u32 });
        }
        WorkerCount::Fixed(wanted) => wanted,
    };
    candidates.sort_by_key(Candidate::cost);
    let unused = candidates.split_off(count as usize);
    // Cores in rising order beside queues in rising order read best; which of the chosen has which queue is all one.
    candidates.sort_by_key(|candidate| candidate.core.number);
    let kernel_core_left = unused.iter().any(|candidate| candidate.core.number == KERNEL_CORE);
    let line = |(at, candidate): (usize, &Candidate<'_>)| PlanLine {
        worker: at as u32,
        core: candidate.core.number,
        queue: at as u32,
        reason: candidate.reason(facts, &candidates, kernel_core_left),
    };
    let lines = candidates.iter().enumerate().map(line).collect();
    Ok(Plan { interface: interface.name.clone(), lines, notes: notes(facts, count) })
}

/// A core with what ranks it.
struct Candidate<'a> {
    core: &'a Core,
    /// Position among the allowed hyperthreads of its physical core.
    thread: usize,
    isolated: bool,
    remote: bool,
    /// Core 0, or a hyperthread beside it.
    kernels: bool,
}

impl Candidate<'_> {
    /// Lower is better; the order of the module's header.
    fn cost(&self) -> (bool, usize, bool, bool, u32) {
        (!self.isolated, self.thread, self.remote, self.kernels, self.core.number)
    }

    fn reason(&self, facts: &Facts, chosen: &[Candidate<'_>], kernel_core_left: bool) -> String {
        let mut parts = Vec::new();
        if self.isolated {
            parts.push("isolated by the kernel's command line".to_owned());
        }
        let interface = &facts.interface.name;
        parts.push(match (facts.interface.numa_node, self.core.numa_node) {
            (Some(wanted), Some(node)) if node == wanted => format!("same NUMA node as {interface} ({node})"),
            (Some(wanted), Some(node)) => {
                format!("NUMA node {node}, because no better core is left on {interface}'s node {wanted}")
            }
            _ => format!("{interface} has no NUMA node, so all cores are alike"),
        });
        let shares_with = chosen
            .iter()
            .map(|other| other.core.number)
            .find(|other| *other != self.core.number && self.core.siblings.contains(other));
        parts.push(match shares_with {
            Some(other) => {
                format!("hyperthread beside core {other}'s worker, because more workers than physical cores are wanted")
            }
            None => "no other worker on its physical core".to_owned(),
        });
        if self.core.number == KERNEL_CORE {
            parts.push("core 0, because no other core is left".to_owned());
        } else if self.kernels {
            parts.push("a hyperthread of core 0, because no other core is left".to_owned());
        } else if kernel_core_left {
            parts.push("core 0 left to the kernel".to_owned());
        }
        parts.join(", ")
    }
}

fn candidates(facts: &Facts) -> Vec<Candidate<'_>> {
    let allowed: BTreeSet<u32> = facts.cores.iter().filter(|core| core.allowed).map(|core| core.number).collect();
    let nodes_differ = |core: &Core| match (facts.interface.numa_node, core.numa_node) {
        (Some(wanted), Some(node)) => wanted != node,
        _ => false,
    };
    let candidate = |core| {
        let Core { number, siblings, isolated, .. }: &Core = core;
        Candidate {
            core,
            thread: siblings.iter().filter(|sibling| *sibling < number && allowed.contains(sibling)).count(),
            isolated: *isolated,
            remote: nodes_differ(core),
            kernels: *number == KERNEL_CORE || siblings.contains(&KERNEL_CORE),
        }
    };
    facts.cores.iter().filter(|core| core.allowed).map(candidate).collect()
}

fn notes(facts: &Facts, workers: u32) -> Vec<String> {
    let interface = &facts.interface;
    let mut notes = Vec::new();
    let receiving = interface.queues.rx;
    if receiving > workers {
        let name = &interface.name;
        notes.push(format!(
            "{name} receives on {receiving} queues and {workers} have a worker: what is ours and arrives on the others is \
             dropped; `ethtool -L {name} combined {workers}` (or rx and tx) leaves none over"
        ));
    }
    if let Some(xdp) = &interface.xdp
        && !(xdp.has("basic") && xdp.has("redirect"))
    {
        notes.push(format!(
            "{}'s driver does not offer native XDP with redirection, so it cannot be the uplink",
            interface.name
        ));
    }
    notes
}
