//! A Service, reduced to what tables need and checked: what stands here can be compiled as it is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use atalho_engine::flow::Protocol;
use atalho_engine::service::VipKey;
use ipnet::IpNet;

use super::external::External;
use super::object::Fault;
use super::{address, api};

/// `service.kubernetes.io/headless` on a Service (KEP-2447's companion label) means: no proxy.
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
/// KEP-2447: another proxy implements this Service, unless the value names us.
const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// A Service as compile sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// spec.clusterIPs; empty if the Service is not ours.
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    pub external: External,
    /// spec.internalTrafficPolicy is Local.
    pub internal_local: bool,
    /// spec.externalTrafficPolicy is Local.
    pub external_local: bool,
    /// spec.healthCheckNodePort, where it means something: type LoadBalancer with externalTrafficPolicy Local.
    pub health_check_node_port: Option<u16>,
    /// spec.sessionAffinity is ClientIP: seconds after its last connection that a client stays with its endpoint.
    pub affinity_timeout_s: Option<u32>,
    /// Why no packet of it concerns us.
    pub not_ours: Option<NotOurs>,
}

/// One entry of spec.ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if unnamed. EndpointSlices are matched by it.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

impl ServicePort {
    /// How `why` and the tables call this port of `service`: by name, by number if it has none.
    pub fn label(&self, service: &str) -> String {
        match self.name.is_empty() {
            true => format!("{service}:{}", self.port),
            false => format!("{service}:{}", self.name),
        }
    }
}

/// Why a Service is somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOurs {
    /// clusterIP None, or the label.
    Headless,
    ExternalName,
    /// The label names another proxy.
    OtherProxy(String),
}

impl Service {
    /// Checks and reduces `service`; the second value tells of addresses that were left out. `proxy_name` is the label's
    /// value that makes a Service ours; empty: none. `external_ip_cidrs`: external IPs that the operator allows.
    pub(crate) fn new(
        service: &api::Service,
        proxy_name: &str,
        external_ip_cidrs: &[IpNet],
    ) -> Result<(Self, Vec<Fault>), Fault> {
        let spec = service.spec.clone().unwrap_or_default();
        if let Some(not_ours) = not_ours(service, &spec, proxy_name) {
            return Ok((Self { not_ours: Some(not_ours), ..Self::default() }, Vec::new()));
        }
        let wants_node_ports = match spec.type_.as_deref().unwrap_or("ClusterIP") {
            "ClusterIP" => false,
            "NodePort" | "LoadBalancer" => true,
            other => {
                return Err(Fault::new(
                    format!("spec.type is {other:?}"),
                    "use ClusterIP, NodePort, LoadBalancer or ExternalName",
                ));
            }
        };
        let cluster_ips = cluster_ips(&spec)?;
        let (external, left_out) = External::new(service, &cluster_ips, external_ip_cidrs);
        // A ClusterIP Service without external IPs may have the field left over from another type.
        let is_external = wants_node_ports || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
        let external_local =
            is_external && is_local("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref())?;
        let is_checked = external_local && spec.type_.as_deref() == Some("LoadBalancer");
        let reduced = Self {
            ports: ports(&spec, wants_node_ports)?,
            internal_local: is_local("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref())?,
            external_local,
            health_check_node_port: if is_checked { health_check_node_port(&spec)? } else { None },
            affinity_timeout_s: affinity_timeout_s(&spec)?,
            not_ours: None,
            cluster_ips,
            external,
        };
        Ok((reduced, left_out))
    }

    /// External addresses and ports that it wants.
    pub fn external_vips(&self) -> impl Iterator<Item = VipKey> {
        self.external.addresses().flat_map(|(_, address)| {
            self.ports.iter().map(move |port| VipKey { address, protocol: port.protocol, port: port.port })
        })
    }

    /// Node ports with their protocol.
    pub fn node_ports(&self) -> impl Iterator<Item = (Protocol, u16)> {
        self.ports.iter().filter_map(|port| Some((port.protocol, port.node_port?)))
    }
}

fn not_ours(service: &api::Service, spec: &api::ServiceSpec, proxy_name: &str) -> Option<NotOurs> {
    let label = |name: &str| service.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    // A label without a value names somebody, too.
    let named = label(LABEL_PROXY_NAME).map(String::as_str);
    if named != Some(proxy_name).filter(|name| !name.is_empty()) {
        return Some(NotOurs::OtherProxy(named.unwrap_or_default().to_owned()));
    }
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(NotOurs::ExternalName);
    }
    let first_ip = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).or(spec.cluster_ip.as_ref());
    let headless = first_ip.is_some_and(|ip| ip == "None") || label(LABEL_HEADLESS).is_some();
    headless.then_some(NotOurs::Headless)
}

