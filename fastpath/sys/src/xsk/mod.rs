//! AF_XDP: sockets, their four rings, and the memory that packets lie in.
//!
//! One kernel concept per file: [`ring`] moves entries, [`frames`] says who holds which chunk of memory, `region`
//! is that memory, `socket` opens, [`queue`] joins them into what a worker uses: one queue of one interface.

pub mod frames;
mod memory_queue;
pub mod queue;
mod region;
pub mod ring;
mod socket;
mod socket_memory;
mod statistics;

pub use frames::{Frame, FrameBooks, FramePool, Side};
pub use memory_queue::KernelEnd;
pub use queue::{Kick, Queue};
pub use socket::{Mode, OpenError, OpenOptions, Opened, QueueOf, needs_pieces, open, open_uplink};
pub use statistics::{StatisticsReader, XskStatistics};
