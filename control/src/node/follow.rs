//! Follows the node's network: a dump of everything, then events. Links, addresses and neighbours are kept from their
//! events; routes are dumped anew when anything that can change them did, because the kernel does not tell of every
//! route that goes with a link. When the socket overflows, everything is dumped again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atalho_engine::next_hops::Mac;
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;

use super::netlink::{self, NodeError};
use super::{Prepared, neighbours};
use crate::facts::{KernelRoute, KernelRouteKind, Link, NodeFacts, PortFacts};

/// Events are gathered for so long before a new picture is shown: one change of a link makes a dozen of them.
const GATHER: Duration = Duration::from_millis(10);
/// Everything is dumped anew so often, should the kernel ever have kept something from us.
const REDUMP: Duration = Duration::from_secs(60);
/// Ports that sockets have are read so often: the kernel tells of none.
const PORTS: Duration = Duration::from_secs(5);
/// Receive buffer of the event socket, bytes; the kernel's default overflows at some hundred events.
const EVENT_BUFFER: usize = 4 << 20;

/// linux/rtnetlink.h.
const RT_TABLE_LOCAL: u32 = 255;

const GROUPS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

/// What the node's network looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    pub facts: Arc<NodeFacts>,
    /// Neighbours that the kernel keeps for us, resolved or not.
    pub managed: Arc<BTreeSet<(u32, IpAddr)>>,
    /// Grows with everything that the kernel tells of the uplink and the funnel, a changed offload included.
    pub own_links_told: u64,
}

