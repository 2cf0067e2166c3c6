//! Nodes, Pods and ServiceCIDRs, reduced and checked.

use std::net::IpAddr;

use ipnet::IpNet;

use super::object::Fault;
use super::{address, api};

/// The taint by which the cluster autoscaler announces a node's end.
const TAINT_AUTOSCALER: &str = "ToBeDeletedByClusterAutoscaler";
/// Where the node stands, as hints of endpoints name it.
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";

/// A Node as we see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeObject {
    /// status.addresses that are IPs: internal ones first, each once.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    /// metadata.deletionTimestamp is set.
    pub deleting: bool,
    /// Carries the taint `ToBeDeletedByClusterAutoscaler`.
    pub autoscaler_taint: bool,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// A Pod as we see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodObject {
    pub namespace: String,
    pub name: String,
    /// spec.nodeName; empty while unscheduled.
    pub node: String,
    /// status.podIPs; empty once the pod has ended, for its addresses may then be another's.
    pub addresses: Vec<IpAddr>,
    pub host_network: bool,
}

impl NodeObject {
    pub(crate) fn new(node: &api::Node) -> Result<Self, Fault> {
        let spec = node.spec.clone().unwrap_or_default();
        let mut reduced = Self {
            deleting: node.metadata.deletion_timestamp.is_some(),
            zone: node.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_ZONE)).cloned(),
            autoscaler_taint: spec.taints.iter().flatten().any(|taint| taint.key == TAINT_AUTOSCALER),
            ..Self::default()
        };
        let written = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        for kind in ["InternalIP", "ExternalIP"] {
            for address in written.clone().filter(|address| address.type_ == kind) {
                let ip = ip(&format!("status.addresses ({kind})"), &address.address)?;
                if !reduced.addresses.contains(&ip) {
                    reduced.addresses.push(ip);
                }
            }
        }
        let cidrs =
            spec.pod_cidrs.filter(|cidrs| !cidrs.is_empty()).unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
        reduced.pod_cidrs = self::cidrs("spec.podCIDRs", &cidrs)?;
        Ok(reduced)
    }
}

impl PodObject {
    pub(crate) fn new(pod: &api::Pod) -> Result<Self, Fault> {
        let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
        let mut addresses = Vec::new();
        if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
            let texts = if status.pod_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
                several.collect()
            } else {
                status.pod_ip.as_deref().filter(|ip| !ip.is_empty()).into_iter().collect::<Vec<_>>()
            };
            for text in texts {
                addresses.push(ip("status.podIPs", text)?);
            }
        }
        Ok(Self {
            namespace: pod.metadata.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned()),
            name: pod.metadata.name.clone().unwrap_or_default(),
            node: spec.node_name.unwrap_or_default(),
            addresses,
            host_network: spec.host_network.unwrap_or(false),
        })
    }
}

/// The ranges of a ServiceCIDR.
pub(crate) fn service_cidrs(object: &api::ServiceCidr) -> Result<Vec<IpNet>, Fault> {
    let spec = object.spec.clone().unwrap_or_default();
    cidrs("spec.cidrs", &spec.cidrs.unwrap_or_default())
}

fn ip(field: &str, text: &str) -> Result<IpAddr, Fault> {
    address::ip(text).ok_or_else(|| {
        Fault::new(format!("{field} has {text:?}, which is not an IP address"), "write an IPv4 or IPv6 address")
    })
}

fn cidrs(field: &str, texts: &[String]) -> Result<Vec<IpNet>, Fault> {
    let parse = |text: &String| {
        address::cidr(text).ok_or_else(|| {
            Fault::new(format!("{field} has {text:?}, which is not a CIDR"), "write one such as \"10.244.0.0/24\"")
        })
    };
    texts.iter().map(parse).collect()
}
