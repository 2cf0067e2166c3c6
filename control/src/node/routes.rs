//! The routes that lead the node's own traffic to Services into the funnel: one per Service range, one per VIP outside
//! of them. Compared with what the kernel has, and only the difference is written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::netlink::{self, ESRCH, NodeError};
use super::{FUNNEL_GATEWAY_V4, FUNNEL_GATEWAY_V6, PROTOCOL, funnel};
use crate::facts::NodeFacts;

/// Metric of our routes: an operator's own route to the same range (metric 0 for IPv4) stays the preferred one and is
/// never replaced by ours.
const METRIC: u32 = 97;

/// What should lead into the funnel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Service ranges and single VIPs, with the source address that the node uses toward them.
    pub routes: BTreeMap<IpNet, IpAddr>,
}

impl Wanted {
    /// Ranges and those VIPs that no range holds; a family without a source address has no route.
    pub fn new(
        ranges: &[IpNet],
        vips: impl IntoIterator<Item = IpAddr>,
        source: impl Fn(&IpNet) -> Option<IpAddr>,
    ) -> Self {
        let mut routes = BTreeMap::new();
        let outside = vips.into_iter().filter(|vip| !ranges.iter().any(|range| range.contains(vip)));
        for route in ranges.iter().map(IpNet::trunc).chain(outside.map(IpNet::from)) {
            if let Some(source) = source(&route) {
                routes.insert(route, source);
            }
        }
        Self { routes }
    }
}

/// The routes that we keep.
pub struct Routes {
    handle: Handle,
    f1: u32,
    /// What was last written with success; after a start nothing is believed, so that a changed source is put right.
    written: BTreeMap<IpNet, IpAddr>,
}

impl Routes {
    /// Runs inside a runtime: the connection's driver is spawned there.
    pub fn new(f1: u32) -> Result<Self, NodeError> {
        Ok(Self { handle: netlink::connect()?, f1, written: BTreeMap::new() })
    }

    /// Brings the kernel's routes through the funnel to `wanted`. One failure does not keep the others from being
    /// written; all failures come back.
    pub async fn sync(&mut self, wanted: &Wanted, facts: &NodeFacts) -> Vec<NodeError> {
        if !facts.links.get(&self.f1).is_some_and(|link| link.up) {
            // The kernel refuses routes through a link that is down, and has forgotten ours.
            self.written.clear();
            return Vec::new();
        }
        let present = ours(facts, self.f1);
        let mut errors = Vec::new();
        let missing: Vec<(IpNet, IpAddr)> = wanted
            .routes
            .iter()
            .filter(|(route, source)| !present.contains(*route) || self.written.get(*route) != Some(*source))
            .map(|(route, source)| (*route, *source))
            .collect();
        if missing.iter().any(|(route, _)| !present.contains(route)) {
            // A link that went down and up has also lost its permanent neighbours.
            errors.extend(funnel::ensure_gateways(&self.handle, self.f1).await.err());
        }
        for (route, source) in missing {
            match self.add(route, source).await {
                Ok(()) => {
                    self.written.insert(route, source);
                }
                Err(error) => errors.push(error),
            }
        }
        for route in present.iter().filter(|route| !wanted.routes.contains_key(*route)) {
            self.written.remove(route);
            errors.extend(self.delete(*route).await.err());
        }
        errors
    }

    async fn add(&self, route: IpNet, source: IpAddr) -> Result<(), NodeError> {
        self.handle
            .route()
            .add(message(route, Some(source), self.f1))
            .replace()
            .execute()
            .await
            .map_err(|error| NodeError::request(format!("writing the route to {route} through the funnel"), &error))
    }

    async fn delete(&self, route: IpNet) -> Result<(), NodeError> {
        match self.handle.route().del(message(route, None, self.f1)).execute().await {
            Ok(()) => Ok(()),
            Err(error) if netlink::errno(&error) == Some(ESRCH) => Ok(()),
            Err(error) => Err(NodeError::request(format!("deleting the route to {route} through the funnel"), &error)),
        }
    }
}

fn gateway_of(route: &IpNet) -> IpAddr {
    match route {
        IpNet::V4(_) => FUNNEL_GATEWAY_V4.into(),
        IpNet::V6(_) => FUNNEL_GATEWAY_V6.into(),
    }
}

/// Which of the kernel's routes are ours: through the funnel by its gateway.
fn ours(facts: &NodeFacts, f1: u32) -> BTreeSet<IpNet> {
    facts
        .routes
        .iter()
        .filter(|route| route.interface == Some(f1) && route.gateway == Some(gateway_of(&route.destination)))
        .map(|route| route.destination)
        .collect()
}

fn message(route: IpNet, source: Option<IpAddr>, f1: u32) -> rtnetlink::packet_route::route::RouteMessage {
    let mut message = match (route, source) {
        (IpNet::V4(net), source) => {
            let builder = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(FUNNEL_GATEWAY_V4)
                .onlink();
            match source {
                Some(IpAddr::V4(source)) => builder.pref_source(source),
                _ => builder,
            }
            .output_interface(f1)
            .priority(METRIC)
            .build()
        }
        (IpNet::V6(net), source) => {
            let builder = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(FUNNEL_GATEWAY_V6);
            match source {
                Some(IpAddr::V6(source)) => builder.pref_source(source),
                _ => builder,
            }
            .output_interface(f1)
            .priority(METRIC)
            .build()
        }
    };
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_vip_inside_a_range_needs_no_route_of_its_own() {
        let wanted =
            Wanted::new(&[net("10.96.0.0/12")], [ip("10.96.0.10"), ip("198.51.100.7"), ip("2001:db8::7")], |route| {
                matches!(route, IpNet::V4(_)).then(|| ip("192.0.2.1"))
            });
        let routes: Vec<IpNet> = wanted.routes.into_keys().collect();
        // The IPv6 VIP has no route, for the node has no IPv6 address to use toward it.
        assert_eq!(routes, [net("10.96.0.0/12"), net("198.51.100.7/32")]);
    }
}
