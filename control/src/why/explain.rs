//! Why a packet to a Service goes where it goes: endpoints that it could not have gone to, by field, and what decided about
//! its source.

use std::collections::HashSet;

use atalho_engine::admit::{Decision, Egress, FirstPacket};
use atalho_engine::flow::Protocol;
use atalho_engine::service::{Route, Vip, VipKind};
use atalho_engine::tables::Port;
use serde::{Deserialize, Serialize};

use super::{View, shown};
use crate::compile::{Merged, Nearness, merged, of_cluster};
use crate::model::{Condition, Service, ServicePort};

/// An endpoint that was not among the choices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub address: String,
    /// The field that kept it out.
    pub because: String,
}

/// Endpoints of `vip` that are not among those of `route`.
pub(crate) fn left_out(view: &View<'_>, vip: &Vip, route: &Route, is_ipv4: bool) -> Vec<LeftOut> {
    let Some((service, name, port)) = service_and_port(view, vip) else { return Vec::new() };
    let place = view.compiled.place();
    let all = merged(view.model, name, port, is_ipv4, &place.node);
    let (_, nearness) = of_cluster(&all, place);
    let policy = policy_local(service, vip, route);
    let chosen: HashSet<_> = route.backends.endpoints.iter().map(|e| (e.address, e.port)).collect();
    let because = |e: &Merged<'_>| match (e.condition, policy) {
        (Condition::NotReady, _) => "conditions.ready is false, and it does not serve while it terminates".to_owned(),
        (_, Some(field)) if !e.local => {
            let node = e.node.map_or("no node", |node| node);
            format!("{field} is Local, and it is on {node}")
        }
        (Condition::Terminating, _) => "conditions.terminating is true, and others are ready".to_owned(),
        (Condition::Ready, _) => match nearness {
            Nearness::Node => format!("hints.forNodes has others than {}, and some endpoint is for it", place.node),
            Nearness::Zone | Nearness::Any => {
                let zone = place.zone.as_deref().unwrap_or_default();
                format!("hints.forZones has others than {zone}, and some endpoint is for it")
            }
        },
    };
    all.iter()
        .filter(|e| !chosen.contains(&(e.address, e.port)))
        .map(|e| LeftOut { address: shown(e.address, e.port), because: because(e) })
        .collect()
}

/// The field by which only endpoints of this node count, if one does.
fn policy_local(service: &Service, vip: &Vip, route: &Route) -> Option<&'static str> {
    match vip.kind {
        VipKind::ClusterIP => service.internal_local.then_some("internalTrafficPolicy"),
        _ => (service.external_local && std::ptr::eq(route, &vip.outside)).then_some("externalTrafficPolicy"),
    }
}

/// The Service, its name, and its port that `vip` is of.
fn service_and_port<'v>(view: &View<'v>, vip: &'v Vip) -> Option<(&'v Service, &'v str, &'v ServicePort)> {
    let (name, port_label) = vip.service.rsplit_once(':')?;
    let service = &view.model.service(name)?.object;
    let is_meant = |label: String| label.strip_prefix(':') == Some(port_label);
    Some((service, name, service.ports.iter().find(|port| is_meant(port.label("")))?))
}

/// Why the source is rewritten, or is not.
pub(super) fn source(view: &View<'_>, packet: &FirstPacket, decision: &Decision<'_>) -> &'static str {
    let client = packet.key.src;
    let is_external = decision.vip.is_some_and(|vip| vip.kind != VipKind::ClusterIP);
    let is_of_node = matches!(view.compiled.tables.ports.get(&packet.ingress), Some(Port::Node));
    match decision.source {
        Some(_) if decision.destination.0 == client => {
            "the endpoint is the client itself, and its answer must come by here"
        }
        Some(source) if source == client => "it is the node's address already",
        Some(_) if decision.vip.is_none() => "a pod's address means nothing outside the cluster",
        Some(_) if is_of_node => "the node sent it, and answers must come back to the node",
        Some(_) if is_external && decision.route.is_some_and(|route| route.masquerade) => {
            "externalTrafficPolicy is Cluster, and the answer must come by here"
        }
        Some(_) if !is_external && view.config.service.masquerade_all => "service.masquerade_all is set",
        Some(_) if !is_external && !view.compiled.tables.is_pod_address(client) => {
            "the client is in no pod range, and the answer must come by here"
        }
        Some(_) => "a pod's address means nothing outside the cluster",
        None if is_external && decision.egress == Some(Egress::Node) => "the endpoint is a process of this node",
        None if is_external => "externalTrafficPolicy is Local",
        None => "",
    }
}

/// The packet when it leaves: protocol, source and destination.
pub(super) fn leaves(packet: &FirstPacket, decision: &Decision<'_>) -> String {
    let key = &packet.key;
    let is_echo = matches!(key.protocol, Protocol::Icmp | Protocol::Icmpv6);
    let end = |address, port| if is_echo { format!("{address}") } else { shown(address, port) };
    let source = match decision.source {
        Some(source) if source != key.src || decision.destination.0 == key.src => {
            format!("{source}, a source port of its own,")
        }
        _ => end(key.src, key.src_port),
    };
    let (address, port) = decision.destination;
    format!("{} {source} -> {}", key.protocol.name(), end(address, port))
}

/// Whom a load-balancer address lets in.
pub(super) fn who_is_let_in(vip: &Vip) -> String {
    let ranges: Vec<String> = vip.sources.iter().flat_map(|ranges| ranges.iter()).map(ToString::to_string).collect();
    match ranges.is_empty() {
        true => "loadBalancerSourceRanges has no range that can be read, and lets nobody in".to_owned(),
        false => format!("loadBalancerSourceRanges lets in {} alone", ranges.join(", ")),
    }
}
