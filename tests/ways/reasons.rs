//! Why a cell may differ from kube-proxy's. One that differs for no reason here is a fault.

use crate::ask::Seen;
use crate::cells::{Cell, Target};
use crate::hosts::Host;
use crate::objects::Behind;

/// A question that was answered in two ways.
#[derive(Clone, Copy)]
pub struct Difference<'a> {
    pub cell: &'a Cell,
    pub source: Host,
    pub ours: &'a Seen,
    pub theirs: &'a Seen,
}

pub struct Reason {
    pub text: &'static str,
    pub is_for: fn(&Difference<'_>) -> bool,
}

/// The first that is for a difference counts.
pub const REASONS: [Reason; 6] = [
    Reason {
        text: "Netfilter drops and refuses what a process of the node sends inside the system call that sends it, which \
               fails with EPERM. Here it has left by then: silence is silence, and a refusal comes as an ICMP error.",
        is_for: |it| it.source == Host::Node && it.theirs.ends.contains_key("not permitted"),
    },
    Reason {
        text: "A pod's way out of the cluster, to other nodes' own addresses too, is masqueraded by the node; kube-proxy leaves \
               that to the CNI plugin. So another node sees a node ask, and under policy Local gives it endpoints of its own \
               alone, where kube-proxy also chooses one elsewhere, whose answer does not find back.",
        is_for: |it| {
            let is_out = match it.cell.target {
                Target::ProxiedBalancer | Target::OutsideAddress => true,
                Target::NodePort | Target::NodeAddress => it.source == Host::PodB,
                Target::NodePortB => it.source != Host::PodB,
                _ => false,
            };
            let is_other_node =
                it.source == Host::PodB && it.cell.service.is_some_and(|service| service.behind == Behind::Process);
            (is_out || is_other_node) && it.ours.clients.iter().eq([node_of_pod(it.source)])
        },
    },
    Reason {
        text: "Another port of a load-balancer or external address is refused, as the address is a Service's; with kube-proxy \
               it goes on by the node's routes, here to nowhere.",
        is_for: |it| matches!(it.cell.target, Target::OtherBalancerPort | Target::OtherExternalPort),
    },
    Reason {
        text: "External IPs are served only inside `[service] external_ip_cidrs`: who may write a Service could take any \
               address (CVE-2020-8554).",
        is_for: |it| it.cell.target == Target::UnlistedExternalIp,
    },
    Reason {
        text: "What another runtime's container sends to an address of its own node is the node's affair: none of our hooks stands on \
               the way. Another node's node port works.",
        is_for: |it| it.source == Host::Container && it.cell.target == Target::NodePort,
    },
    Reason {
        text: "A process of the node sees its node ask, where the node forwards for somebody: an answer to him would go past us, \
               untranslated.",
        is_for: |it| {
            it.source == Host::Container && it.cell.service.is_some_and(|service| service.behind == Behind::Process)
        },
    },
];

/// The name of the node of a pod.
fn node_of_pod(pod: Host) -> &'static str {
    match pod {
        Host::Pod | Host::Endpoint | Host::Other => Host::Node.name(),
        Host::PodB | Host::EndpointB => Host::NodeB.name(),
        _ => "nobody",
    }
}
