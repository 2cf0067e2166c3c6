//! How full a worker's funnel queue is: written by the worker at every look, read by the programs on pod ports, which keep
//! their own count beside it. Word offsets (32-bit words) of one queue's entry: one entry a queue, two cache lines, so that neither side slows the other's stores.

use crate::flow::{Field, Struct};

/// Grows by one with every report. The kernel's count of what it has sent since belongs to one.
pub const REPORT: usize = 0;
/// Ring entries that the worker has taken since it started; wraps.
pub const TAKEN: usize = 1;
/// Ring entries that waited when it last looked.
pub const WAITING: usize = 2;
/// Entries that the ring has room for; 0 before the first report.
pub const RING: usize = 3;
/// Bytes of a packet that one entry stands for; longer packets take several.
pub const PIECE_BYTES: usize = 4;
/// The kernel's: the report that its count belongs to, and the entries that it has sent since.
pub const SEEN_REPORT: usize = 16;
pub const SENT: usize = 17;
/// 32-bit words of one entry.
pub const WORDS: usize = 32;

/// Pods that are told apart within a queue; beyond, two may share one share.
pub const SHARES_PER_QUEUE: u32 = 4096;
/// Queues that the funnel may have.
pub const FUNNEL_QUEUES_MAX: u32 = 256;

/// The C view.
pub const PRESSURE: Struct = Struct {
    name: "pressure",
    size: WORDS * 4,
    fields: &[
        Field { name: "REPORT", offset: 0, c_type: "__u32", count: 1 },
        Field { name: "TAKEN", offset: 4, c_type: "__u32", count: 1 },
        Field { name: "WAITING", offset: 8, c_type: "__u32", count: 1 },
        Field { name: "RING", offset: 12, c_type: "__u32", count: 1 },
        Field { name: "PIECE_BYTES", offset: 16, c_type: "__u32", count: 1 },
        Field { name: "WORKER_PAD", offset: 20, c_type: "__u32", count: 11 },
        Field { name: "SEEN_REPORT", offset: 64, c_type: "__u32", count: 1 },
        Field { name: "SENT", offset: 68, c_type: "__u32", count: 1 },
        Field { name: "KERNEL_PAD", offset: 72, c_type: "__u32", count: 14 },
    ],
};
