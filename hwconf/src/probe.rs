//! Collects the facts: the interface in this thread's network namespace, the cores on which this thread may run.
//!
//! /sys shows the namespace in which it was mounted, so what stands there about an interface is believed only if index
//! and address agree with netlink.

use std::fs;
use std::path::{Path, PathBuf};

use crate::facts::{Facts, Interface, Queues};
use crate::{cores, ethtool::Ethtool, interrupts, link, xdp_features};

/// Why there are no facts.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(
        "interface {name}: the kernel does not have it in this network namespace ({source}); \
         `ip link` lists those that it has, [uplink] interface names the one to use"
    )]
    Interface { name: String, source: std::io::Error },
    #[error("the cores cannot be read from {path} ({source}); sysfs and procfs must be mounted")]
    Cores { path: &'static str, source: std::io::Error },
}

/// The facts about `interface` and this machine's cores.
///
/// # Errors
/// The interface does not exist, or sysfs or procfs is not mounted. What a driver does not say is `None`, not an error.
pub fn probe(interface: &str) -> Result<Facts, ProbeError> {
    let link =
        link::by_name(interface).map_err(|source| ProbeError::Interface { name: interface.to_owned(), source })?;
    let ethtool = Ethtool::of(link.index);
    let device = sysfs_dir(interface, &link).map(|dir| dir.join("device"));
    let device_file = |file: &str| device.as_ref().map(|device| device.join(file));
    let queues = ethtool.as_ref().and_then(Ethtool::queues);

    let interface = Interface {
        name: interface.to_owned(),
        index: link.index,
        driver: device_file("driver").and_then(|path| link_name(&path)).or(link.kind),
        mtu: link.mtu,
        numa_node: device_file("numa_node").and_then(|path| number(&path)).or_else(|| {
            // A virtio device stands below the PCI device that has the node.
            device_file("../numa_node").and_then(|path| number(&path))
        }),
        queues: queues.unwrap_or(Queues { rx: link.rx_queues, tx: link.tx_queues, most: None }),
        rings: ethtool.as_ref().and_then(Ethtool::rings),
        rss: ethtool.as_ref().and_then(Ethtool::rss),
        irqs: device.as_ref().map_or_else(Vec::new, |device| interrupts::read(&msi_irqs(device), interface)),
        xdp: xdp_features::of(link.index),
    };

    let allowed = cores::allowed().map_err(|source| ProbeError::Cores { path: "/proc/thread-self/status", source })?;
    let cpu_dir = "/sys/devices/system/cpu";
    let cores =
        cores::read(Path::new(cpu_dir), &allowed).map_err(|source| ProbeError::Cores { path: cpu_dir, source })?;
    Ok(Facts { interface, cores })
}

/// The interface's folder in /sys, if /sys is of this network namespace.
fn sysfs_dir(interface: &str, link: &link::Link) -> Option<PathBuf> {
    // A name with a slash is none that the kernel gives, and would lead out of the folder.
    if interface.contains('/') {
        return None;
    }
    let dir = Path::new("/sys/class/net").join(interface);
    let address = fs::read_to_string(dir.join("address")).ok()?;
    let expected = link.address.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    (number(&dir.join("ifindex")) == Some(link.index) && address.trim() == expected).then_some(dir)
}

/// The number in a file; negative ones mean "none" (numa_node is -1 where the platform has no nodes).
fn number(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Last part of where a link points.
fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

/// Numbers of the device's message-signalled interrupts; those of the PCI device above a virtio one.
fn msi_irqs(device: &Path) -> Vec<u32> {
    let list = |dir: PathBuf| {
        let entries = fs::read_dir(dir).ok()?;
        let mut numbers: Vec<u32> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        Some(numbers)
    };
    list(device.join("msi_irqs")).or_else(|| list(device.join("../msi_irqs"))).unwrap_or_default()
}
