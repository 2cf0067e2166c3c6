//! Who forwards: one small file for each, behind one trait. What measures knows nobody by name.

pub mod kernel;
pub mod kube_proxy;
pub mod l2fwd;
pub mod process;
pub mod testpmd;
pub mod worker;

use std::path::PathBuf;

use anyhow::Result;

use super::cluster::Cluster;
use crate::lab::plan::Plan;

/// Programs that contenders are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    pub atalho: PathBuf,
    pub lab: PathBuf,
    /// This program's own file.
    pub bench: PathBuf,
}

/// Where a contender is to start.
pub struct Ground<'a> {
    pub plan: &'a Plan,
    pub tools: &'a Tools,
    /// The core of its packet loop, if it has one and can be told; `spare` is for all else that it runs.
    pub core: usize,
    pub spare: usize,
}

/// What happens to a packet on its way, and so where it has to be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To Services, translated, routed.
    Services(Cluster),
    /// To the endpoints themselves, routed.
    Routed,
    /// Sent back as it came, by its MAC addresses.
    Reflected,
}

/// Something that forwards packets from the node's uplink back to it.
pub trait Contender {
    /// As people read it.
    fn name(&self) -> String;
    fn way(&self) -> Way;
    /// Cores that its packets keep busy, the sender's included where the node receives there.
    fn cores(&self) -> u32;
    /// Whether the node's kernel has to forward.
    fn kernel_forwards(&self) -> bool {
        false
    }
    /// Starts it in the node's namespace; `None`: nothing of it runs, all is in the kernel.
    fn start(&self, ground: &Ground<'_>) -> Result<Option<Box<dyn Running>>>;
    /// Forgets the flows that it has seen, where it would run out of room for new ones.
    fn forget_flows(&self, _plan: &Plan) -> Result<()> {
        Ok(())
    }
}

/// A contender at work. It ends when this is dropped.
pub trait Running {
    fn pid(&self) -> u32;
    /// The core of its packet loop, where it chose it by itself.
    fn core(&self) -> Result<Option<usize>> {
        Ok(None)
    }
    /// It looks for packets without a pause, and is held while others are measured.
    fn spins(&self) -> bool;
    /// What it says about itself, for the day on which packets get lost.
    fn words(&self) -> String;
}
