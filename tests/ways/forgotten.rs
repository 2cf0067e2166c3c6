//! Ways of a packet that are easily forgotten by a dataplane beside the kernel's own, where each needs a hook: where they stand in the
//! matrix.

use crate::cells::Target;
use crate::hosts::Host;
use crate::objects::{Behind, Policy};

/// Ways that a dataplane beside the kernel's own has to make a hook for, each with its cells.
pub const WAYS: [(&str, &[Place]); 11] = [
    (
        "process of the node to its own address, node port",
        &[
            (Target::NodePort, Some((Behind::Local, Policy::Cluster)), Host::Node),
            (Target::NodePort, Some((Behind::Remote, Policy::Cluster)), Host::Node),
            (Target::NodePort, Some((Behind::Process, Policy::Cluster)), Host::Node),
        ],
    ),
    (
        "process of the node to a load-balancer or external address",
        &[
            (Target::Balancer, Some((Behind::Local, Policy::Cluster)), Host::Node),
            (Target::ExternalIp, Some((Behind::Remote, Policy::Cluster)), Host::Node),
        ],
    ),
    (
        "from the link or from a pod to an endpoint that is a process of the node",
        &[
            (Target::NodePort, Some((Behind::Process, Policy::Local)), Host::Outside),
            (Target::ClusterIp, Some((Behind::Process, Policy::Cluster)), Host::Pod),
        ],
    ),
    (
        "process of the node to a Service with a remote endpoint",
        &[(Target::ClusterIp, Some((Behind::Remote, Policy::Cluster)), Host::Node)],
    ),
    (
        "to another plugin's pod",
        &[
            (Target::ClusterIp, Some((Behind::Other, Policy::Cluster)), Host::Node),
            (Target::NodePort, Some((Behind::Other, Policy::Local)), Host::Outside),
        ],
    ),
    (
        "reply from a remote endpoint to another plugin's pod",
        &[(Target::ClusterIp, Some((Behind::Remote, Policy::Cluster)), Host::Other)],
    ),
    (
        "pod to its own node's address, no Service",
        &[(Target::NodeAddress, None, Host::Pod), (Target::NodeAddress, None, Host::Other)],
    ),
    (
        "node port of one node, endpoint on the other, and policy Local on another Service of that endpoint",
        &[
            (Target::NodePort, Some((Behind::Remote, Policy::Cluster)), Host::Outside),
            (Target::NodePortB, Some((Behind::Remote, Policy::Local)), Host::Outside),
        ],
    ),
    (
        "what the node forwards for others",
        &[
            (Target::OutsideAddress, None, Host::Container),
            (Target::PodAddress, None, Host::Container),
            (Target::ClusterIp, Some((Behind::Remote, Policy::Cluster)), Host::Container),
        ],
    ),
    (
        "a pod that meets itself",
        &[
            (Target::ClusterIp, Some((Behind::Local, Policy::Cluster)), Host::Endpoint),
            (Target::NodePort, Some((Behind::Local, Policy::Local)), Host::Endpoint),
        ],
    ),
    (
        "a node port by the loopback address, from the node and from off the node (CVE-2020-8558)",
        &[
            (Target::LoopbackPort, Some((Behind::Local, Policy::Cluster)), Host::Node),
            (Target::LoopbackPort, Some((Behind::Local, Policy::Cluster)), Host::Outside),
        ],
    ),
];

/// A cell: what is asked, the Service's endpoints and policy, and who asks.
pub type Place = (Target, Option<(Behind, Policy)>, Host);
