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
    /// By an interface that is neither ours nor a pod's (containers of another runtime, a VPN): the node's stack forwards.
    Elsewhere,
    /// Refused (unreachable, prohibit).
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

/// Of one family, longest first. A node has a handful.
type Prefixes<Bits> = Vec<Prefix<Bits>>;

#[derive(Debug, Clone)]
struct Prefix<Bits> {
    network: Bits,
    mask: Bits,
    target: RouteTarget,
    /// What a look-up answers; `None` where that depends on the destination.
    answer: Option<Routed>,
}

/// The answer to a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// A next hop with an index.
    NextHop(u32),
    /// By this neighbour on the uplink, which has no index yet: ask for it.
    Unresolved(IpAddr),
    Local,
    Elsewhere,
    Unreachable,
    Blackhole,
}

impl Routes {
    pub fn new(mut routes: Vec<Route>, neighbours: impl IntoIterator<Item = (IpAddr, u32)>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.destination.prefix_len()));
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let neighbours = neighbours.into_iter().collect();
        for Route { destination, target } in &routes {
            let (target, answer) = (*target, answer_of(*target, &neighbours));
            match destination {
                IpNet::V4(net) => {
                    let (network, mask) = (net.network().to_bits(), net.netmask().to_bits());
                    v4.push(Prefix { network, mask, target, answer });
                }
                IpNet::V6(net) => {
                    let (network, mask) = (net.network().to_bits(), net.netmask().to_bits());
                    v6.push(Prefix { network, mask, target, answer });
                }
            }
        }
        let broadcasts = routes.iter().filter_map(broadcast_of).collect();
        Self { v4, v6, neighbours, broadcasts }
    }

    /// The next-hop index of a neighbour on the uplink.
    pub fn neighbour(&self, address: IpAddr) -> Option<u32> {
        self.neighbours.get(&address).copied()
    }

    /// The way to `destination` (the longest prefix wins).
    pub fn look_up(&self, destination: IpAddr) -> Routed {
        let (_, answer) = self.longest(destination).unwrap_or((RouteTarget::Unreachable, Some(Routed::Unreachable)));
        answer.unwrap_or_else(|| by(&self.neighbours, destination))
    }

    /// The neighbour on the uplink that packets to `destination` are sent to; `None` if they do not go there.
    pub fn neighbour_to(&self, destination: IpAddr) -> Option<IpAddr> {
        match self.longest(destination)?.0 {
            RouteTarget::Gateway(gateway) => Some(gateway),
            RouteTarget::OnLink => Some(destination),
            RouteTarget::Local | RouteTarget::Elsewhere | RouteTarget::Unreachable | RouteTarget::Blackhole => None,
        }
    }

    /// Whether `address` is all hosts of a net on the uplink (a directed broadcast, RFC 1812 section 5.3.5.2).
    pub fn is_broadcast(&self, address: IpAddr) -> bool {
        self.broadcasts.contains(&address)
    }

    /// What the longest prefix of a destination says.
    #[inline]
    fn longest(&self, destination: IpAddr) -> Option<(RouteTarget, Option<Routed>)> {
        match destination {
            IpAddr::V4(v4) => first_of(&self.v4, |prefix| v4.to_bits() & prefix.mask == prefix.network),
            IpAddr::V6(v6) => first_of(&self.v6, |prefix| v6.to_bits() & prefix.mask == prefix.network),
        }
    }
}

#[inline]
fn first_of<Bits>(
    prefixes: &Prefixes<Bits>,
    holds: impl Fn(&Prefix<Bits>) -> bool,
) -> Option<(RouteTarget, Option<Routed>)> {
    prefixes.iter().find(|prefix| holds(prefix)).map(|prefix| (prefix.target, prefix.answer))
}

/// What a route answers whatever the destination is.
fn answer_of(target: RouteTarget, neighbours: &FastMap<IpAddr, u32>) -> Option<Routed> {
    Some(match target {
        RouteTarget::Local => Routed::Local,
        RouteTarget::Elsewhere => Routed::Elsewhere,
        RouteTarget::Unreachable => Routed::Unreachable,
        RouteTarget::Blackhole => Routed::Blackhole,
        RouteTarget::Gateway(neighbour) => by(neighbours, neighbour),
        RouteTarget::OnLink => return None,
    })
}

fn by(neighbours: &FastMap<IpAddr, u32>, neighbour: IpAddr) -> Routed {
    neighbours.get(&neighbour).map_or(Routed::Unresolved(neighbour), |index| Routed::NextHop(*index))
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
