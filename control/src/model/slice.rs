//! An EndpointSlice, reduced and checked. Endpoints that must not be reached are left out one by one and reported; a
//! slice whose ports make no sense is refused as a whole.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::flow::Protocol;

use super::object::Fault;
use super::service::{number, protocol, unusable};
use super::{address, api};

/// The label that ties a slice to its Service.
const LABEL_SERVICE: &str = "kubernetes.io/service-name";

/// A slice as compile sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// `namespace/name` of its Service; `None`: nobody's.
    pub service: Option<Arc<str>>,
    pub is_ipv4: bool,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Empty if unnamed.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    pub address: IpAddr,
    pub node: Option<Arc<str>>,
    pub condition: Condition,
    pub hints: Option<Box<Hints>>,
    /// A hash of what names the object behind it: its uid, else its kind and name. `None`: nobody says.
    pub target: Option<u64>,
}

/// Whom an endpoint is for, as the controller spread them (KEP-2433, KEP-3015).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hints {
    pub for_nodes: Vec<Arc<str>>,
    pub for_zones: Vec<Arc<str>>,
}

/// What conditions ready, serving and terminating come to; the greater one is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// Neither.
    NotReady,
    /// Serving and terminating: used only where nothing is ready.
    Terminating,
    /// New flows go here.
    Ready,
}

impl Condition {
    /// Absent conditions count as ready, serving and not terminating (API documentation of EndpointConditions).
    fn of(conditions: Option<&api::EndpointConditions>) -> Self {
        let flag = |get: fn(&api::EndpointConditions) -> Option<bool>| conditions.and_then(get);
        let serving_terminating = flag(|c| c.serving).unwrap_or(true) && flag(|c| c.terminating).unwrap_or(false);
        match flag(|c| c.ready).unwrap_or(true) {
            true => Self::Ready,
            false if serving_terminating => Self::Terminating,
            false => Self::NotReady,
        }
    }
}

impl Hints {
    /// `None` if they name nobody.
    fn of(hints: &api::EndpointHints, intern: &mut impl FnMut(&str) -> Arc<str>) -> Option<Box<Self>> {
        let mut names = |list: &Option<Vec<api::Hint>>| -> Vec<Arc<str>> {
            list.iter().flatten().map(|hint| intern(&hint.name)).collect()
        };
        let hints = Self { for_nodes: names(&hints.for_nodes), for_zones: names(&hints.for_zones) };
        let is_empty = hints.for_nodes.is_empty() && hints.for_zones.is_empty();
        (!is_empty).then(|| Box::new(hints))
    }
}

impl Slice {
    /// Checks and reduces `slice`; the second value tells of endpoints that were left out.
    /// `intern` shares the names of nodes and Services.
    pub(crate) fn new(
        slice: &api::EndpointSlice,
        intern: &mut impl FnMut(&str) -> Arc<str>,
    ) -> Result<(Self, Vec<Fault>), Fault> {
        let namespace = slice.metadata.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_SERVICE));
        let service = label.map(|name| intern(&format!("{namespace}/{name}")));
        let mut reduced = Self { service, is_ipv4: true, ports: Vec::new(), endpoints: Vec::new() };
        match slice.address_type.as_str() {
            "IPv4" => {}
            "IPv6" => reduced.is_ipv4 = false,
            // Names are for DNS; no packet carries one.
            "FQDN" => return Ok((reduced, Vec::new())),
            other => return Err(Fault::new(format!("addressType is {other:?}"), "use IPv4, IPv6 or FQDN")),
        }
        for (n, port) in slice.ports.iter().flatten().enumerate() {
            let field = format!("ports[{n}]");
            let protocol = protocol(&field, port.protocol.as_deref())?;
            // A port without a number means "any port": nothing that a Service could lead to.
            let Some(written) = port.port else { continue };
            let port_number = number(&format!("{field}.port"), written)?;
            reduced.ports.push(SlicePort { name: port.name.clone().unwrap_or_default(), protocol, port: port_number });
        }
        let mut left_out = Vec::new();
        for (n, endpoint) in slice.endpoints.iter().flatten().enumerate() {
            match first_address(n, endpoint, reduced.is_ipv4) {
                Ok(address) => reduced.endpoints.push(SliceEndpoint {
                    address,
                    node: endpoint.node_name.as_deref().filter(|node| !node.is_empty()).map(&mut *intern),
                    condition: Condition::of(endpoint.conditions.as_ref()),
                    hints: endpoint.hints.as_ref().and_then(|hints| Hints::of(hints, intern)),
                    target: endpoint.target_ref.as_ref().map(target),
                }),
                Err(fault) => left_out.push(fault),
            }
        }
        Ok((reduced, left_out))
    }
}

fn target(object: &api::ObjectReference) -> u64 {
    let mut hasher = DefaultHasher::new();
    match object.uid.as_deref().filter(|uid| !uid.is_empty()) {
        Some(uid) => uid.hash(&mut hasher),
        None => (&object.kind, &object.namespace, &object.name).hash(&mut hasher),
    }
    hasher.finish()
}

/// The first address of endpoint `n`: the only one that counts.
fn first_address(n: usize, endpoint: &api::Endpoint, is_ipv4: bool) -> Result<IpAddr, Fault> {
    let field = format!("endpoints[{n}].addresses[0]");
    let Some(text) = endpoint.addresses.first() else {
        return Err(Fault::new(format!("endpoints[{n}] has no address"), "it is left out; give it one"));
    };
    let ip = address::ip(text).ok_or_else(|| {
        Fault::new(format!("{field} is {text:?}, which is not an IP address"), "it is left out; write an IP address")
    })?;
    if ip.is_ipv4() != is_ipv4 {
        let family = if is_ipv4 { "IPv4" } else { "IPv6" };
        let next = "it is left out; move it to a slice of its family";
        return Err(Fault::new(format!("{field} is {ip} in a slice of addressType {family}"), next));
    }
    match unusable(ip) {
        Some(class) => Err(Fault::new(
            format!("{field} is {ip}, which is {class}"),
            "it is left out, for a Service must not lead there; use the endpoint's own address",
        )),
        None => Ok(ip),
    }
}
