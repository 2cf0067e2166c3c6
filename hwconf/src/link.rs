//! One link by its name, by rtnetlink: the network namespace of this thread decides, whatever /sys is mounted.

use std::io;

use crate::netlink::{self, Attributes, attribute, attribute_string, attribute_u32};

// linux/rtnetlink.h and linux/if_link.h.
const RTM_GETLINK: u16 = 18;
const IFINFO_BYTES: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;

/// What the kernel says about a link.
pub struct Link {
    pub index: u32,
    pub mtu: u32,
    /// Link-layer address.
    pub address: Vec<u8>,
    /// `veth`, `bond`, ...; none for a device with a driver.
    pub kind: Option<String>,
    /// Queues that exist; fewer may be in use.
    pub rx_queues: u32,
    pub tx_queues: u32,
}

/// # Errors
/// The kernel's errno; ENODEV where there is no such link.
pub fn by_name(name: &str) -> io::Result<Link> {
    let mut body = vec![0; IFINFO_BYTES];
    body.extend(netlink::into_bytes(Attributes::default().string(IFLA_IFNAME, name)));
    let answer = netlink::ask(netlink_sys::protocols::NETLINK_ROUTE, RTM_GETLINK, &body)?;
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer about the link is cut short");
    let index = answer.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes).ok_or_else(cut)?;
    let attributes = answer.get(IFINFO_BYTES..).ok_or_else(cut)?;
    Ok(Link {
        index,
        mtu: attribute_u32(attributes, IFLA_MTU).unwrap_or_default(),
        address: attribute(attributes, IFLA_ADDRESS).unwrap_or_default().to_vec(),
        kind: attribute(attributes, IFLA_LINKINFO).and_then(|info| attribute_string(info, IFLA_INFO_KIND)),
        rx_queues: attribute_u32(attributes, IFLA_NUM_RX_QUEUES).unwrap_or(1),
        tx_queues: attribute_u32(attributes, IFLA_NUM_TX_QUEUES).unwrap_or(1),
    })
}
