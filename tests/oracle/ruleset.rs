//! The cluster as nftables rules of kube-proxy's shape: maps from (address, protocol, port) to a chain per Service, which
//! marks what is to be masqueraded and goes to a chain per endpoint, which translates. Beside it what a CNI plugin adds:
//! pods masqueraded on their way out, and no forged sources.

use std::fmt::Write;

use super::cluster::{
    Family, Host, Link, MASQUERADE_PORTS, SERVICES, Service, ServicePort, node_address, pod_cidr, service_cidr,
};

/// Destination of the packets by which the test notices that all before them have passed.
pub fn barrier_address(family: Family) -> &'static str {
    family.pick("198.18.0.1", "2001:db8:198::1")
}

/// Everything of one family, as `nft -f` reads it.
pub fn ruleset(family: Family) -> String {
    let (ip, address) = family.pick(("ip", "ipv4_addr"), ("ip6", "ipv6_addr"));
    let node = node_address(family);
    let pods = pod_cidr(family);
    let mut text = format!("table {ip} kube-proxy {{\n");
    for map in ["service-ips", "no-endpoint-services"] {
        let _ = writeln!(text, "map {map} {{\ntype {address} . inet_proto . inet_service : verdict\n}}");
    }
    for map in ["service-nodeports", "no-endpoint-nodeports"] {
        let _ = writeln!(text, "map {map} {{\ntype inet_proto . inet_service : verdict\n}}");
    }
    let _ = writeln!(text, "set cluster-ips {{\ntype {address}\n}}");
    text += "chain mark-for-masquerade {\nmeta mark set meta mark | 0x4000\n}\n";
    let unreachable = family.pick("icmp port-unreachable", "icmpv6 port-unreachable");
    let _ =
        writeln!(text, "chain reject-chain {{\nmeta l4proto tcp reject with tcp reset\nreject with {unreachable}\n}}");
    let services = SERVICES.iter().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    let mut elements = String::new();
    for (service, port) in services {
        let _ = write!(text, "{}", chains(family, service, port));
        let _ = write!(elements, "{}", members(family, service, port));
    }
    let _ = write!(
        text,
        "chain services {{\n\
         {ip} daddr . meta l4proto . th dport vmap @service-ips\n\
         {ip} daddr {node} meta l4proto . th dport vmap @service-nodeports\n}}\n\
         chain nat-prerouting {{\ntype nat hook prerouting priority dstnat; policy accept;\njump services\n}}\n\
         chain nat-postrouting {{\ntype nat hook postrouting priority srcnat; policy accept;\n\
         meta mark & 0x4000 != 0 jump masquerading\n\
         {ip} saddr {pods} {ip} daddr != {pods} oifname uplink jump masquerading\n}}\n\
         chain masquerading {{\nmeta l4proto {{ tcp, udp }} masquerade to :{}-{}\nmasquerade\n}}\n\
         chain filter-input {{\ntype filter hook input priority filter; policy drop;\n\
         ct state new {ip} daddr {node} meta l4proto . th dport vmap @no-endpoint-nodeports\n}}\n\
         chain filter-forward {{\ntype filter hook forward priority filter; policy accept;\n\
         ct state invalid drop\n\
         ct state new {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services\n\
         ct state new {ip} daddr @cluster-ips goto reject-chain\n\
         ct state new {ip} daddr {} drop\n}}\n",
        MASQUERADE_PORTS.start(),
        MASQUERADE_PORTS.end(),
        service_cidr(family)
    );
    text += &sources(family);
    text += &own_noise(family);
    text += "}\n";
    text + &elements
}

/// The chain of a Service's port, and of its endpoint.
fn chains(family: Family, service: &Service, port: &ServicePort) -> String {
    let Some(endpoint) = service.endpoint else { return String::new() };
    let ip = family.pick("ip", "ip6");
    let (name, address, pods) = (label(service, port), endpoint.address(family), pod_cidr(family));
    let to = match family {
        Family::V4 => format!("{address}:{}", port.target),
        Family::V6 => format!("[{address}]:{}", port.target),
    };
    let protocol = port.protocol.to_lowercase();
    // Marks what must come back here: off-cluster clients of a cluster address, node ports, a pod that meets itself.
    format!(
        "chain endpoint-{name} {{\n{ip} saddr {address} jump mark-for-masquerade\n\
         meta l4proto {protocol} dnat to {to}\n}}\n\
         chain service-{name} {{\nnumgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}\n}}\n\
         chain cluster-{name} {{\n{ip} saddr != {pods} jump mark-for-masquerade\ngoto service-{name}\n}}\n\
         chain external-{name} {{\n{}goto service-{name}\n}}\n",
        if service.external_local { "" } else { "jump mark-for-masquerade\n" }
    )
}

/// The members of the maps.
fn members(family: Family, service: &Service, port: &ServicePort) -> String {
    let ip = family.pick("ip", "ip6");
    let (name, protocol) = (label(service, port), port.protocol.to_lowercase());
    let (address, number) = (service.address(family), port.port);
    let mut text = String::new();
    let mut add = |map: &str, key: &str| {
        let _ = writeln!(text, "add element {ip} kube-proxy {map} {{ {key} }}");
    };
    add("cluster-ips", &address.to_string());
    let is_here = service.endpoint.is_some_and(|host| Host::PODS.contains(&host));
    let ips = format!("{address} . {protocol} . {number}");
    match service.endpoint {
        None => add("no-endpoint-services", &format!("{ips} : goto reject-chain")),
        Some(_) if service.internal_local && !is_here => add("no-endpoint-services", &format!("{ips} : drop")),
        Some(_) => add("service-ips", &format!("{ips} : goto cluster-{name}")),
    }
    if let Some(node_port) = port.node_port {
        let key = format!("{protocol} . {node_port}");
        match service.endpoint {
            None => add("no-endpoint-nodeports", &format!("{key} : goto reject-chain")),
            Some(_) => add("service-nodeports", &format!("{key} : goto external-{name}")),
        }
    }
    text
}

fn label(service: &Service, port: &ServicePort) -> String {
    format!("{}-{}", service.name, port.protocol.to_lowercase())
}

/// A pod sends from its own address, and nobody out there has one of a pod here. Barrier packets are not tracked.
fn sources(family: Family) -> String {
    let ip = family.pick("ip", "ip6");
    let mut text = "chain sources {\ntype filter hook prerouting priority raw; policy accept;\n".to_owned();
    let _ = writeln!(text, "iifname uplink {ip} daddr {} notrack accept", barrier_address(family));
    for link in Link::PODS {
        let address = link.pod().map(|host| host.address(family)).expect("a pod");
        let _ = writeln!(text, "iifname {} {ip} saddr != {address} drop", link.name());
        let _ = writeln!(text, "iifname uplink {ip} saddr {address} drop");
    }
    text + "}\n"
}

/// What the kernel says of itself, at a time of its own: neighbour discovery, redirects, group reports, and that a datagram
/// in fragments never became whole.
fn own_noise(family: Family) -> String {
    let noise = match family {
        Family::V4 => "icmp type time-exceeded icmp code 1 drop",
        Family::V6 => {
            "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect, \
             mld-listener-report, mld2-listener-report, mld-listener-done } drop\nicmpv6 type time-exceeded icmpv6 code 1 drop"
        }
    };
    format!("chain own {{\ntype filter hook output priority filter; policy accept;\n{noise}\n}}\n")
}
