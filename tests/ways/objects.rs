//! The objects of the lab: both nodes, their pods, and a Service for each kind of endpoint and policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atalho_benches::lab::plan::Family;
use serde_json::{Value, json};

use crate::hosts::{ENDPOINT_PORT, Host};

/// Port of every Service, over TCP and UDP.
pub const PORT: u16 = 80;
/// Everything that may be a Service's address: cluster IPs, load balancers, external IPs that are allowed, and one that is not.
pub const RANGES: [&str; 6] =
    ["10.96.0.0/16", "fd00:96::/112", "192.0.2.0/24", "2001:db8:7::/64", "198.51.100.0/24", "2001:db8:e::/64"];
/// Inside which external IPs are served.
pub const EXTERNAL: [&str; 2] = ["198.51.100.0/25", "2001:db8:e::/121"];

/// Who is behind a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behind {
    Local,
    Other,
    Remote,
    /// A process of node-a.
    Process,
    Both,
    Nobody,
}

pub const BEHIND: [Behind; 6] =
    [Behind::Local, Behind::Other, Behind::Remote, Behind::Process, Behind::Both, Behind::Nobody];

impl Behind {
    pub fn hosts(self) -> &'static [Host] {
        match self {
            Self::Local => &[Host::Endpoint],
            Self::Other => &[Host::Other],
            Self::Remote => &[Host::EndpointB],
            Self::Process => &[Host::Node],
            Self::Both => &[Host::Endpoint, Host::EndpointB],
            Self::Nobody => &[],
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "pod here",
            Self::Other => "pod of another plugin here",
            Self::Remote => "pod there",
            Self::Process => "process of node-a",
            Self::Both => "pods here and there",
            Self::Nobody => "nobody",
        }
    }
}

/// externalTrafficPolicy and internalTrafficPolicy, of one Service both the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    Cluster,
    Local,
}

impl Policy {
    pub const BOTH: [Self; 2] = [Self::Cluster, Self::Local];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// A Service: all its addresses end in its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    pub behind: Behind,
    pub policy: Policy,
    number: u8,
}

impl Service {
    pub fn cluster_ip(self, family: Family) -> IpAddr {
        address(family, Ipv4Addr::new(10, 96, 0, self.number), [0xfd00, 0x96, 0, 0, 0, 0, 0], self.number)
    }

    pub fn balancer(self, family: Family) -> IpAddr {
        address(family, Ipv4Addr::new(192, 0, 2, self.number), [0x2001, 0xdb8, 7, 0, 0, 0, 0], self.number)
    }

    pub fn external_ip(self, family: Family) -> IpAddr {
        address(family, Ipv4Addr::new(198, 51, 100, self.number), [0x2001, 0xdb8, 0xe, 0, 0, 0, 0], self.number)
    }

    pub fn node_port(self) -> u16 {
        30_000 + u16::from(self.number)
    }

    fn object(self, more: &Value) -> Value {
        let addresses = |of: fn(Self, Family) -> IpAddr| Family::BOTH.map(|family| of(self, family).to_string());
        let ports = ["TCP", "UDP"].map(|protocol| {
            json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "targetPort": ENDPOINT_PORT,
                   "nodePort": self.node_port()})
        });
        let cluster_ips = addresses(Self::cluster_ip);
        let ingress = addresses(Self::balancer).map(|ip| {
            let mut point = json!({"ip": ip});
            merge(&mut point, more);
            point
        });
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name(), "namespace": "default"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": cluster_ips[0], "clusterIPs": cluster_ips,
                "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
                "externalIPs": addresses(Self::external_ip), "ports": ports,
                "externalTrafficPolicy": self.policy.name(), "internalTrafficPolicy": self.policy.name(),
            },
            "status": {"loadBalancer": {"ingress": ingress}},
        })
    }

    fn slices(self) -> [Value; 2] {
        Family::BOTH.map(|family| {
            let endpoints: Vec<Value> = self
                .behind
                .hosts()
                .iter()
                .map(|host| {
                    let node = if *host == Host::EndpointB { "node-b" } else { "node-a" };
                    json!({"addresses": [host.address(family).to_string()], "nodeName": node, "conditions": {"ready": true}})
                })
                .collect();
            let ports = ["TCP", "UDP"]
                .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": ENDPOINT_PORT}));
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": format!("{}-{}", self.name(), family.name().to_lowercase()), "namespace": "default",
                             "labels": {"kubernetes.io/service-name": self.name()}},
                "addressType": family.name(), "ports": ports, "endpoints": endpoints,
            })
        })
    }

    pub fn name(self) -> String {
        format!("ways-{}", self.number)
    }
}

fn address(family: Family, v4: Ipv4Addr, [a, b, c, d, e, f, g]: [u16; 7], last: u8) -> IpAddr {
    match family {
        Family::V4 => v4.into(),
        Family::V6 => Ipv6Addr::new(a, b, c, d, e, f, g, last.into()).into(),
    }
}

/// One for each kind of endpoint and policy.
pub fn services() -> Vec<Service> {
    let kinds = BEHIND.into_iter().flat_map(|behind| Policy::BOTH.map(|policy| (behind, policy)));
    kinds.zip(20..).map(|((behind, policy), number)| Service { behind, policy, number }).collect()
}

/// Its load balancer proxies (ipMode), and lives on the router.
pub const PROXIED: Proxied = Proxied(Service { behind: Behind::Both, policy: Policy::Cluster, number: 50 });
/// Its external IPs are outside of what is allowed.
pub const UNLISTED: Service = Service { behind: Behind::Both, policy: Policy::Cluster, number: 200 };
/// Has no Service behind it.
pub const UNALLOCATED: Service = Service { behind: Behind::Nobody, policy: Policy::Cluster, number: 99 };

pub struct Proxied(Service);

impl Proxied {
    pub fn address(&self, family: Family) -> IpAddr {
        self.0.balancer(family)
    }
}

/// All objects as YAML documents.
pub fn manifest() -> String {
    let mut objects = vec![node("node-a", Host::Node, 1), node("node-b", Host::NodeB, 2)];
    for (host, node) in [
        (Host::Pod, "node-a"),
        (Host::Endpoint, "node-a"),
        (Host::Other, "node-a"),
        (Host::PodB, "node-b"),
        (Host::EndpointB, "node-b"),
    ] {
        objects.push(pod(host, node));
    }
    for service in services().into_iter().chain([UNLISTED]) {
        objects.push(service.object(&json!({})));
        objects.extend(service.slices());
    }
    objects.push(PROXIED.0.object(&json!({"ipMode": "Proxy"})));
    objects.extend(PROXIED.0.slices());
    objects.iter().map(|object| format!("---\n{object}\n")).collect()
}

fn node(name: &str, host: Host, number: u8) -> Value {
    let addresses =
        Family::BOTH.map(|family| json!({"type": "InternalIP", "address": host.address(family).to_string()}));
    let pods = [format!("10.244.{number}.0/24"), format!("fd00:244:0:{number}::/64")];
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": pods[0], "podCIDRs": pods}, "status": {"addresses": addresses},
    })
}

fn pod(host: Host, node: &str) -> Value {
    let ips = Family::BOTH.map(|family| json!({"ip": host.address(family).to_string()}));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": host.name(), "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        "status": {"phase": "Running", "podIP": host.address(Family::V4).to_string(), "podIPs": ips},
    })
}

fn merge(into: &mut Value, more: &Value) {
    if let (Some(into), Some(more)) = (into.as_object_mut(), more.as_object()) {
        into.extend(more.clone());
    }
}
