//! A node through the faults of its API server: a real kube-apiserver with its etcd, and between the two a proxy of the
//! test's own that refuses, cuts and lies. Whatever happens, traffic goes on by what was last known, the status says what
//! is wrong and since when, and what changed meanwhile arrives afterwards.
//!
//! Without root everything here fails; `ATALHO_SKIP_ROOT_TESTS=1` skips it, and says so.

mod answers;
mod certificates;
mod etcd;
mod events;
mod https;
mod node;
mod outages;
mod panics;
mod proxy;
mod silence;
#[path = "../node/support.rs"]
#[allow(dead_code, reason = "a part of what tests of a whole node need is needed here")]
mod support;
mod token;
