//! Which ports the node uses itself, read from `/proc`, which shows the namespace of who reads it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::facts::PortFacts;

/// Sockets of the node by protocol and family (proc_net_tcp in the kernel's documentation). A family that a kernel has not
/// is no error.
const SOCKETS: [&str; 4] = ["net/tcp", "net/tcp6", "net/udp", "net/udp6"];

impl PortFacts {
    /// What `/proc` says now. What cannot be read says nothing.
    pub fn read() -> Self {
        Self::read_from(Path::new("/proc"))
    }

    fn read_from(proc: &Path) -> Self {
        let text = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
        let mut facts = Self {
            ephemeral: ephemeral(&text("sys/net/ipv4/ip_local_port_range")),
            reserved: reserved(&text("sys/net/ipv4/ip_local_reserved_ports")),
            bound: BTreeSet::new(),
        };
        for name in SOCKETS {
            let sockets = text(name);
            let ports = sockets.lines().filter_map(local_port).filter(|port| !facts.is_ephemeral(*port));
            facts.bound.extend(ports.collect::<Vec<_>>());
        }
        facts
    }
}

/// Two numbers, the first port and the last.
fn ephemeral(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = text.split_whitespace().filter_map(|port| port.parse().ok());
    Some(ports.next()?..=ports.next()?)
}

/// Ports and ranges between commas.
fn reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).collect()
}

/// The port in the second column, `ADDRESS:PORT` in hexadecimal digits; none in the heading.
fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_the_kernel_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(PortFacts::read_from(folder.path()), PortFacts::default());
        write("sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
        write("sys/net/ipv4/ip_local_reserved_ports", "8080,61000-61010\n");
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";
        write("net/tcp", &format!("{heading}   0: 0100007F:F230 00000000:0000 0A 00000000:00000000 00:00000000\n"));
        let v6 = "   1: 00000000000000000000000000000000:8235 00000000000000000000000000000000:0000 07 00000000\n";
        write("net/udp6", &format!("{heading}{v6}"));
        let facts = PortFacts::read_from(folder.path());
        assert_eq!(facts.ephemeral, Some(32_768..=60_999));
        assert_eq!(facts.reserved, [8080..=8080, 61_000..=61_010]);
        assert_eq!(facts.bound, BTreeSet::from([0xf230]), "an ephemeral one is not kept");
    }

    #[test]
    fn this_machine_says_something() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let facts = PortFacts::read();
        let port = listener.local_addr().unwrap().port();
        assert!(facts.bound.contains(&port) || facts.is_ephemeral(port), "{port}: {facts:?}");
    }
}
