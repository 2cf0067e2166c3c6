//! An interface as the kernel describes it, and whether it can be an uplink.

use std::io;

use super::CheckError;
use super::netlink::{Request, attributes, text, u32_at};

const RTM_GETLINK: u16 = 18;
/// Attributes of a link, include/uapi/linux/if_link.h.
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const TX_QUEUES: u16 = 31;
const RX_QUEUES: u16 = 32;
const XDP: u16 = 43;
const XDP_PROGRAM: u16 = 4;
/// Bytes of `struct ifinfomsg`, which stands before the attributes.
const INFO_BYTES: usize = 16;

/// Kinds that have no receive queues of their own, or hide those that they have.
const REFUSED: [(&str, &str); 7] = [
    ("bond", "packets arrive at its members' queues, which AF_XDP would have to own"),
    ("team", "packets arrive at its members' queues, which AF_XDP would have to own"),
    ("bridge", "it has no receive queues"),
    ("vlan", "it has no receive queues, and its frames are tagged on the wire"),
    ("macvlan", "it has no receive queues"),
    ("ipvlan", "it has no receive queues"),
    ("vrf", "it has no receive queues"),
];

/// What the kernel says about an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub ifindex: u32,
    /// "veth", "bond", ...; `None` for hardware.
    pub kind: Option<String>,
    pub mac: [u8; 6],
    /// Bytes of an IP packet.
    pub mtu: u32,
    pub rx_queues: u32,
    pub tx_queues: u32,
    /// Interface index of the bond, bridge or VRF that it belongs to.
    pub master: Option<u32>,
    /// Identifier of the XDP program on it.
    pub xdp_program: Option<u32>,
}

/// The interface with this name, judged as an uplink.
///
/// # Errors
/// It is missing, of a kind that cannot be driven, or part of another interface.
pub fn interface(name: &str) -> Result<Interface, CheckError> {
    let found = by_name(name)?;
    judge(&found)?;
    Ok(found)
}

/// The interface with this name in the calling thread's network namespace.
///
/// # Errors
/// It is missing, or the kernel does not say.
pub fn by_name(name: &str) -> Result<Interface, CheckError> {
    // Names of IFNAMSIZ bytes and more do not exist, and a longer attribute would be an error that does not say so.
    if name.is_empty() || name.len() > 15 {
        return Err(missing(&format!("interface {name:?}"), &io::Error::from_raw_os_error(libc::ENODEV)));
    }
    let name_z = [name.as_bytes(), &[0]].concat();
    let request = Request::new(RTM_GETLINK, &[0; INFO_BYTES]).attribute(NAME, &name_z);
    ask(request, &format!("interface {name}"))
}

/// The interface with this index in the calling thread's network namespace.
///
/// # Errors
/// As [`by_name`].
pub fn by_index(ifindex: u32) -> Result<Interface, CheckError> {
    let mut info = [0; INFO_BYTES];
    info[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    ask(Request::new(RTM_GETLINK, &info), &format!("interface index {ifindex}"))
}

/// The name for messages: the index where there is no interface.
pub fn interface_name(ifindex: u32) -> String {
    by_index(ifindex).map_or_else(|_| format!("interface index {ifindex}"), |found| found.name)
}

fn ask(request: Request, what: &str) -> Result<Interface, CheckError> {
    let answer = request.ask(libc::NETLINK_ROUTE).map_err(|error| missing(what, &error))?;
    parse(&answer).ok_or_else(|| CheckError::new(what, "the kernel's description of it cannot be read", "Report this"))
}

fn missing(what: &str, error: &io::Error) -> CheckError {
    let why = match error.raw_os_error() {
        Some(libc::ENODEV) => "there is none in this network namespace".to_string(),
        _ => format!("the kernel would not describe it ({error})"),
    };
    CheckError::new(what, why, "See `ip link`, and name one in [uplink] interface")
}

fn parse(answer: &[u8]) -> Option<Interface> {
    let mut found = Interface {
        name: String::new(),
        ifindex: u32_at(answer, 4)?,
        kind: None,
        mac: [0; 6],
        mtu: 0,
        rx_queues: 0,
        tx_queues: 0,
        master: None,
        xdp_program: None,
    };
    for (attribute, value) in attributes(answer.get(INFO_BYTES..)?) {
        let number = u32_at(value, 0);
        match attribute {
            NAME => found.name = text(value),
            ADDRESS => found.mac = value.try_into().unwrap_or_default(),
            MTU => found.mtu = number?,
            MASTER => found.master = number,
            TX_QUEUES => found.tx_queues = number?,
            RX_QUEUES => found.rx_queues = number?,
            LINK_INFO => found.kind = attributes(value).find(|(kind, _)| *kind == INFO_KIND).map(|(_, v)| text(v)),
            XDP => {
                let program = attributes(value).find(|(kind, _)| *kind == XDP_PROGRAM);
                found.xdp_program = program.and_then(|(_, v)| u32_at(v, 0)).filter(|id| *id != 0);
            }
            _ => {}
        }
    }
    Some(found)
}

fn judge(found: &Interface) -> Result<(), CheckError> {
    let kind = found.kind.as_deref().unwrap_or_default();
    if let Some((kind, why)) = REFUSED.iter().find(|(refused, _)| *refused == kind) {
        let what = format!("interface {} is a {kind}", found.name);
        return Err(CheckError::new(
            what,
            *why,
            "Name a physical interface in [uplink] interface; this kind is not supported yet",
        ));
    }
    if let Some(master) = found.master {
        let what = format!("interface {} belongs to {}", found.name, interface_name(master));
        let why = "the node's addresses and routes stand on that one, and its other members would lead past us";
        return Err(CheckError::new(
            what,
            why,
            "Take it out (`ip link set NAME nomaster`), or name another one in [uplink] interface",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Interface {
        parse(&[0; INFO_BYTES]).expect("an empty description")
    }

    #[test]
    fn loopback_is_found_by_name_and_index() {
        let lo = by_name("lo").expect("every namespace has lo");
        assert_eq!(by_index(lo.ifindex), Ok(lo.clone()));
        assert!(lo.mtu > 0 && lo.rx_queues > 0);
        assert_eq!(interface_name(lo.ifindex), "lo");
    }

    #[test]
    fn a_missing_interface_is_named() {
        for name in ["at-no-such-one", "a-name-that-is-far-too-long", ""] {
            let text = interface(name).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains("ip link"), "{text}");
        }
    }

    #[test]
    fn each_refused_kind_is_refused_by_name() {
        for (kind, _) in REFUSED {
            let found = Interface { name: "up0".into(), kind: Some(kind.into()), ..plain() };
            let text = judge(&found).unwrap_err().to_string();
            assert!(text.contains("up0") && text.contains(kind), "{text}");
        }
        assert_eq!(judge(&Interface { kind: Some("veth".into()), ..plain() }), Ok(()));
        assert_eq!(judge(&plain()), Ok(()));
    }

    #[test]
    fn a_member_of_another_interface_is_refused() {
        let text =
            judge(&Interface { name: "port1".into(), master: Some(u32::MAX), ..plain() }).unwrap_err().to_string();
        assert!(text.contains("port1"), "{text}");
    }
}