/// Shows a picture in `show` at once and after every change, until nobody looks any more. An `Err` is final: the socket
/// could not be opened or the first dump failed.
pub async fn follow(prepared: Prepared, show: watch::Sender<Picture>) -> Result<(), NodeError> {
    loop {
        let (mut connection, handle, mut events) = rtnetlink::new_multicast_connection(GROUPS)
            .map_err(|error| NodeError::new("following the node's network", error, "run as root; allow AF_NETLINK"))?;
        // A smaller buffer only means an earlier dump.
        let _ = connection.socket_mut().socket_mut().set_rx_buf_sz(EVENT_BUFFER);
        tokio::spawn(connection);
        let mut seen = Seen { ports: PortFacts::read(), ..Seen::default() };
        let mut dumped = Instant::now();
        let mut stale = Stale { everything: true, routes: false };
        loop {
            if stale.everything {
                seen.dump(&handle).await?;
                dumped = Instant::now();
            } else if stale.routes {
                seen.dump_routes(&handle).await?;
            }
            stale = Stale::default();
            let picture = seen.picture(&prepared);
            show.send_if_modified(|shown| {
                let differs = *shown != picture;
                if differs {
                    *shown = picture;
                }
                differs
            });

            // Wait for the first event, then gather what comes close behind it.
            let first = tokio::select! {
                event = events.next() => event,
                () = show.closed() => return Ok(()),
                () = tokio::time::sleep(PORTS) => {
                    seen.ports = PortFacts::read();
                    stale.everything = dumped.elapsed() >= REDUMP;
                    continue;
                }
            };
            let Some((first, _)) = first else { break };
            seen.take(first, &mut stale);
            let gathered = tokio::time::sleep(GATHER);
            tokio::pin!(gathered);
            loop {
                tokio::select! {
                    () = &mut gathered => break,
                    event = events.next() => match event {
                        Some((event, _)) => seen.take(event, &mut stale),
                        None => break,
                    },
                }
            }
        }
        tracing::warn!("the netlink event socket closed; opening another");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Stale {
    everything: bool,
    routes: bool,
}

/// What the kernel has said so far.
#[derive(Debug, Default)]
struct Seen {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpNet)>,
    routes: Vec<KernelRoute>,
    neighbours: BTreeMap<(u32, IpAddr), Mac>,
    managed: BTreeSet<(u32, IpAddr)>,
    told: BTreeMap<u32, u64>,
    ports: PortFacts,
}

impl Seen {
    async fn dump(&mut self, handle: &Handle) -> Result<(), NodeError> {
        let (told, ports) = (std::mem::take(&mut self.told), std::mem::take(&mut self.ports));
        *self = Self { told, ports, ..Self::default() };
        let failed = |error| NodeError::request("reading the node's network", &error);
        {
            let mut links = std::pin::pin!(handle.link().get().execute());
            while let Some(link) = links.try_next().await.map_err(failed)? {
                self.put_link(&link);
            }
        }
        {
            let mut addresses = std::pin::pin!(handle.address().get().execute());
            while let Some(address) = addresses.try_next().await.map_err(failed)? {
                self.addresses.extend(address_of(&address));
            }
        }
        {
            let mut entries = std::pin::pin!(handle.neighbours().get().execute());
            while let Some(entry) = entries.try_next().await.map_err(failed)? {
                self.put_neighbour(&entry);
            }
        }
        self.dump_routes(handle).await
    }

    async fn dump_routes(&mut self, handle: &Handle) -> Result<(), NodeError> {
        self.routes.clear();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let mut routes = std::pin::pin!(handle.route().get(request).execute());
            while let Some(route) =
                routes.try_next().await.map_err(|error| NodeError::request("reading the node's routes", &error))?
            {
                self.routes.extend(route_of(&route));
            }
        }
        Ok(())
    }

    fn take(&mut self, event: NetlinkMessage<RouteNetlinkMessage>, stale: &mut Stale) {
        match event.payload {
            NetlinkPayload::InnerMessage(message) => match message {
                RouteNetlinkMessage::NewLink(link) => {
                    self.put_link(&link);
                    stale.routes = true;
                }
                RouteNetlinkMessage::DelLink(link) if link.header.interface_family == AddressFamily::Unspec => {
                    self.forget_link(link.header.index);
                    stale.routes = true;
                }
                RouteNetlinkMessage::NewAddress(address) => {
                    self.addresses.extend(address_of(&address));
                    stale.routes = true;
                }
                RouteNetlinkMessage::DelAddress(address) => {
                    if let Some(key) = address_of(&address) {
                        self.addresses.remove(&key);
                    }
                    stale.routes = true;
                }
                RouteNetlinkMessage::NewNeighbour(entry) => self.put_neighbour(&entry),
                RouteNetlinkMessage::DelNeighbour(entry) => {
                    if let Some(address) = neighbours::address_of(&entry) {
                        self.neighbours.remove(&(entry.header.ifindex, address));
                        self.managed.remove(&(entry.header.ifindex, address));
                    }
                }
                RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => stale.routes = true,
                _ => {}
            },
            NetlinkPayload::Overrun(_) => stale.everything = true,
            _ => {}
        }
    }

    fn put_link(&mut self, message: &LinkMessage) {
        // Bridges tell of their ports under their own family, with half of the attributes.
        if message.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let Some(name) = netlink::name_of(message) else { return };
        let link = Link {
            name: name.to_owned(),
            mac: netlink::mac_of(message),
            mtu: netlink::mtu_of(message),
            up: message.header.flags.contains(LinkFlags::Up | LinkFlags::Running),
        };
        self.links.insert(message.header.index, link);
        *self.told.entry(message.header.index).or_default() += 1;
    }

    fn forget_link(&mut self, index: u32) {
        self.links.remove(&index);
        self.told.remove(&index);
        self.addresses.retain(|(i, _)| *i != index);
        self.neighbours.retain(|(i, _), _| *i != index);
        self.managed.retain(|(i, _)| *i != index);
    }

    fn put_neighbour(&mut self, entry: &NeighbourMessage) {
        if !matches!(entry.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
            return;
        }
        let Some(address) = neighbours::address_of(entry) else { return };
        if address.is_multicast() || address.is_loopback() || address.is_unspecified() {
            return;
        }
        let key = (entry.header.ifindex, address);
        if neighbours::is_ours(entry) {
            self.managed.insert(key);
        } else {
            self.managed.remove(&key);
        }
        let usable = matches!(
            entry.header.state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
        );
        let mac = entry.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::LinkLayerAddress(bytes) => Mac::try_from(bytes.as_slice()).ok(),
            _ => None,
        });
        match mac.filter(|_| usable) {
            Some(mac) => {
                self.neighbours.insert(key, mac);
            }
            None => {
                self.neighbours.remove(&key);
            }
        }
    }

    fn picture(&self, prepared: &Prepared) -> Picture {
        let f1 = prepared.f1.ifindex;
        // An interface that was deleted and made anew bears another index; its name is what the operator chose.
        let named = |name: &str| self.links.iter().find(|(_, link)| link.name == name).map(|(index, _)| *index);
        let uplink = named(&prepared.uplink.name).unwrap_or(prepared.uplink.ifindex);
        let facts = NodeFacts {
            links: self.links.clone(),
            addresses: self.addresses.clone(),
            routes: self.routes.clone(),
            neighbours: self
                .neighbours
                .iter()
                .filter(|((interface, _), _)| *interface != f1)
                .map(|(key, mac)| (*key, *mac))
                .collect(),
            uplink,
            funnel: f1,
            ports: self.ports.clone(),
        };
        let told = |index: u32| self.told.get(&index).copied().unwrap_or_default();
        Picture {
            facts: Arc::new(facts),
            managed: Arc::new(self.managed.clone()),
            own_links_told: told(uplink).wrapping_add(told(f1)),
        }
    }
}

fn address_of(message: &AddressMessage) -> Option<(u32, IpNet)> {
    // On a point-to-point link ADDRESS is the other side's; LOCAL is ours wherever it is given (rtnetlink(7)).
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) if address.is_none() => address = Some(*other),
            _ => {}
        }
    }
    let net = IpNet::new(address?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}

/// A route of the tables main and local as we keep it; `None` for any other.
fn route_of(route: &RouteMessage) -> Option<KernelRoute> {
    let table = netlink::table_of(route);
    if ![u32::from(RouteHeader::RT_TABLE_MAIN), RT_TABLE_LOCAL].contains(&table) {
        return None;
    }
    let kind = match route.header.kind {
        RouteType::Unicast => KernelRouteKind::Unicast,
        RouteType::Local => KernelRouteKind::Local,
        RouteType::Unreachable | RouteType::Prohibit => KernelRouteKind::Refused,
        RouteType::BlackHole => KernelRouteKind::Blackhole,
        RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => KernelRouteKind::Other,
        _ => return None,
    };
    let destination = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(address) => netlink::address_of(address),
        _ => None,
    });
    let any: IpAddr = match route.header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let metric = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let (interface, gateway) = netlink::first_hop(route);
    Some(KernelRoute {
        destination: IpNet::new(destination.unwrap_or(any), route.header.destination_prefix_length).ok()?,
        gateway,
        interface,
        kind,
        metric: metric.unwrap_or(0),
    })
}
