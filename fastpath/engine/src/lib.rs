//! Pure packet logic. No I/O, no clock, no lock, no log, no allocation per packet: time, randomness and the table's
//! secret are parameters, so the same calls serve AF_XDP workers, tests, `why` and replay.
//!
//! Read [`pipeline`] first: a packet's whole story stands there in five steps.

pub mod admit;
pub mod affinity;
pub mod atomic;
pub mod conntrack;
pub mod counters;
pub mod flow;
mod fragments;
pub mod handoff;
pub mod next_hops;
pub mod pipeline;
pub mod processor;
pub mod rewrite;
pub mod route;
pub mod service;
pub mod snat;
pub mod tables;
pub mod verdict;
pub mod wire;
