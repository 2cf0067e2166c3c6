//! The node's own network, as far as we set it up or follow it: the funnel, the routes into it, the neighbours that the
//! kernel resolves for us, and a picture of links, addresses and routes. All of it by rtnetlink and sysctls, all of it
//! idempotent: what is right is adopted, what is wrong is put right.
//!
//! What it does not do: offloads and BPF (the caller passes a closure for the first and does the second afterwards), and
//! anything to an interface that is not ours; a pod's port and the uplink belong to whoever made them.

pub mod follow;
mod funnel;
pub mod neighbours;
mod netlink;
mod ports;
pub mod routes;
mod sysctl;

use std::net::{Ipv4Addr, Ipv6Addr};

use atalho_engine::next_hops::Mac;

pub use netlink::NodeError;

/// The IPv4 address of the funnel's kernel end. Without one of its own, loose reverse-path filtering drops answers that
/// carry a source address of the node (RFC 3704 section 2.4; `ip_fib_validate_source` in the kernel). Its scope is link,
/// so that the kernel never chooses it as a source elsewhere.
pub const FUNNEL_ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 97, 1);
/// The gateway of our IPv4 routes: nobody answers there, one permanent neighbour stands for it.
pub const FUNNEL_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 97, 2);
/// The gateway of our IPv6 routes, likewise.
pub const FUNNEL_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x97, 2);
/// Marks routes and neighbours as ours (`rtm_protocol`, `NDA_PROTOCOL`): one of the values that the kernel leaves to
/// users (linux/rtnetlink.h, RTPROT_*).
pub const PROTOCOL: u8 = 97;
/// Largest IP packet of the funnel, bytes: what switches call jumbo, and what a buffer of the slow path holds.
pub const FUNNEL_MTU_MAX: u16 = 9216;

/// What [`prepare`] is asked for.
pub struct PrepareOptions<'a> {
    /// Interface name; empty: the one with the default route.
    pub uplink: &'a str,
    /// Name of the funnel's end that carries the AF_XDP sockets.
    pub f0: &'a str,
    /// Name of the funnel's kernel end.
    pub f1: &'a str,
    /// Queues of either end: one per worker.
    pub queues: u32,
    /// Called with the name of the kernel end before it goes up: turns off the transmit offloads there, so that the
    /// kernel finishes checksums and segments on the way in.
    pub offloads: &'a dyn Fn(&str) -> Result<(), String>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub ifindex: u32,
    pub name: String,
    pub mac: Mac,
    /// Bytes of an IP packet.
    pub mtu: u16,
}

/// What stands after [`prepare`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub uplink: Device,
    pub f0: Device,
    pub f1: Device,
}

/// Finds the uplink and sets the funnel up. Needs CAP_NET_ADMIN. Blocks; call it outside a runtime.
pub fn prepare(options: &PrepareOptions) -> Result<Prepared, NodeError> {
    netlink::block_on(async {
        let handle = netlink::connect()?;
        let uplink = netlink::uplink(&handle, options.uplink).await?;
        // Which veths are pods' is not known yet; one that is not costs memory at most.
        let longest = netlink::veth_mtu_max(&handle, &[options.f0, options.f1]).await?.max(uplink.mtu);
        if longest > FUNNEL_MTU_MAX {
            tracing::warn!(
                "an interface takes packets of {longest} bytes, the funnel of pods only of {FUNNEL_MTU_MAX}: longer ones \
                 are dropped; set the MTU of the pods and of the uplink to {FUNNEL_MTU_MAX} at most"
            );
        }
        let (f0, f1) = funnel::ensure(&handle, options, longest.min(FUNNEL_MTU_MAX)).await?;
        Ok(Prepared { uplink, f0, f1 })
    })
}

/// Name of the interface with the default route (IPv4's before IPv6's).
pub fn default_interface() -> Result<String, NodeError> {
    netlink::block_on(async {
        let handle = netlink::connect()?;
        Ok(netlink::uplink(&handle, "").await?.name)
    })
}

/// Takes the funnel away, and with it every route through it, and the neighbours that we had the kernel keep. What is
/// gone already is no error.
pub fn teardown(f0: &str, f1: &str) -> Result<(), NodeError> {
    netlink::block_on(async {
        let handle = netlink::connect()?;
        neighbours::forget_all(&handle).await?;
        funnel::remove(&handle, f0, f1).await
    })
}
