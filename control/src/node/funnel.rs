//! The funnel: one veth whose far end (f0) carries the AF_XDP sockets of all pods' packets, and whose kernel end (f1)
//! is at once the node's own port. A queue per worker at both ends: with fewer receive queues at one end than transmit
//! queues at the other, the kernel refuses XDP there.

use atalho_layout::tag_mac;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressScope;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourAttribute;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, LinkVeth};

use super::netlink::{self, ENODEV, NodeError};
use super::sysctl::{self, Family};
use super::{Device, FUNNEL_ADDRESS_V4, FUNNEL_GATEWAY_V4, FUNNEL_GATEWAY_V6, PROTOCOL, PrepareOptions};

/// Makes or adopts the funnel; both ends are up when it returns.
pub(super) async fn ensure(
    handle: &Handle,
    options: &PrepareOptions<'_>,
    mtu: u16,
) -> Result<(Device, Device), NodeError> {
    let f0 = netlink::link_by_name(handle, options.f0).await?;
    let f1 = netlink::link_by_name(handle, options.f1).await?;
    for link in [&f0, &f1].into_iter().flatten() {
        if !netlink::is_veth(link) {
            let name = netlink::name_of(link).unwrap_or("?").to_owned();
            return Err(NodeError::new(
                format!("the funnel's interface {name}"),
                "there is one of that name already, and it is no veth",
                "choose other names in [funnel]",
            ));
        }
    }
    let fits = match (&f0, &f1) {
        (Some(f0), Some(f1)) => is_pair(f0, f1) && [f0, f1].iter().all(|link| has_queues(link, options.queues)),
        _ => false,
    };
    if !fits {
        if f0.is_some() || f1.is_some() {
            tracing::info!(
                "the funnel {}/{} has other queues than {}: made anew",
                options.f0,
                options.f1,
                options.queues
            );
            remove(handle, options.f0, options.f1).await?;
        }
        create(handle, options).await?;
    }

    // Before it goes up: the kernel must say nothing of its own into the funnel (router solicitations, DAD).
    sysctl::set(Family::Ipv6, options.f0, "disable_ipv6", "1")?;
    for (family, key, value) in F1_SYSCTLS {
        if !sysctl::set(*family, options.f1, key, value)? {
            tracing::info!("{}: the kernel has no {family:?} sysctl {key}; left out", options.f1);
        }
    }
    (options.offloads)(options.f1).map_err(|why| {
        NodeError::new(
            format!("turning off the offloads of {}", options.f1),
            why,
            "without it unfinished checksums reach the workers; see `ethtool -k`",
        )
    })?;

    let f0 = up(handle, options.f0, mtu).await?;
    let f1 = up(handle, options.f1, mtu).await?;
    address(handle, f1.ifindex).await?;
    ensure_gateways(handle, f1.ifindex).await?;
    spread(options.f1, f1.ifindex);
    Ok((f0, f1))
}

/// f1's sysctls. Answers to the node's own flows come in here with a source address of the node or of a VIP: take local
/// sources, and filter sources loosely (0 cannot win, the kernel takes the larger of `all` and the interface's).
/// Forwarding is left as it is: what comes out of the funnel is for the node itself.
const F1_SYSCTLS: &[(Family, &str, &str)] = &[
    (Family::Ipv4, "accept_local", "1"),
    (Family::Ipv4, "rp_filter", "2"),
    (Family::Ipv4, "accept_redirects", "0"),
    (Family::Ipv4, "send_redirects", "0"),
    (Family::Ipv6, "disable_ipv6", "0"),
    (Family::Ipv6, "accept_ra", "0"),
    (Family::Ipv6, "accept_dad", "0"),
    (Family::Ipv6, "addr_gen_mode", "1"),
    (Family::Ipv6, "router_solicitations", "0"),
];

fn is_pair(f0: &LinkMessage, f1: &LinkMessage) -> bool {
    let peer = |link: &LinkMessage| {
        link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        })
    };
    peer(f0) == Some(f1.header.index) && peer(f1) == Some(f0.header.index)
}

fn has_queues(link: &LinkMessage, queues: u32) -> bool {
    let rx = link.attributes.iter().any(|a| matches!(a, LinkAttribute::NumRxQueues(n) if *n == queues));
    let tx = link.attributes.iter().any(|a| matches!(a, LinkAttribute::NumTxQueues(n) if *n == queues));
    rx && tx
}

async fn create(handle: &Handle, options: &PrepareOptions<'_>) -> Result<(), NodeError> {
    let queues = [LinkAttribute::NumTxQueues(options.queues), LinkAttribute::NumRxQueues(options.queues)];
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(options.f1.to_owned()));
    peer.attributes.extend(queues.clone());
    let mut message = LinkVeth::new(options.f0, options.f1).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    for attribute in queues {
        message = message.append_extra_attribute(attribute);
    }
    handle.link().add(message.build()).execute().await.map_err(|error| {
        NodeError::request(
            format!("making the funnel {}/{} with {} queues", options.f0, options.f1, options.queues),
            &error,
        )
    })
}

