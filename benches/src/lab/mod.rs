//! The lab: a Kubernetes node made of network namespaces on one machine, with the daemon under test in it.
//!
//! ```text
//!  at-pod1 .. at-podN          at-node                            at-far
//!  eth0 ----------- podI (gateway)     uplink ------------------- eth0   router, outside client and server,
//!  /32 and /128     host routes        192.168.0.2, fd00:168::2          pods of the other node, API server
//! ```
//!
//! Pods are addressed and routed as a CNI plugin does it, with ordinary veths and untouched offloads. The daemon runs in
//! the node namespace; nothing else on the machine is touched.

mod beyond;
pub mod capture;
pub mod command;
pub mod daemon;
pub mod lock;
pub mod network;
pub mod objects;
pub mod paths;
pub mod plan;
pub mod report;
pub mod run;
pub mod session;
pub mod signal;
pub mod stack;
pub mod view;
