//! The kernel, by system calls: AF_XDP sockets and rings, shared memory, BPF programs and maps, pinning, prefetch.