fn cluster_ips(spec: &api::ServiceSpec) -> Result<Vec<IpAddr>, Fault> {
    let (field, texts) = match spec.cluster_ips.as_deref() {
        Some(ips) if !ips.is_empty() => ("spec.clusterIPs", ips.to_vec()),
        _ => ("spec.clusterIP", spec.cluster_ip.iter().filter(|ip| !ip.is_empty()).cloned().collect()),
    };
    if texts.is_empty() {
        return Err(Fault::new(
            "it has no spec.clusterIP",
            "write one, as an API server would have done; or \"None\" for a headless Service",
        ));
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in &texts {
        let ip = address::ip(text).ok_or_else(|| {
            Fault::new(format!("{field} has {text:?}, which is not an IP address"), "write an IPv4 or IPv6 address")
        })?;
        if let Some(class) = unusable(ip) {
            return Err(Fault::new(
                format!("{field} has {ip}, which is {class}"),
                "use an address of the Service CIDR",
            ));
        }
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err(Fault::new(
                format!("{field} has two addresses of one family ({})", texts.join(", ")),
                "leave at most one IPv4 and one IPv6 address",
            ));
        }
        ips.push(ip);
    }
    Ok(ips)
}

/// What makes `ip` unfit to be translated to or from: a Service or an endpoint must not lead to it (CVE-2021-25737).
pub(crate) fn unusable(ip: IpAddr) -> Option<&'static str> {
    let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    match ip {
        _ if mapped => Some("an IPv4 address in IPv6 clothes"),
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_loopback() => Some("a loopback address"),
        _ if link_local => Some("a link-local address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        _ => None,
    }
}

fn ports(spec: &api::ServiceSpec, wants_node_ports: bool) -> Result<Vec<ServicePort>, Fault> {
    let written = spec.ports.as_deref().unwrap_or_default();
    let mut ports = Vec::with_capacity(written.len());
    let (mut numbers, mut names, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (n, port) in written.iter().enumerate() {
        let field = format!("spec.ports[{n}]");
        let protocol = protocol(&field, port.protocol.as_deref())?;
        let number = number(&format!("{field}.port"), port.port)?;
        let node_port = match port.node_port.unwrap_or(0) {
            0 => None,
            _ if !wants_node_ports => None,
            written => Some(self::number(&format!("{field}.nodePort"), written)?),
        };
        let name = port.name.clone().unwrap_or_default();
        if !numbers.insert((protocol, number)) {
            return Err(Fault::new(
                format!("{field} has {} port {number} a second time", protocol.name()),
                "leave one of the two",
            ));
        }
        if !names.insert(name.clone()) {
            let what = if name.is_empty() {
                "a second port without a name".to_owned()
            } else {
                format!("the name {name:?} a second time")
            };
            return Err(Fault::new(format!("{field} has {what}"), "give every port a name of its own"));
        }
        if let Some(node_port) = node_port
            && !node_ports.insert((protocol, node_port))
        {
            return Err(Fault::new(
                format!("{field} has {} nodePort {node_port} a second time", protocol.name()),
                "leave one of the two",
            ));
        }
        ports.push(ServicePort { name, protocol, port: number, node_port });
    }
    Ok(ports)
}

/// 0 counts as absent, as the API server leaves it where it has given none.
fn health_check_node_port(spec: &api::ServiceSpec) -> Result<Option<u16>, Fault> {
    let written = spec.health_check_node_port.filter(|port| *port != 0);
    written.map(|port| number("spec.healthCheckNodePort", port)).transpose()
}

/// A port number, 1 to 65535.
pub(crate) fn number(field: &str, written: i32) -> Result<u16, Fault> {
    match u16::try_from(written) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Fault::new(format!("{field} is {written}"), "use a port from 1 to 65535")),
    }
}

/// A protocol as Services and EndpointSlices spell it; TCP if absent.
pub(crate) fn protocol(field: &str, written: Option<&str>) -> Result<Protocol, Fault> {
    match written {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Fault::new(format!("{field}.protocol is {other:?}"), "use TCP, UDP or SCTP")),
    }
}

/// The API's default and bounds for spec.sessionAffinityConfig.clientIP.timeoutSeconds.
fn affinity_timeout_s(spec: &api::ServiceSpec) -> Result<Option<u32>, Fault> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => {
            return Err(Fault::new(format!("spec.sessionAffinity is {other:?}"), "use None or ClientIP"));
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let written = config.and_then(|client_ip| client_ip.timeout_seconds).unwrap_or(10_800);
    match u32::try_from(written) {
        Ok(timeout_s @ 1..=86_400) => Ok(Some(timeout_s)),
        _ => Err(Fault::new(
            format!("spec.sessionAffinityConfig.clientIP.timeoutSeconds is {written}"),
            "use 1 to 86400, or leave it out for 10800",
        )),
    }
}

fn is_local(field: &str, written: Option<&str>) -> Result<bool, Fault> {
    match written {
        None | Some("" | "Cluster") => Ok(false),
        Some("Local") => Ok(true),
        Some(other) => Err(Fault::new(format!("{field} is {other:?}"), "use Cluster or Local")),
    }
}
