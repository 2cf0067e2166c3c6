//! What a machine is: an interface and the cores. Plain data; `None` means that the kernel or the driver does not say.

use serde::Serialize;

/// Everything that a plan needs and an operator wants to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    pub interface: Interface,
    /// Online cores (logical processors), by number.
    pub cores: Vec<Core>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Interface {
    pub name: String,
    /// Kernel interface index.
    pub index: u32,
    /// Driver of the device; for a virtual interface its kind (`veth`, `bond`, `bridge`, ...).
    pub driver: Option<String>,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// NUMA node of the device.
    pub numa_node: Option<u32>,
    pub queues: Queues,
    pub rings: Option<Rings>,
    pub rss: Option<Rss>,
    pub irqs: Vec<Irq>,
    pub xdp: Option<Xdp>,
}

/// Queues in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub struct Queues {
    pub rx: u32,
    pub tx: u32,
    /// Most that the driver can have of both, if it says so.
    pub most: Option<u32>,
}

impl Queues {
    /// Queues that can carry a worker: it needs both directions.
    pub fn usable(&self) -> u32 {
        self.rx.min(self.tx)
    }
}

/// Descriptors of a queue's rings, now and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rings {
    pub rx: u32,
    pub rx_most: u32,
    pub tx: u32,
    pub tx_most: u32,
}

/// Receive-side scaling: how the device spreads flows over queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rss {
    /// Entries of the indirection table.
    pub table_entries: u32,
    /// Different queues that the table names.
    pub table_queues: u32,
    /// Bytes of the hash key.
    pub key_bytes: u32,
}

/// An interrupt of the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Irq {
    pub number: u32,
    /// As in /proc/interrupts.
    pub name: String,
    /// Cores that may take it.
    pub cores: Vec<u32>,
    /// Times it fired since boot.
    pub count: u64,
}

/// What the driver can do with XDP (Linux Documentation/netlink/specs/netdev.yaml).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Xdp {
    /// Names of the features: `basic`, `redirect`, `ndo-xmit`, `xsk-zerocopy`, `hw-offload`, `rx-sg`, `ndo-xmit-sg`.
    pub features: Vec<&'static str>,
    /// Pieces of a frame that zero-copy transmission takes.
    pub zero_copy_segments_max: Option<u32>,
}

impl Xdp {
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(&feature)
    }
}

/// A logical processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Core {
    pub number: u32,
    pub numa_node: Option<u32>,
    /// Physical package (socket).
    pub package: u32,
    /// Logical processors of the same physical core, itself included, by number.
    pub siblings: Vec<u32>,
    /// This process may run there (affinity mask, cpuset).
    pub allowed: bool,
    /// Kept out of the scheduler's balancing by the kernel's command line (`isolcpus=`).
    pub isolated: bool,
}
