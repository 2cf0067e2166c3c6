//! What crosses between a worker and the threads beside it: punted packets out, packets and requests in.
//! Bounded queues of buffers that exist from the start; a full queue is a named drop, never a wait.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::conntrack::FlowRef;
use crate::verdict::{DropReason, PuntReason};
use crate::wire::Packet;

/// Largest frame that can be handed over, bytes: an IP packet of the largest MTU that any port may have (9,216, what
/// switches call jumbo), Ethernet header and one VLAN tag included.
pub const HANDOFF_FRAME_BYTES: usize = 9216 + 18;

/// What the other side is asked to do with a buffer's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Worker -> slow path: deal with it, for this reason. `next_hop_address`: the neighbour that is not resolved, with
    /// `NeighbourUnresolved`. `mtu`: of the next hop that it does not fit, bytes, with `TooBig`; else 0.
    Punt { reason: PuntReason, next_hop_address: Option<IpAddr>, mtu: u16 },
    /// Slow path -> worker: run it through the pipeline as if it had just come in by `ingress`
    /// ([`crate::pipeline::Slot::resumed`]). Not counted as received again.
    Resume,
    /// Slow path -> worker: a complete frame of our own, Ethernet addresses included, to be transmitted as it is by the
    /// port of `ingress`: by the uplink if that is the uplink, else by the funnel (its destination MAC is then a tag, or
    /// the node's). Not received, so counted as originated.
    Reply,
    /// Slow path -> worker: give the buffer back and count a drop.
    Drop(DropReason),
}

/// One frame on its way between threads.
pub struct Handoff {
    pub task: Task,
    /// Kernel interface index of the port by which the frame came in; with [`PuntReason::ToCut`], by which it leaves.
    pub ingress: u32,
    /// What the slow path knows a fragment to be: a packet of the flow that its datagram's first fragment shows.
    pub fragment: Option<Packet>,
    /// Bytes used of `frame`.
    pub len: usize,
    pub frame: [u8; HANDOFF_FRAME_BYTES],
}

impl Handoff {
    /// An empty buffer.
    pub fn new() -> Box<Self> {
        Box::new(Self { task: Task::Resume, ingress: 0, fragment: None, len: 0, frame: [0; HANDOFF_FRAME_BYTES] })
    }

    /// Takes in a frame as it came in by `ingress`; whether it has room for it.
    pub fn fill(&mut self, frame: &[u8], ingress: u32) -> bool {
        let Some(room) = self.frame.get_mut(..frame.len()) else { return false };
        room.copy_from_slice(frame);
        (self.len, self.ingress, self.fragment) = (frame.len(), ingress, None);
        true
    }

    pub fn bytes(&self) -> &[u8] {
        &self.frame[..self.len.min(HANDOFF_FRAME_BYTES)]
    }
}

/// A request of control to end a connection: removed if the slot still holds that flow.
pub type EndFlow = FlowRef;

/// The queues of one worker. Both ends hold the same `Arc`; every queue has its capacity in buffers.
pub struct WorkerQueues {
    /// Buffers nobody uses.
    pub free: ArrayQueue<Box<Handoff>>,
    /// Worker -> slow path.
    pub punts: ArrayQueue<Box<Handoff>>,
    /// Slow path -> worker.
    pub returns: ArrayQueue<Box<Handoff>>,
    /// Control -> worker.
    pub end_flows: ArrayQueue<EndFlow>,
    /// Set by the worker while it sleeps: whoever pushes then rings its doorbell.
    pub asleep: AtomicBool,
    /// The worker's last epoch, see [`crate::conntrack::Epochs`]; `u64::MAX` while asleep.
    pub epoch: AtomicU64,
}

impl WorkerQueues {
    /// Queues with `buffers` frame buffers, all allocated here.
    pub fn new(buffers: usize) -> Arc<Self> {
        let queues = Self {
            free: ArrayQueue::new(buffers),
            punts: ArrayQueue::new(buffers),
            returns: ArrayQueue::new(buffers),
            end_flows: ArrayQueue::new(4096),
            asleep: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
        };
        for _ in 0..buffers {
            // The queue holds exactly `buffers`, so this cannot fail.
            let _ = queues.free.push(Handoff::new());
        }
        Arc::new(queues)
    }

    /// A buffer for a packet that is punted for this reason. Fragments, what becomes several, and segments of no connection may
    /// come in floods, so they leave an eighth of all buffers to what needs another answer or a neighbour.
    pub fn buffer_for(&self, reason: PuntReason) -> Option<Box<Handoff>> {
        let kept_back = match reason {
            PuntReason::Fragment | PuntReason::ToCut | PuntReason::TrackedElsewhere | PuntReason::NoConnection => {
                self.free.capacity() / 8
            }
            _ => 0,
        };
        if self.free.len() > kept_back { self.free.pop() } else { None }
    }

    /// Whether a pusher has to wake the worker.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }
}
