//! The loop that joins ports and engine: one thread, one core, one queue of the uplink and one of the funnel.
//!
//! Read [`Worker::turn`] first: a turn of the loop on one screen. [`port`] is what a turn needs of a queue, [`sleep`] how
//! it costs nothing when idle, [`stats`] what others may see of it.
//!
//! What this crate does not do: it decides nothing about packets (the engine does), opens no sockets (`sys` does) and
//! answers nobody (the slow path does).

mod expiry;
mod lanes;
pub mod memory_port;
mod native;
pub mod port;
mod pressure;
mod sleep;
pub mod stats;
pub mod tap;
mod turn;

pub use expiry::{EXPIRY_PASS_S, EXPIRY_SLOTS_PER_TURN, Expiry};
pub use native::Native;
pub use port::{Port, XskPort};
pub use pressure::Pressure;
pub use sleep::Spin;
pub use stats::WorkerStats;
pub use turn::{Worker, WorkerOptions, WorkerParts};
