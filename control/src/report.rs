//! What a worker says of itself, as control passes it on: plain numbers, so that this crate need not know the worker.
//! Every count grows for ever; whoever wants a rate takes two.

use atalho_engine::verdict::{DropReason, PuntReason};
use serde::{Deserialize, Serialize};

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerReport {
    pub core: u32,
    /// Queue numbers; each stands for one of the uplink and one of the funnel.
    pub queues: Vec<u32>,
    pub received: u64,
    pub forwarded: u64,
    /// Handed to the slow path and not come back for another turn.
    pub punted: u64,
    /// Sent by us without having been received: the slow path's answers.
    pub originated: u64,
    /// Answers that could not be sent: no free frame, or a full ring.
    pub unsent: u64,
    /// Packets that a capture wanted and had no room for.
    pub capture_lost: u64,
    pub dropped: [u64; DropReason::COUNT],
    pub punts: [u64; PuntReason::COUNT],
    /// Time spent on rounds that had packets, of `elapsed_ns`.
    pub busy_ns: u64,
    pub elapsed_ns: u64,
    pub asleep: bool,
    pub frames: Vec<FrameBooks>,
    /// By port.
    pub xdp: Vec<(String, XdpCounts)>,
}

impl WorkerReport {
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }
}

/// How the packets ended that workers handed over: `punted = answered + resumed + waiting + dropped`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowPathReport {
    pub punted: u64,
    /// Back in the pipeline, and counted there.
    pub resumed: u64,
    /// Waiting for a neighbour now; the only count that shrinks.
    pub waiting: u64,
    pub answered: [u64; PuntReason::COUNT],
    pub dropped: [u64; DropReason::COUNT],
}

impl Default for SlowPathReport {
    fn default() -> Self {
        let (answered, dropped) = ([0; PuntReason::COUNT], [0; DropReason::COUNT]);
        Self { punted: 0, resumed: 0, waiting: 0, answered, dropped }
    }
}

/// Where the frames of a port's memory are. `fill + rx + held + tx + completion + free = total`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameBooks {
    pub port: String,
    pub fill: u64,
    pub rx: u64,
    pub held: u64,
    pub tx: u64,
    pub completion: u64,
    pub free: u64,
    pub total: u64,
}

/// `struct xdp_statistics` of linux/if_xdp.h.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpCounts {
    pub rx_dropped: u64,
    pub rx_invalid_descs: u64,
    pub tx_invalid_descs: u64,
    pub rx_ring_full: u64,
    pub rx_fill_ring_empty_descs: u64,
    pub tx_ring_empty_descs: u64,
}
