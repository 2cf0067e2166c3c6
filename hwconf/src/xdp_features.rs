//! What a driver says about XDP, by the generic netlink family `netdev` (since Linux 6.3;
//! Linux Documentation/netlink/specs/netdev.yaml).

use crate::facts::Xdp;
use crate::netlink::{Attributes, Family, attribute_u32, attribute_uint};

const CMD_DEV_GET: u8 = 1;
const A_DEV_IFINDEX: u16 = 1;
const A_DEV_XDP_FEATURES: u16 = 3;
const A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;

/// Names of the feature bits, lowest first.
const FEATURES: [&str; 7] = ["basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg"];

/// `None` where the kernel does not answer.
pub fn of(index: u32) -> Option<Xdp> {
    let answer = Family::find("netdev").ok()?.ask(CMD_DEV_GET, Attributes::default().u32(A_DEV_IFINDEX, index)).ok()?;
    let bits = attribute_uint(&answer, A_DEV_XDP_FEATURES)?;
    let features = FEATURES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name).collect();
    Some(Xdp { features, zero_copy_segments_max: attribute_u32(&answer, A_DEV_XDP_ZC_MAX_SEGS) })
}
