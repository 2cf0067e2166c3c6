//! Interface settings by the ethtool ioctl (include/uapi/linux/ethtool.h): offloads, channels, driver.
//!
//! Interfaces are named in the network namespace of the calling thread.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Checksums of outgoing packets left to the device.
    TxChecksum,
    RxChecksum,
    /// Segmentation of outgoing TCP left to the device.
    Tso,
    /// Segmentation put off until the device's queue.
    Gso,
    /// Incoming packets joined by the stack.
    Gro,
    /// Incoming packets joined by the device.
    Lro,
    /// VLAN tags of incoming frames moved out of the frame.
    VlanRx,
    /// VLAN tags of outgoing frames put in by the device.
    VlanTx,
}

impl Offload {
    /// The name in `ethtool -k`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TxChecksum => "tx-checksumming",
            Self::RxChecksum => "rx-checksumming",
            Self::Tso => "tcp-segmentation-offload",
            Self::Gso => "generic-segmentation-offload",
            Self::Gro => "generic-receive-offload",
            Self::Lro => "large-receive-offload",
            Self::VlanRx => "rx-vlan-offload",
            Self::VlanTx => "tx-vlan-offload",
        }
    }

    /// Command that reads, command that writes, and the bit of those that share a word of flags (0: a word of its own).
    const fn commands(self) -> (u32, u32, u32) {
        match self {
            Self::TxChecksum => (0x16, 0x17, 0),
            Self::RxChecksum => (0x14, 0x15, 0),
            Self::Tso => (0x1e, 0x1f, 0),
            Self::Gso => (0x23, 0x24, 0),
            Self::Gro => (0x2b, 0x2c, 0),
            Self::Lro => (GET_FLAGS, SET_FLAGS, 1 << 15),
            Self::VlanRx => (GET_FLAGS, SET_FLAGS, 1 << 8),
            Self::VlanTx => (GET_FLAGS, SET_FLAGS, 1 << 7),
        }
    }
}

const GET_FLAGS: u32 = 0x25;
const SET_FLAGS: u32 = 0x26;
const GET_DRIVER: u32 = 0x03;
const GET_CHANNELS: u32 = 0x3c;
const SET_CHANNELS: u32 = 0x3d;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// A setting that could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{interface}: cannot {doing}: {source}. See `ethtool {option} {interface}` for what its driver allows")]
pub struct EthtoolError {
    pub interface: String,
    pub doing: String,
    /// The option of ethtool that shows it.
    pub option: &'static str,
    pub source: io::Error,
}

/// Queues of an interface. `combined` ones serve both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Channels {
    pub rx_max: u32,
    pub tx_max: u32,
    pub other_max: u32,
    pub combined_max: u32,
    pub rx: u32,
    pub tx: u32,
    pub other: u32,
    pub combined: u32,
}

/// Whether an offload is on.
pub fn get(interface: &str, offload: Offload) -> Result<bool, EthtoolError> {
    let (read, _, bit) = offload.commands();
    let value =
        value(interface, read).map_err(|source| failed(interface, format!("read {}", offload.name()), "-k", source))?;
    Ok(if bit == 0 { value != 0 } else { value & bit != 0 })
}

/// Turns an offload on or off; one that already is so needs no support for changing it. Returns whether it was not.
pub fn set(interface: &str, offload: Offload, on: bool) -> Result<bool, EthtoolError> {
    if get(interface, offload)? == on {
        return Ok(false);
    }
    let (read, write, bit) = offload.commands();
    let doing = || format!("turn {} {}", offload.name(), if on { "on" } else { "off" });
    let change = || -> io::Result<()> {
        let word = match (bit, on) {
            (0, on) => u32::from(on),
            (bit, true) => value(interface, read)? | bit,
            (bit, false) => value(interface, read)? & !bit,
        };
        call(interface, &mut [write, word])
    };
    change().map_err(|source| failed(interface, doing(), "-k", source))?;
    // Some drivers say yes and keep it.
    if get(interface, offload)? == on {
        Ok(true)
    } else {
        Err(failed(interface, doing(), "-k", io::Error::other("the driver kept it as it was")))
    }
}

