//! What control asks of the kernel side. `main` implements it with the BPF maps and links, so that this crate needs no
//! system calls of its own; tests implement it in memory.

use atalho_layout::{ClaimKey, ClaimKind, KernelCounter, LpmKey, PortRecord};

/// The kernel side's maps and hooks, as far as tables change them.
pub trait Dataplane: Send {
    /// Makes this destination ours.
    fn claim(&mut self, key: ClaimKey, kind: ClaimKind) -> Result<(), String>;
    /// Gives it up; an unknown one is no error.
    fn unclaim(&mut self, key: ClaimKey) -> Result<(), String>;
    /// Makes a range of Services ours.
    fn claim_range(&mut self, key: LpmKey) -> Result<(), String>;
    fn unclaim_range(&mut self, key: LpmKey) -> Result<(), String>;
    /// Takes a pod's port: writes its record, and attaches to its host end where that has not been done.
    fn attach_pod(&mut self, ifindex: u32, record: PortRecord) -> Result<(), String>;
    /// Gives a pod's port up; one whose interface is gone is no error.
    fn detach_pod(&mut self, ifindex: u32) -> Result<(), String>;
    /// Every claim, range and pod port in force, to compare after a restart.
    fn current(&mut self) -> Result<InForce, String>;
    /// Values of the kernel's counters, in the order of [`atalho_layout::KERNEL_COUNTERS`], summed over CPUs.
    fn kernel_counters(&mut self) -> Result<Vec<u64>, String>;
    /// What was dropped of each pod, by the interface index of its port; what has not happened is left out.
    fn pod_drops(&mut self) -> Result<Vec<(u32, KernelCounter, u64)>, String>;
    /// Turns off again what somebody has turned on of the offloads of uplink and funnel; returns what that was.
    fn keep_offloads(&mut self) -> Result<Vec<String>, String>;
}

/// What the maps hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    pub claims: Vec<(ClaimKey, ClaimKind)>,
    pub ranges: Vec<LpmKey>,
    pub pods: Vec<(u32, PortRecord)>,
}
