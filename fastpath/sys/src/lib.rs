//! The kernel, by system calls: AF_XDP sockets and rings, shared memory, BPF programs and maps, pinning, prefetch.

pub mod bpf;
pub mod check;
pub mod clock;
pub mod cores;
pub mod doorbell;
pub mod ethtool;
pub mod mmap;
pub mod no_alloc;
pub mod poll;
pub mod prefetch;
pub mod random;
pub mod xsk;
