//! The only home of tokio and kube: watch -> model -> compile -> publish; status and the node's facts.

pub mod check;
pub mod compile;
pub mod config;
pub mod dataplane;
pub mod facts;
pub mod http;
pub mod in_force;
pub mod manifests;
pub mod metrics;
pub mod model;
pub mod node;
pub mod notify;
pub mod publish;
pub mod reclaim;
pub mod reconcile;
pub mod report;
pub mod server;
pub mod shared;
pub mod start;
pub mod status;
pub mod watch;
pub mod why;
