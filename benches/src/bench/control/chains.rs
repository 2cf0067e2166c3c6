//! The same cluster's rules as KEP-3866 ("nftables kube-proxy backend") lays them out: a map from address, protocol and port to a chain
//! for each Service, and from there by a random number to a chain for each endpoint, which marks what needs its source
//! rewritten and rewrites the destination. kube-proxy 1.37 has no chains for endpoints any more.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bench::cluster::{ENDPOINT_PORT, ENDPOINTS, FIRST_ENDPOINT, FIRST_SERVICE, SERVICE_PORT};

/// Whoever is not a pod has its source rewritten.
const PODS: &str = "10.244.0.0/16";

/// Writes the rules of so many Services to a file in `folder`, for `nft -f`.
pub fn write(folder: &Path, services: u32) -> Result<PathBuf> {
    let path = folder.join("chains.nft");
    let what = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(&path).with_context(what)?);
    rules(&mut file, services, ENDPOINTS).and_then(|()| file.flush()).with_context(what)?;
    Ok(path)
}

fn rules(to: &mut impl Write, services: u32, endpoints: u32) -> std::io::Result<()> {
    writeln!(to, "table ip kube-proxy {{\nchain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}")?;
    for service in 0..services {
        let all = (0..endpoints).map(|at| service * endpoints + at);
        for endpoint in all.clone() {
            let address = nth(FIRST_ENDPOINT, endpoint);
            writeln!(
                to,
                "chain endpoint-{endpoint} {{ ip saddr {address} jump mark-for-masquerade; \
                 meta l4proto udp dnat to {address}:{ENDPOINT_PORT}; }}"
            )?;
        }
        let choice: Vec<String> = all.enumerate().map(|(at, n)| format!("{at} : goto endpoint-{n}")).collect();
        writeln!(
            to,
            "chain service-{service} {{ ip daddr {address} udp dport {SERVICE_PORT} ip saddr != {PODS} jump mark-for-masquerade; \
             numgen random mod {endpoints} vmap {{ {choice} }}; }}",
            address = nth(FIRST_SERVICE, service),
            choice = choice.join(", "),
        )?;
    }
    let element = |at| format!("{} . udp . {SERVICE_PORT} : goto service-{at}", nth(FIRST_SERVICE, at));
    let elements: Vec<String> = (0..services).map(element).collect();
    writeln!(to, "map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict;")?;
    writeln!(to, "elements = {{ {} }}\n}}", elements.join(",\n"))?;
    writeln!(to, "chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}")?;
    for (name, hook) in [("prerouting", "prerouting priority dstnat"), ("output", "output priority -100")] {
        writeln!(to, "chain nat-{name} {{ type nat hook {hook}; jump services; }}")?;
    }
    writeln!(
        to,
        "chain nat-postrouting {{ type nat hook postrouting priority srcnat; meta mark & 0x4000 == 0 return; masquerade fully-random; }}\n}}"
    )
}

fn nth(first: Ipv4Addr, at: u32) -> Ipv4Addr {
    Ipv4Addr::from(first.to_bits() + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_leads_to_its_endpoints_and_each_rewrites_to_its_own() {
        let mut text = Vec::new();
        rules(&mut text, 2, 2).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            "10.96.16.1 . udp . 53 : goto service-1 }",
            "chain service-1 { ip daddr 10.96.16.1 udp dport 53 ip saddr != 10.244.0.0/16 jump mark-for-masquerade; \
             numgen random mod 2 vmap { 0 : goto endpoint-2, 1 : goto endpoint-3 }; }",
            "chain endpoint-3 { ip saddr 10.248.0.3 jump mark-for-masquerade; meta l4proto udp dnat to 10.248.0.3:5353; }",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert_eq!(text.matches("chain endpoint-").count(), 4);
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
