//! The kernel, by system calls: AF_XDP sockets and rings, shared memory, BPF programs and maps, pinning, instructions of the processor.

pub mod bpf;
pub mod check;
pub mod clock;
pub mod cores;
pub mod doorbell;
pub mod ethtool;
pub mod mmap;
pub mod no_alloc;
pub mod poll;
pub mod processor;
pub mod random;
pub mod xsk;
