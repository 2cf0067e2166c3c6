//! What every use of rtnetlink here needs: a connection, an error with a next step, and a link by its name.

use std::fmt;
use std::future::Future;

use atalho_engine::next_hops::Mac;
use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};

use super::Device;

/// Linux error numbers (asm-generic/errno-base.h, errno.h).
pub(super) const ENOENT: i32 = 2;
pub(super) const ESRCH: i32 = 3;
pub(super) const ENODEV: i32 = 19;

/// What failed in the node's network, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeError {
    pub what: String,
    pub why: String,
    pub next: String,
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.why, self.next)
    }
}

impl std::error::Error for NodeError {}

impl NodeError {
    pub(super) fn new(what: impl Into<String>, why: impl fmt::Display, next: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.to_string(), next: next.into() }
    }

    /// For requests that fail for want of a right or a feature.
    pub(super) fn request(what: impl Into<String>, error: &rtnetlink::Error) -> Self {
        let next = match errno(error) {
            Some(1 | 13) => "run as root, or with CAP_NET_ADMIN",
            Some(95) => "load the kernel module that it needs (veth)",
            _ => "see the kernel's log",
        };
        Self::new(what, reason(error), next)
    }
}

/// The kernel's error number, positive; `None` where it is none of the kernel's.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

fn reason(error: &rtnetlink::Error) -> String {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    }
}

/// A connection whose driver runs in the current runtime.
pub(super) fn connect() -> Result<Handle, NodeError> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|error| NodeError::new("opening a netlink socket", error, "run as root; allow AF_NETLINK"))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Runs `future` in a runtime of this thread alone.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, NodeError>>) -> Result<T, NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NodeError::new("starting a runtime", error, "raise the limit of open files"))?;
    runtime.block_on(future)
}

/// The link of this name; `None` if there is none.
pub(super) async fn link_by_name(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, NodeError> {
    let mut found = std::pin::pin!(handle.link().get().match_name(name).execute());
    match found.try_next().await {
        Ok(link) => Ok(link),
        Err(error) if errno(&error) == Some(ENODEV) => Ok(None),
        Err(error) => Err(NodeError::request(format!("looking for the interface {name}"), &error)),
    }
}

/// The uplink by its name, or the interface of the default route (IPv4's before IPv6's).
pub(super) async fn uplink(handle: &Handle, name: &str) -> Result<Device, NodeError> {
    if !name.is_empty() {
        let link = link_by_name(handle, name).await?.ok_or_else(|| {
            NodeError::new(
                format!("the uplink {name}"),
                "there is no such interface",
                "set [uplink] interface to one of `ip -br link`",
            )
        })?;
        return device(&link);
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut routes = std::pin::pin!(handle.route().get(request).execute());
        let mut best: Option<(u32, u32)> = None;
        while let Some(route) =
            routes.try_next().await.map_err(|error| NodeError::request("reading the node's routes", &error))?
        {
            let main = table_of(&route) == u32::from(rtnetlink::packet_route::route::RouteHeader::RT_TABLE_MAIN);
            if !main || route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
                continue;
            }
            let metric = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Priority(metric) => Some(*metric),
                _ => None,
            });
            if let Some(index) = first_hop(&route).0 {
                let candidate = (metric.unwrap_or(0), index);
                best = Some(best.map_or(candidate, |b| b.min(candidate)));
            }
        }
        if let Some((_, index)) = best {
            let mut links = std::pin::pin!(handle.link().get().match_index(index).execute());
            let link =
                links.try_next().await.map_err(|error| NodeError::request("reading the uplink's link", &error))?;
            if let Some(link) = link {
                return device(&link);
            }
        }
    }
    Err(NodeError::new(
        "the uplink",
        "[uplink] interface is not set and there is no default route",
        "set it to one of `ip -br link`",
    ))
}

/// Egress interface and gateway of a route; of several next hops the first.
pub(super) fn first_hop(route: &RouteMessage) -> (Option<u32>, Option<std::net::IpAddr>) {
    let of = |attributes: &[RouteAttribute]| {
        let oif = attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let gateway = attributes.iter().find_map(|a| match a {
            RouteAttribute::Gateway(address) => address_of(address),
            RouteAttribute::Via(rtnetlink::packet_route::route::RouteVia::Inet(v4)) => Some((*v4).into()),
            RouteAttribute::Via(rtnetlink::packet_route::route::RouteVia::Inet6(v6)) => Some((*v6).into()),
            _ => None,
        });
        (oif, gateway)
    };
    let (oif, gateway) = of(&route.attributes);
    if oif.is_some() {
        return (oif, gateway);
    }
    let hops = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::MultiPath(hops) => hops.first(),
        _ => None,
    });
    hops.map_or((None, None), |hop| (Some(hop.interface_index), of(&hop.attributes).1))
}

pub(super) fn address_of(address: &rtnetlink::packet_route::route::RouteAddress) -> Option<std::net::IpAddr> {
    match address {
        rtnetlink::packet_route::route::RouteAddress::Inet(v4) => Some((*v4).into()),
        rtnetlink::packet_route::route::RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// The table of a route; the header has room for the first 256 only.
pub(super) fn table_of(route: &RouteMessage) -> u32 {
    let wide = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    wide.unwrap_or_else(|| u32::from(route.header.table))
}

pub(super) fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// The largest MTU of the node's veths but those named, bytes; 0 where there is none.
pub(super) async fn veth_mtu_max(handle: &Handle, but: &[&str]) -> Result<u16, NodeError> {
    let mut links = std::pin::pin!(handle.link().get().execute());
    let mut largest = 0;
    while let Some(link) =
        links.try_next().await.map_err(|error| NodeError::request("reading the node's links", &error))?
    {
        if is_veth(&link) && name_of(&link).is_some_and(|name| !but.contains(&name)) {
            largest = mtu_of(&link).max(largest);
        }
    }
    Ok(largest)
}

/// The link-layer address; all zero where it has none of six bytes.
pub(super) fn mac_of(link: &LinkMessage) -> Mac {
    let bytes = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(bytes) => Some(bytes.as_slice()),
        _ => None,
    });
    bytes.and_then(|b| b.try_into().ok()).unwrap_or_default()
}

/// The MTU, bytes; one beyond 65,535 counts as 65,535.
pub(super) fn mtu_of(link: &LinkMessage) -> u16 {
    let mtu = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or(0).min(u32::from(u16::MAX)) as u16
}

pub(super) fn is_veth(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|a| match a {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Veth))),
        _ => false,
    })
}

pub(super) fn device(link: &LinkMessage) -> Result<Device, NodeError> {
    let name = name_of(link).ok_or_else(|| {
        NodeError::new(format!("interface {}", link.header.index), "the kernel gave it no name", "see `ip link`")
    })?;
    Ok(Device { ifindex: link.header.index, name: name.to_owned(), mac: mac_of(link), mtu: mtu_of(link) })
}
