//! What is beyond the uplink: a host outside and the other node's pods. They live on the far side itself, or behind it, which
//! then is a router between links of different lengths.

use std::fmt::Write;

use anyhow::Result;

use super::command::ip;
use super::plan::{Family, Plan, REMOTE_PODS, outside_address, remote_pod_address};

/// The link behind the router, its end and theirs (RFC 2544's range, and a private one).
const ROUTER: [&str; 2] = ["198.18.0.1", "fd00:198::1"];
const HOSTS: [&str; 2] = ["198.18.0.2", "fd00:198::2"];

/// Gives them their addresses, and the link where there is one.
pub fn connect(plan: &Plan) -> Result<()> {
    let addresses: Vec<String> = Family::BOTH
        .into_iter()
        .flat_map(|family| {
            let pods = (1..=REMOTE_PODS).map(move |number| remote_pod_address(number, family));
            [outside_address(family)].into_iter().chain(pods)
        })
        .map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
        .collect();
    let mut there = String::new();
    for address in &addresses {
        writeln!(there, "addr add {address} dev lo{}", if address.contains(':') { " nodad" } else { "" })?;
    }
    let beyond = plan.beyond();
    let Some(mtu) = plan.beyond_mtu else { return ip(&beyond, &there) };
    let (far, link_mtu) = (plan.far(), plan.mtu);
    let ([router4, router6], [hosts4, hosts6]) = (ROUTER, HOSTS);
    // Both ends take what the other links take: it is the router that says what is too long.
    let mut here = format!(
        "link add beyond mtu {link_mtu} type veth peer name eth0 mtu {link_mtu} netns {beyond}\n\
         addr add {router4}/30 dev beyond\naddr add {router6}/64 dev beyond nodad\nlink set beyond up\n"
    );
    for address in &addresses {
        let via = if address.contains(':') { hosts6 } else { hosts4 };
        writeln!(here, "route add {address} via {via} mtu lock {mtu}")?;
    }
    ip(&far, &here)?;
    let [outside4, outside6] = Family::BOTH.map(outside_address);
    write!(
        there,
        "addr add {hosts4}/30 dev eth0\naddr add {hosts6}/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via {router4} src {outside4}\nroute add ::/0 via {router6} src {outside6}\n"
    )?;
    ip(&beyond, &there)
}

/// What the far side's route to the node says besides: the outside client asks from its own address, not from the router's,
/// where it lives there.
pub fn source(plan: &Plan, family: Family) -> String {
    if plan.beyond_mtu.is_some() { String::new() } else { format!("src {}", outside_address(family)) }
}

/// What the far side's routes to the node and its pods say besides: the router's own limit.
pub fn limit(plan: &Plan) -> String {
    plan.beyond_mtu.map_or_else(String::new, |mtu| format!("mtu lock {mtu}"))
}
