//! What the driver says it can do with XDP (Documentation/netlink/specs/netdev.yaml). Drivers say so since Linux 6.3;
//! attaching has the last word, because it also depends on MTU and queues.

use super::CheckError;
use super::interface::interface_name;
use super::netlink::{Request, attributes};

const GENERIC_CONTROL: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
const NETDEV_DEV_GET: u8 = 1;
const NETDEV_IFINDEX: u16 = 1;
const NETDEV_XDP_FEATURES: u16 = 3;

/// Run a program, and redirect (AF_XDP's socket map is a redirect).
const NEEDED: [(u64, &str); 2] = [(1, "run a program"), (2, "redirect")];
/// Packets longer than a page, in several buffers.
const SEVERAL_BUFFERS: u64 = 32;

/// Checks that the driver of an interface runs XDP natively, and `in_pieces`: on packets longer than a page.
///
/// # Errors
/// It does not, or the kernel does not say.
pub fn native_xdp(ifindex: u32, in_pieces: bool) -> Result<(), CheckError> {
    let name = interface_name(ifindex);
    let features = features(ifindex).map_err(|error| {
        let what = format!("{name}: the XDP features of its driver cannot be read");
        CheckError::new(what, error.to_string(), "Run on Linux 6.6 or later")
    })?;
    judge(&name, features, in_pieces)
}

fn features(ifindex: u32) -> std::io::Result<u64> {
    let unreadable = || std::io::Error::other("the kernel's answer cannot be read");
    // A generic netlink message starts with command, version and two bytes of padding.
    let family = Request::new(GENERIC_CONTROL, &[CONTROL_GET_FAMILY, 1, 0, 0])
        .attribute(CONTROL_FAMILY_NAME, b"netdev\0")
        .ask(libc::NETLINK_GENERIC)?;
    let id = find(&family, CONTROL_FAMILY_ID).and_then(|v| v.try_into().ok()).ok_or_else(unreadable)?;
    let device = Request::new(u16::from_ne_bytes(id), &[NETDEV_DEV_GET, 1, 0, 0])
        .attribute(NETDEV_IFINDEX, &ifindex.to_ne_bytes())
        .ask(libc::NETLINK_GENERIC)?;
    let bits = find(&device, NETDEV_XDP_FEATURES).and_then(|v| v.try_into().ok()).ok_or_else(unreadable)?;
    Ok(u64::from_ne_bytes(bits))
}

fn find(message: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(message.get(4..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn judge(name: &str, features: u64, in_pieces: bool) -> Result<(), CheckError> {
    let missing: Vec<&str> = NEEDED.iter().filter(|(bit, _)| features & bit == 0).map(|(_, verb)| *verb).collect();
    if missing.is_empty() && in_pieces && features & SEVERAL_BUFFERS == 0 {
        let what = format!("the driver of {name} has XDP only for packets that fit into a page (no rx-sg)");
        let next = format!("Lower the MTU of {name} to 3498 or less, or use an interface whose driver has it");
        return Err(CheckError::new(what, "its MTU allows longer ones, which would be lost", next));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("the driver of {name} has no native XDP (it cannot {})", missing.join(", nor "));
    let why = "generic XDP is refused: it loses joined packets and costs more than the kernel's own forwarding";
    Err(CheckError::new(what, why, "Use an interface whose driver has it, see `atalho hwconf show`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_must_run_and_redirect() {
        assert_eq!(judge("eth7", 0b1111, false), Ok(()));
        assert!(judge("eth7", 0b01, false).unwrap_err().to_string().contains("cannot redirect"));
        let text = judge("eth7", 0, false).unwrap_err().to_string();
        assert!(text.contains("eth7") && text.contains("run a program, nor redirect"), "{text}");
    }

    #[test]
    fn long_packets_need_a_driver_that_takes_several_buffers() {
        assert_eq!(judge("eth7", 0b10_1111, true), Ok(()));
        let text = judge("eth7", 0b1111, true).unwrap_err().to_string();
        assert!(text.contains("eth7") && text.contains("Lower the MTU"), "{text}");
    }

    #[test]
    fn loopback_has_none() {
        let lo = super::super::by_name("lo").expect("every namespace has lo");
        let text = native_xdp(lo.ifindex, false).unwrap_err().to_string();
        assert!(text.contains("driver of lo has no native XDP"), "{text}");
    }
}
