//! Which endpoints of a Service port take new flows: all slices together, then readiness, then nearness or this node alone.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Condition, Hints, Model, ServicePort};

/// An endpoint of one Service port, as all slices together have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Merged<'m> {
    pub address: IpAddr,
    pub port: u16,
    pub node: Option<&'m Arc<str>>,
    pub local: bool,
    pub condition: Condition,
    pub hints: Option<&'m Hints>,
}

/// Where this node stands, as hints name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub node: String,
    /// The Node's label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
}

/// By what the endpoints of policy Cluster were narrowed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nearness {
    /// hints.forNodes
    Node,
    /// hints.forZones
    Zone,
    Any,
}

/// The endpoints of `port` in one family, ordered, each once. Of two slices that have the same one the better condition
/// counts: an endpoint moves from slice to slice in two events, in either order.
pub(crate) fn merged<'m>(
    model: &'m Model,
    service: &str,
    port: &ServicePort,
    is_ipv4: bool,
    node_name: &str,
) -> Vec<Merged<'m>> {
    let mut all = Vec::new();
    for (_, slice) in model.slices_of(service).filter(|(_, slice)| slice.is_ipv4 == is_ipv4) {
        let serves = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in serves.map(|p| p.port) {
            all.extend(slice.endpoints.iter().map(|endpoint| Merged {
                address: endpoint.address,
                port: number,
                node: endpoint.node.as_ref(),
                local: endpoint.node.as_deref() == Some(node_name),
                condition: endpoint.condition,
                hints: endpoint.hints.as_deref(),
            }));
        }
    }
    // Stable: what the slices say of one endpoint stays in their order.
    all.sort_by_key(|e| (e.address, e.port));
    all.dedup_by(|later, first| {
        let is_same = (later.address, later.port) == (first.address, first.port);
        if is_same {
            first.merge(later);
        }
        is_same
    });
    all
}

impl<'m> Merged<'m> {
    fn merge(&mut self, other: &Merged<'m>) {
        if other.condition > self.condition || self.hints.is_none() {
            self.hints = other.hints;
        }
        self.condition = self.condition.max(other.condition);
        if self.node.is_none() || (other.local && !self.local) {
            (self.node, self.local) = (other.node, other.local);
        }
    }
}

/// Those that take new flows under policy Cluster: the ready ones, of them the near ones where hints say so; or, if
/// none is ready, those that still serve while they terminate.
pub(crate) fn of_cluster<'a, 'm>(all: &'a [Merged<'m>], place: &Place) -> (Vec<&'a Merged<'m>>, Nearness) {
    let ready: Vec<_> = of(all.iter(), Condition::Ready).collect();
    if ready.is_empty() {
        return (of(all.iter(), Condition::Terminating).collect(), Nearness::Any);
    }
    let nearness = nearness(&ready, place);
    (ready.into_iter().filter(|e| is_near(e, nearness, place)).collect(), nearness)
}

/// Those that take new flows under policy Local: of this node, the ready ones, else those that serve while they terminate.
pub(crate) fn of_this_node<'a, 'm>(all: &'a [Merged<'m>]) -> Vec<&'a Merged<'m>> {
    let local = || all.iter().filter(|e| e.local);
    let ready: Vec<_> = of(local(), Condition::Ready).collect();
    if ready.is_empty() { of(local(), Condition::Terminating).collect() } else { ready }
}

fn of<'a, 'm: 'a>(
    endpoints: impl Iterator<Item = &'a Merged<'m>>,
    condition: Condition,
) -> impl Iterator<Item = &'a Merged<'m>> {
    endpoints.filter(move |e| e.condition == condition)
}

/// Hints count only where every ready endpoint carries one and one at least means this node: where they are incomplete,
/// the controller is still at work, and following them would overload those that have them (KEP-2433).
fn nearness(ready: &[&Merged<'_>], place: &Place) -> Nearness {
    let follows = |names: fn(&Hints) -> &[Arc<str>], near: Nearness| {
        let all_carry = ready.iter().all(|e| e.hints.is_some_and(|hints| !names(hints).is_empty()));
        all_carry && ready.iter().any(|e| is_near(e, near, place))
    };
    if follows(|hints| &hints.for_nodes, Nearness::Node) {
        Nearness::Node
    } else if follows(|hints| &hints.for_zones, Nearness::Zone) {
        Nearness::Zone
    } else {
        Nearness::Any
    }
}

fn is_near(endpoint: &Merged<'_>, nearness: Nearness, place: &Place) -> bool {
    let named = |names: &[Arc<str>], name: &str| names.iter().any(|other| **other == *name);
    match (nearness, endpoint.hints) {
        (Nearness::Any, _) => true,
        (_, None) => false,
        (Nearness::Node, Some(hints)) => named(&hints.for_nodes, &place.node),
        (Nearness::Zone, Some(hints)) => place.zone.as_deref().is_some_and(|zone| named(&hints.for_zones, zone)),
    }
}
