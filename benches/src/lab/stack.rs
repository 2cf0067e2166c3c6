//! What the kernels of the other namespaces thought of the packets they got: the judge of checksums and lengths that the
//! dataplane does not appoint itself.

use std::collections::BTreeMap;

use anyhow::Result;

use super::command::run_in;

/// Counters of wrong packets, in /proc/net/snmp (as `Protocol` + name) and /proc/net/snmp6. TCP's and UDP's `InErrs` and
/// `InErrors` are not among them: they also count a repeated SYN (RFC 5961 section 4.2) and a full receive buffer; nor are
/// ICMP's: they also count an error about a socket that has been closed meanwhile.
const WRONG: [&str; 8] = [
    "IpInHdrErrors",
    "IcmpInCsumErrors",
    "TcpInCsumErrors",
    "UdpInCsumErrors",
    "Ip6InHdrErrors",
    "Ip6InTruncatedPkts",
    "Icmp6InCsumErrors",
    "Udp6InCsumErrors",
];

/// Packets with a wrong checksum, length or header that a namespace's stack received, by counter; empty if none.
pub fn wrong_packets(namespace: &str) -> Result<BTreeMap<String, u64>> {
    let mut counters = counters(namespace)?;
    counters.retain(|name, count| WRONG.contains(&name.as_str()) && *count > 0);
    Ok(counters)
}

/// All counters of a namespace's stack, named as in [`WRONG`].
pub fn counters(namespace: &str) -> Result<BTreeMap<String, u64>> {
    let mut counters = pairs_of_lines(&run_in(namespace, "cat", &["/proc/net/snmp"])?);
    let six = run_in(namespace, "cat", &["/proc/net/snmp6"])?;
    counters.extend(six.lines().filter_map(|line| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    }));
    Ok(counters)
}

/// /proc/net/snmp: a line of names and a line of values for each protocol.
fn pairs_of_lines(text: &str) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let Some((protocol, names)) = names.split_once(':') else { continue };
        let values = values.split_whitespace().skip(1);
        for (name, value) in names.split_whitespace().zip(values) {
            // Negative ones are settings, not counters.
            if let Ok(value) = value.parse() {
                counters.insert(format!("{protocol}{name}"), value);
            }
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::pairs_of_lines;

    #[test]
    fn names_and_values_are_paired() {
        let counters = pairs_of_lines("Ip: Forwarding InHdrErrors\nIp: 2 7\nTcp: MaxConn InCsumErrors\nTcp: -1 3\n");
        assert_eq!(counters["IpInHdrErrors"], 7);
        assert_eq!(counters["TcpInCsumErrors"], 3);
        assert!(!counters.contains_key("TcpMaxConn"));
    }
}
