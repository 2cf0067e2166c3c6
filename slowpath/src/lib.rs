//! What workers punt: packets that wait for a neighbour, packets that need an answer of our own (echo from a VIP,
//! TTL exceeded, port unreachable, TCP reset, SCTP abort, packet too big), fragments, packets to be cut into some, and ICMP errors about
//! flows that another node tracks.
//!
//! One thread serves all workers, so that a flood of such packets costs no worker its core. Packets come and go in
//! buffers that exist from the start ([`atalho_engine::handoff`]); everything is bounded, answers are limited in rate, and
//! every punted packet ends in one counter: `punted = answered + resumed + dropped + waiting`.
//!
//! The core ([`SlowPath::handle`] for every punted packet, [`SlowPath::tick`] now and then) takes the time as a parameter and
//! does no I/O; [`SlowPath::run`] is the thread around it. It neither resolves neighbours (the kernel does, asked through control) nor transmits (workers do).

mod abort;
mod ages;
mod answer;
mod bell;
mod bucket;
mod counters;
mod cut;
mod fragments;
mod icmp;
mod ip;
mod link;
mod punted;
mod relay;
mod reset;
mod run;
mod senders;
mod slow_path;
mod waiting;

pub use bell::Bell;
pub use counters::{SlowPathBooks, SlowPathCounters};
pub use slow_path::{Limits, Parts, SlowPath};
