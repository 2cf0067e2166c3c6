//! Capabilities: opening AF_XDP sockets, loading programs and pinning them all need some.

use std::fs;

use super::CheckError;

/// Needed, by bit number in include/uapi/linux/capability.h. CAP_SYS_ADMIN stands for CAP_BPF on its own.
const NEEDED: [(u32, &str); 4] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (39, "CAP_BPF"), (21, "CAP_SYS_ADMIN")];

/// Checks the calling thread's effective capabilities.
///
/// # Errors
/// The missing ones by name.
pub fn privileges() -> Result<(), CheckError> {
    let status = fs::read_to_string("/proc/thread-self/status")
        .map_err(|e| CheckError::new("capabilities cannot be read", e.to_string(), "Mount /proc"))?;
    let effective =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok()).ok_or_else(
            || CheckError::new("capabilities cannot be read", "no CapEff in /proc/thread-self/status", "Mount /proc"),
        )?;
    judge(effective)
}

fn judge(effective: u64) -> Result<(), CheckError> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(bit, _)| effective & 1 << bit == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("no privileges: {} missing", missing.join(", "));
    Err(CheckError::new(what, "AF_XDP sockets, BPF programs and their pins need them", "Run as root, or grant them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        assert_eq!(judge(u64::MAX), Ok(()));
        for (bit, name) in NEEDED {
            let text = judge(!(1 << bit)).unwrap_err().to_string();
            assert!(text.contains(name), "{text}");
        }
        assert!(judge(0).unwrap_err().to_string().contains("CAP_NET_ADMIN, CAP_NET_RAW"));
    }
}
