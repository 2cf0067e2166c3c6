//! The only home of tokio and kube: watch -> model -> compile -> publish; status and the node's facts.

pub mod config;
pub mod dataplane;
pub mod facts;
pub mod in_force;
pub mod node;
pub mod notify;
pub mod reclaim;
pub mod reconcile;
pub mod report;