async fn up(handle: &Handle, name: &str, mtu: u16) -> Result<Device, NodeError> {
    let gone = || NodeError::new(format!("the funnel's interface {name}"), "it went away meanwhile", "start again");
    let link = netlink::link_by_name(handle, name).await?.ok_or_else(gone)?;
    let mut change = LinkUnspec::new_with_index(link.header.index).up();
    if netlink::mtu_of(&link) != mtu {
        change = change.mtu(u32::from(mtu));
    }
    handle
        .link()
        .set(change.build())
        .execute()
        .await
        .map_err(|error| NodeError::request(format!("bringing {name} up with MTU {mtu}"), &error))?;
    let link = netlink::link_by_name(handle, name).await?.ok_or_else(gone)?;
    netlink::device(&link)
}

async fn address(handle: &Handle, f1: u32) -> Result<(), NodeError> {
    let mut message =
        AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(f1).address(FUNNEL_ADDRESS_V4, 32).build();
    message.header.scope = AddressScope::Link;
    let mut request = handle.address().add(f1, FUNNEL_ADDRESS_V4.into(), 32).replace();
    *request.message_mut() = message;
    request
        .execute()
        .await
        .map_err(|error| NodeError::request(format!("giving the funnel its address {FUNNEL_ADDRESS_V4}"), &error))
}

/// The two permanent neighbours behind which our routes lead: their link address is f1's own tag, which says "from the
/// node" to the worker. The kernel forgets them when f1 goes down, so this is repeated when it comes up.
pub(super) async fn ensure_gateways(handle: &Handle, f1: u32) -> Result<(), NodeError> {
    let gateways: [std::net::IpAddr; 2] = [FUNNEL_GATEWAY_V4.into(), FUNNEL_GATEWAY_V6.into()];
    for gateway in gateways {
        let mut request = handle.neighbours().add(f1, gateway).link_layer_address(&tag_mac(f1)).replace();
        request.message_mut().attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        match request.execute().await {
            Ok(()) => {}
            // A kernel without IPv6 has no such table; IPv6 Services then simply do not exist here.
            Err(error) if gateway.is_ipv6() => tracing::info!("no IPv6 gateway in the funnel: {error}"),
            Err(error) => {
                return Err(NodeError::request(format!("writing the funnel's neighbour {gateway}"), &error));
            }
        }
    }
    Ok(())
}

/// Lets the kernel run the receivers' stacks on every core but keeps the choice per flow (RPS,
/// Documentation/networking/scaling.rst): without it the pods' receive path runs on the worker's core.
fn spread(f1: &str, ifindex: u32) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        return;
    }
    let root = format!("/sys/class/net/{f1}");
    // /sys may show another namespace than ours: only the interface itself is written to.
    let same = std::fs::read_to_string(format!("{root}/ifindex")).is_ok_and(|i| i.trim() == ifindex.to_string());
    if !same {
        tracing::info!(
            "/sys does not show {f1}: receive packet steering is left off, workers also run the pods' stacks"
        );
        return;
    }
    let mask = mask_of(cores);
    let Ok(queues) = std::fs::read_dir(format!("{root}/queues")) else { return };
    for queue in queues.flatten().filter(|q| q.file_name().to_string_lossy().starts_with("rx-")) {
        let path = queue.path().join("rps_cpus");
        if let Err(error) = std::fs::write(&path, &mask) {
            tracing::info!("{}: {error}; receive packet steering stays off there", path.display());
        }
    }
}

/// A CPU mask of the first `cores` cores as sysfs reads it: groups of 32 bits, highest first.
fn mask_of(cores: usize) -> String {
    let groups = cores.div_ceil(32);
    let group = |i: usize| {
        let bits = cores.saturating_sub(i * 32).min(32);
        format!("{:08x}", if bits == 32 { u32::MAX } else { (1 << bits) - 1 })
    };
    (0..groups).rev().map(group).collect::<Vec<_>>().join(",")
}

/// Deletes whichever end is there; the other goes with it.
pub(super) async fn remove(handle: &Handle, f0: &str, f1: &str) -> Result<(), NodeError> {
    for name in [f0, f1] {
        let Some(link) = netlink::link_by_name(handle, name).await? else { continue };
        if !netlink::is_veth(&link) {
            continue;
        }
        match handle.link().del(link.header.index).execute().await {
            Ok(()) => {}
            Err(error) if netlink::errno(&error) == Some(ENODEV) => {}
            Err(error) => return Err(NodeError::request(format!("deleting {name}"), &error)),
        }
    }
    Ok(())
}

/// The family of an address, as netlink counts it.
pub(super) const fn family_of(address: std::net::IpAddr) -> AddressFamily {
    match address {
        std::net::IpAddr::V4(_) => AddressFamily::Inet,
        std::net::IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests {
    use super::mask_of;

    #[test]
    fn the_mask_has_a_bit_for_every_core() {
        assert_eq!(mask_of(2), "00000003");
        assert_eq!(mask_of(32), "ffffffff");
        assert_eq!(mask_of(33), "00000001,ffffffff");
        assert_eq!(mask_of(96), "ffffffff,ffffffff,ffffffff");
    }
}
