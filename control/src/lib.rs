//! The only home of tokio and kube: watch -> model -> compile -> publish; status and the node's facts.

pub mod dataplane;
pub mod facts;
