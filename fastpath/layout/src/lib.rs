//! The one definition of every structure that the kernel programs (C) and the workers (Rust) share.
//!
//! Rust reads these structures as arrays of atomic words, so that a view of shared memory needs no `unsafe`;
//! C reads them as structs. Both come from the same lists of fields: [`c_header`] prints the C side with a
//! static assertion for every size and offset, and the build of `atalho-sys` compiles it.
//!
//! What this crate does not do: it holds no state and no logic but the table's hash, which both sides must agree on.

pub mod affinity;
mod c_header;
mod claim;
mod counters;
mod flow;
mod hash;
mod next_hop;
mod port;
pub mod pressure;
mod tag;

pub use c_header::c_header;
pub use claim::{CLAIM_KEY, ClaimKey, ClaimKind, LPM_KEY, LpmKey};
pub use counters::{KERNEL_COUNTERS, KernelCounter};
pub use flow::{FLOW4, FLOW6, Field, Phase, SLOTS_PER_BUCKET, Struct, TAG_BYTES, flow4, flow6, sctp, state};
pub use hash::{SECRET_WORDS, bucket_pair, flow_words_v4, flow_words_v6, hash, tag};
pub use next_hop::{NEXT_HOP, NextHopKind, hop};
pub use port::{PORT, PortRecord};
pub use pressure::{FUNNEL_QUEUES_MAX, PRESSURE, SHARES_PER_QUEUE};
pub use tag::{TAG_PREFIX, ifindex_of_tag, tag_mac};

/// Version of everything in this crate. A daemon adopts pinned maps only of the same version.
pub const LAYOUT_VERSION: u32 = 3;

#[cfg(target_endian = "big")]
compile_error!("the shared structures are little-endian; big-endian machines are not supported");
