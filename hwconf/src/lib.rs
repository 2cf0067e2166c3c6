//! Hardware: [`probe`] collects facts, [`plan`] turns facts and wishes into a worker per core per queue.
//!
//! Probing only reads (netlink, sysfs, procfs) and needs no privileges; planning is pure, so that a plan for any machine
//! can be tested on this one. Nothing here changes a setting: pinning is done by who runs the plan.

mod cores;
mod cpu_list;
mod ethtool;
pub mod facts;
mod interrupts;
mod link;
mod netlink;
pub mod plan;
mod probe;
pub mod render;
mod xdp_features;

pub use facts::Facts;
pub use plan::{Plan, PlanError, Wishes, WorkerCount, plan};
pub use probe::{ProbeError, probe};
