//! Where a packet goes by its destination: the node's own routes, compiled from the kernel's.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::tables::FastMap;

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
    /// Refused (unreachable, prohibit), or by an interface that is not ours.
    Unreachable,
    /// Refused in silence.
    Blackhole,
}

/// Longest-prefix routes of both families and the neighbours that have a next-hop index.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    v4: Prefixes<u32>,
    v6: Prefixes<u128>,
    /// Neighbours on the uplink (gateways and hosts) with their next-hop index.
    neighbours: FastMap<IpAddr, u32>,
    /// Of the nets on the uplink; a node has a handful.
    broadcasts: Vec<IpAddr>,
}

/// Of one family: network, mask and where it leads, longest prefixes first. A node has a handful.
type Prefixes<Bits> = Vec<(Bits, Bits, RouteTarget)>;

/// The answer to a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// A next hop with an index.
    NextHop(u32),
    /// By this neighbour on the uplink, which has no index yet: ask for it.
    Unresolved(IpAddr),
    Local,
    Unreachable,
    Blackhole,
}

impl Routes {
    pub fn new(mut routes: Vec<Route>, neighbours: impl IntoIterator<Item = (IpAddr, u32)>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.destination.prefix_len()));
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for Route { destination, target } in &routes {
            match destination {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.netmask().to_bits(), *target)),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.netmask().to_bits(), *target)),
            }
        }
        let broadcasts = routes.iter().filter_map(broadcast_of).collect();
        Self { v4, v6, neighbours: neighbours.into_iter().collect(), broadcasts }
    }

    /// The next-hop index of a neighbour on the uplink.
    pub fn neighbour(&self, address: IpAddr) -> Option<u32> {
        self.neighbours.get(&address).copied()
    }

    /// The way to `destination` (the longest prefix wins).
    pub fn look_up(&self, destination: IpAddr) -> Routed {
        match self.target(destination) {
            Some(RouteTarget::Local) => Routed::Local,
            Some(RouteTarget::Unreachable) | None => Routed::Unreachable,
            Some(RouteTarget::Blackhole) => Routed::Blackhole,
            Some(RouteTarget::Gateway(neighbour)) => self.by(neighbour),
            Some(RouteTarget::OnLink) => self.by(destination),
        }
    }

    /// The neighbour on the uplink that packets to `destination` are sent to; `None` if they do not go there.
    pub fn neighbour_to(&self, destination: IpAddr) -> Option<IpAddr> {
        match self.target(destination)? {
            RouteTarget::Gateway(gateway) => Some(gateway),
            RouteTarget::OnLink => Some(destination),
            RouteTarget::Local | RouteTarget::Unreachable | RouteTarget::Blackhole => None,
        }
    }

    /// Whether `address` is all hosts of a net on the uplink (a directed broadcast, RFC 1812 section 5.3.5.2).
    pub fn is_broadcast(&self, address: IpAddr) -> bool {
        self.broadcasts.contains(&address)
    }

    fn target(&self, destination: IpAddr) -> Option<RouteTarget> {
        match destination {
            IpAddr::V4(v4) => target_of(&self.v4, |net, mask| v4.to_bits() & mask == *net),
            IpAddr::V6(v6) => target_of(&self.v6, |net, mask| v6.to_bits() & mask == *net),
        }
    }

    fn by(&self, neighbour: IpAddr) -> Routed {
        self.neighbours.get(&neighbour).map_or(Routed::Unresolved(neighbour), |index| Routed::NextHop(*index))
    }
}

fn target_of<Bits>(prefixes: &Prefixes<Bits>, holds: impl Fn(&Bits, &Bits) -> bool) -> Option<RouteTarget> {
    prefixes.iter().find(|(net, mask, _)| holds(net, mask)).map(|(.., target)| *target)
}

/// All hosts of an IPv4 net that is on the link. Two addresses have none (RFC 3021 section 2.2).
fn broadcast_of(route: &Route) -> Option<IpAddr> {
    match route.destination {
        IpNet::V4(net) if route.target == RouteTarget::OnLink && net.prefix_len() <= 30 => Some(net.broadcast().into()),
        _ => None,
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
            [(gateway, 7)],
        );
        assert_eq!(routes.look_up("198.51.100.1".parse().unwrap()), Routed::NextHop(7));
        assert_eq!(routes.look_up("192.0.2.5".parse().unwrap()), Routed::Unresolved("192.0.2.5".parse().unwrap()));
        assert_eq!(routes.look_up("192.0.2.9".parse().unwrap()), Routed::Local);
        assert_eq!(routes.look_up("2001:db8::1".parse().unwrap()), Routed::Unreachable);
    }
}
