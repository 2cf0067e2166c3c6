//! How fast: the pipeline in memory, one worker on real sockets, and the kernel's own forwarding beside it, all in one
//! run and interleaved, because a machine's speed changes from minute to minute.
//!
//! `engine` is the pipeline alone, one worker `in_memory` on `frames` of one `node`; `snapshot` is how tables are handed to
//! a worker. `live` drives frames through a node made of namespaces: `programs` makes and judges
//! them in the kernel, `agent` holds those programs inside a namespace, `site` is one node with its far side, `cpu`
//! reads what it all cost, `priority` keeps the rest of the machine out of the way, `handover`
//! tells how far the cores are apart. `statistics` and `report` make figures of it.
//!
//! `table` measures the connection table alone, in huge pages as `memory` tells; a `ratio` that has to be reached is judged, and
//! `output` prints and keeps what a command found. What this does not do: real NICs, latency.

pub mod agent;
pub mod cpu;
pub mod engine;
pub mod frames;
pub mod handover;
pub mod in_memory;
pub mod live;
pub mod memory;
pub mod node;
pub mod output;
pub mod priority;
pub mod programs;
pub mod ratio;
pub mod report;
pub mod site;
pub mod snapshot;
pub mod statistics;
pub mod table;
