//! Where a packet goes by its destination: the node's own routes, compiled from the kernel's.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// A route of the node, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub target: RouteTarget,
}

/// What a route says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteTarget {
    /// By this gateway on the uplink.
    Gateway(IpAddr),
    /// The destination itself is a neighbour on the uplink.
    OnLink,
    /// An address of the node.
    Local,
    /// Refused (blackhole, unreachable, prohibit), or by an interface that is not ours.
    Unreachable,
}

/// Longest-prefix routes of both families and the neighbours that have a next-hop index.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// Sorted by prefix length, longest first; a node has a handful.
    routes: Vec<Route>,
    /// Neighbours on the uplink (gateways and hosts) with their next-hop index.
    neighbours: HashMap<IpAddr, u32>,
}

/// The answer to a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// A next hop with an index.
    NextHop(u32),
    /// By this neighbour on the uplink, which has no index yet: ask for it.
    Unresolved(IpAddr),
    Local,
    Unreachable,
}

impl Routes {
    pub fn new(mut routes: Vec<Route>, neighbours: HashMap<IpAddr, u32>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.destination.prefix_len()));
        Self { routes, neighbours }
    }

    /// The way to `destination` (the longest prefix wins).
    pub fn look_up(&self, destination: IpAddr) -> Routed {
        let Some(route) = self.routes.iter().find(|route| route.destination.contains(&destination)) else {
            return Routed::Unreachable;
        };
        let neighbour = match route.target {
            RouteTarget::Gateway(gateway) => gateway,
            RouteTarget::OnLink => destination,
            RouteTarget::Local => return Routed::Local,
            RouteTarget::Unreachable => return Routed::Unreachable,
        };
        self.neighbours.get(&neighbour).map_or(Routed::Unresolved(neighbour), |index| Routed::NextHop(*index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_an_unknown_neighbour_is_named() {
        let route = |destination: &str, target| Route { destination: destination.parse().unwrap(), target };
        let gateway: IpAddr = "192.0.2.1".parse().unwrap();
        let routes = Routes::new(
            vec![
                route("0.0.0.0/0", RouteTarget::Gateway(gateway)),
                route("192.0.2.0/24", RouteTarget::OnLink),
                route("192.0.2.9/32", RouteTarget::Local),
            ],
            HashMap::from([(gateway, 7)]),
        );
        assert_eq!(routes.look_up("198.51.100.1".parse().unwrap()), Routed::NextHop(7));
        assert_eq!(routes.look_up("192.0.2.5".parse().unwrap()), Routed::Unresolved("192.0.2.5".parse().unwrap()));
        assert_eq!(routes.look_up("192.0.2.9".parse().unwrap()), Routed::Local);
        assert_eq!(routes.look_up("2001:db8::1".parse().unwrap()), Routed::Unreachable);
    }
}
