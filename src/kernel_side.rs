//! Control's view of the kernel side: the trait of `control`, carried out by the maps and links of `sys`.

use atalho_control::dataplane::{Dataplane, InForce};
use atalho_layout::{ClaimKey, ClaimKind, KernelCounter, LpmKey, PortRecord};
use atalho_sys::bpf::Kernel;
use atalho_sys::ethtool;

/// The kernel programs of this node.
pub struct KernelSide {
    pub kernel: Kernel,
    /// Names of the uplink and of the funnel's kernel end.
    pub uplink: String,
    pub funnel: String,
}

impl Dataplane for KernelSide {
    fn claim(&mut self, key: ClaimKey, kind: ClaimKind) -> Result<(), String> {
        self.kernel.claim(&key, kind).map_err(|error| error.to_string())
    }

    fn unclaim(&mut self, key: ClaimKey) -> Result<(), String> {
        self.kernel.unclaim(&key).map_err(|error| error.to_string())
    }

    fn claim_range(&mut self, key: LpmKey) -> Result<(), String> {
        self.kernel.claim_range(&key).map_err(|error| error.to_string())
    }

    fn unclaim_range(&mut self, key: LpmKey) -> Result<(), String> {
        self.kernel.unclaim_range(&key).map_err(|error| error.to_string())
    }

    fn attach_pod(&mut self, ifindex: u32, record: PortRecord) -> Result<(), String> {
        self.kernel.attach_pod(ifindex, &record).map_err(|error| error.to_string())
    }

    fn detach_pod(&mut self, ifindex: u32) -> Result<(), String> {
        self.kernel.detach_pod(ifindex).map_err(|error| error.to_string())
    }

    fn current(&mut self) -> Result<InForce, String> {
        let in_force = self.kernel.in_force().map_err(|error| error.to_string())?;
        Ok(InForce { claims: in_force.claims, ranges: in_force.ranges, pods: in_force.pods })
    }

    fn kernel_counters(&mut self) -> Result<Vec<u64>, String> {
        self.kernel.counters().map_err(|error| error.to_string())
    }

    fn pod_drops(&mut self) -> Result<Vec<(u32, KernelCounter, u64)>, String> {
        self.kernel.pod_drops().map_err(|error| error.to_string())
    }

    fn keep_offloads(&mut self) -> Result<Vec<String>, String> {
        let kept = [
            (&self.uplink, ethtool::prepare_uplink(&self.uplink)),
            (&self.funnel, ethtool::prepare_funnel(&self.funnel)),
        ];
        let mut turned_off = Vec::new();
        for (interface, changed) in kept {
            for offload in changed.map_err(|error| error.to_string())? {
                turned_off.push(format!("{} of {interface}", offload.name()));
            }
        }
        Ok(turned_off)
    }
}