/// The kernel's end of the funnel: the kernel finishes checksums and segments before a packet reaches a worker, and
/// VLAN tags stay in the frame where a worker sees them. Returns what was on.
pub fn prepare_funnel(f1: &str) -> Result<Vec<Offload>, EthtoolError> {
    turn_off(f1, &FUNNEL_OFF)
}

/// What [`prepare_funnel`] turns off.
pub const FUNNEL_OFF: [Offload; 5] =
    [Offload::TxChecksum, Offload::Tso, Offload::Gso, Offload::VlanTx, Offload::VlanRx];

/// The uplink: no packet is joined before XDP sees it, and VLAN tags stay in the frame. The stack's own joining (GRO)
/// comes after XDP and serves the node's traffic, so it stays. Returns what was on.
pub fn prepare_uplink(uplink: &str) -> Result<Vec<Offload>, EthtoolError> {
    turn_off(uplink, &UPLINK_OFF)
}

/// What [`prepare_uplink`] turns off.
pub const UPLINK_OFF: [Offload; 2] = [Offload::Lro, Offload::VlanRx];

fn turn_off(interface: &str, offloads: &[Offload]) -> Result<Vec<Offload>, EthtoolError> {
    let mut were_on = Vec::new();
    for &offload in offloads {
        if set(interface, offload, false)? {
            were_on.push(offload);
        }
    }
    Ok(were_on)
}

/// Queue counts (`ethtool -l`).
pub fn channels(interface: &str) -> Result<Channels, EthtoolError> {
    let mut words = [0u32; 9];
    words[0] = GET_CHANNELS;
    call(interface, &mut words).map_err(|source| failed(interface, "read its channels".into(), "-l", source))?;
    let [_, rx_max, tx_max, other_max, combined_max, rx, tx, other, combined] = words;
    Ok(Channels { rx_max, tx_max, other_max, combined_max, rx, tx, other, combined })
}

/// Changes the numbers of queues in use; the `*_max` are ignored.
pub fn set_channels(interface: &str, wanted: &Channels) -> Result<(), EthtoolError> {
    let Channels { rx, tx, other, combined, .. } = *wanted;
    let mut words = [SET_CHANNELS, 0, 0, 0, 0, rx, tx, other, combined];
    let doing = || format!("change its channels to rx {rx}, tx {tx}, combined {combined}");
    call(interface, &mut words).map_err(|source| failed(interface, doing(), "-l", source))
}

/// The driver's name (`ethtool -i`).
pub fn driver(interface: &str) -> Result<String, EthtoolError> {
    // struct ethtool_drvinfo: the command, then the driver's name in 32 bytes; 196 bytes in all.
    let mut words = [0u32; 49];
    words[0] = GET_DRIVER;
    call(interface, &mut words).map_err(|source| failed(interface, "read its driver".into(), "-i", source))?;
    let bytes: Vec<u8> = words[1..9].iter().flat_map(|word| word.to_ne_bytes()).take_while(|b| *b != 0).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn failed(interface: &str, doing: String, option: &'static str, source: io::Error) -> EthtoolError {
    EthtoolError { interface: interface.into(), doing, option, source }
}

fn value(interface: &str, command: u32) -> io::Result<u32> {
    let mut words = [command, 0];
    call(interface, &mut words)?;
    Ok(words[1])
}

/// One ioctl. `words` starts with the command and is as long as the structure of that command: every caller in this
/// file passes the size that include/uapi/linux/ethtool.h gives it.
fn call(interface: &str, words: &mut [u32]) -> io::Result<()> {
    // SAFETY: ifreq is plain bytes and a union of plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: socket takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `request` is a live ifreq with a NUL-terminated name (checked above), and its data points to `words`, which
    // is writable, alive during the call, and as large as the structure that the kernel reads and writes for the command.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_settings_can_be_read() {
        assert!(get("lo", Offload::TxChecksum).is_ok());
        assert_eq!(get("lo", Offload::Lro).ok(), Some(false));
    }

    #[test]
    fn an_error_names_interface_and_setting() {
        for name in ["at-no-such-one", "a-name-that-is-far-too-long"] {
            let text = set(name, Offload::Gro, false).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains("generic-receive-offload"), "{text}");
        }
    }
}
