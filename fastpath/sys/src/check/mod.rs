//! Whether this machine and this interface can carry a dataplane, asked before anything is changed. Each refusal says
//! what is wrong, where, why it matters and what to do next.
//!
//! Judgements are pure functions; probes only read. Interfaces are asked by netlink, never by /sys, which may show
//! another network namespace than ours.

mod bpffs;
mod interface;
mod kernel;
mod native_xdp;
mod netlink;
mod privileges;

pub use bpffs::bpffs;
pub use interface::{Interface, by_index, by_name, interface, interface_name};
pub use kernel::{kernel, kernel_release};
pub use native_xdp::native_xdp;
pub use privileges::privileges;

/// A reason not to start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}. {next}")]
pub struct CheckError {
    /// What was found, and where.
    pub what: String,
    /// Why that does not do.
    pub why: String,
    /// What to do next.
    pub next: String,
}

impl CheckError {
    fn new(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), next: next.into() }
    }
}
