//! Traffic generator, lab and benchmarks: what proves that the dataplane moves packets as it says.
//!
//! The lab builds a node out of network namespaces, the generator speaks through ordinary sockets inside them. Neither
//! knows the dataplane's inside: only the binary, its configuration, its status, and packets. The bench does, where it
//! measures the pipeline alone.

pub mod apiserver;
pub mod bench;
pub mod kube_proxy;
pub mod lab;
pub mod traffic;
