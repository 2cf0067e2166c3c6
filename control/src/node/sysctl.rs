//! The sysctls of one interface. `/proc/sys/net` shows the namespace of who reads it, so this needs no mount of its own.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::NodeError;

/// Address family as `/proc/sys/net` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

/// Writes `value` unless it stands there already. An absent key is told by `Ok(false)`: a kernel without IPv6 has none.
pub(super) fn set(family: Family, interface: &str, key: &str, value: &str) -> Result<bool, NodeError> {
    let family = match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    };
    let path: PathBuf = ["/proc/sys/net", family, "conf", interface, key].iter().collect();
    match std::fs::read_to_string(&path) {
        Ok(current) if current.trim() == value => return Ok(true),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            return Err(NodeError::new(format!("reading {}", path.display()), error, "mount /proc as root sees it"));
        }
    }
    match std::fs::write(&path, value) {
        Ok(()) => Ok(true),
        Err(error) => Err(NodeError::new(
            format!("writing {value} to {}", path.display()),
            error,
            "run as root with /proc/sys writable (in a container: privileged)",
        )),
    }
}
