//! The ports that masqueraded flows get: as configured, or chosen so that they are clear of all that the node uses.

use std::ops::RangeInclusive;

use atalho_engine::snat::SnatPorts;

use crate::facts::PortFacts;
use crate::model::Fault;

/// Fewer than these to one destination, and a busy node feels it.
const RUN_MIN: usize = 1024;
/// The API server's default for node ports: answers to what we send from there would look like requests.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// Above what Linux gives by default.
const PREFERRED: RangeInclusive<u16> = 61_000..=65_535;

/// The ports, and what is wrong with them. `configured`: `None` is "auto".
///
/// What sockets of the node have is always left out, and so is what the kernel may give them by chance, unless nothing
/// would be left: then the node goes on, and says so.
pub(super) fn choose(configured: Option<&RangeInclusive<u16>>, facts: &PortFacts) -> (SnatPorts, Option<Fault>) {
    let is_clear = |port: u16| !facts.is_ephemeral(port) && !facts.is_reserved(port) && !NODE_PORTS.contains(&port);
    let range = match configured {
        Some(range) => range.clone(),
        None if facts.ephemeral.is_none() || PREFERRED.filter(|port| is_clear(*port)).count() >= RUN_MIN => PREFERRED,
        None => longest_run(is_clear).unwrap_or(PREFERRED),
    };
    // Who names reserved ports himself has reserved them for this.
    let is_others = |port: u16| configured.is_none() && facts.is_reserved(port);
    let ports = SnatPorts::new(range.clone(), |port| {
        facts.bound.contains(&port) || facts.is_ephemeral(port) || is_others(port)
    });
    let overlap = range.clone().filter(|port| facts.is_ephemeral(*port)).count();
    let (first, last) = (range.start(), range.end());
    let next_step = format!(
        "set net.ipv4.ip_local_reserved_ports and conntrack.snat_ports to the same range, such as {}-{}, or narrow \
         net.ipv4.ip_local_port_range",
        PREFERRED.start(),
        PREFERRED.end()
    );
    if ports.count() == 0 {
        let reason = format!(
            "the node may give all ports {first}-{last} to its own sockets, so answers to masqueraded flows may be taken \
             from it or from them"
        );
        let all = SnatPorts::new(range, |port| facts.bound.contains(&port));
        return (all, Some(Fault::new(reason, next_step)));
    }
    let fault = (overlap > 0).then(|| {
        let reason = format!(
            "{overlap} of the ports {first}-{last} are left out because the node gives them to its own sockets \
             (net.ipv4.ip_local_port_range); {} are left",
            ports.count()
        );
        Fault::new(reason, next_step)
    });
    (ports, fault)
}

/// The longest run of unprivileged ports that are all clear, if it is long enough.
fn longest_run(is_clear: impl Fn(u16) -> bool) -> Option<RangeInclusive<u16>> {
    let mut longest: Option<RangeInclusive<u16>> = None;
    let mut start = None;
    for port in 1024..=u16::MAX {
        if !is_clear(port) {
            start = None;
            continue;
        }
        let run = *start.get_or_insert(port)..=port;
        if run.len() >= RUN_MIN && longest.as_ref().is_none_or(|longest| run.len() > longest.len()) {
            longest = Some(run);
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn facts(ephemeral: RangeInclusive<u16>, reserved: &[RangeInclusive<u16>], bound: &[u16]) -> PortFacts {
        PortFacts { ephemeral: Some(ephemeral), reserved: reserved.to_vec(), bound: bound.iter().copied().collect() }
    }

    fn chosen(configured: Option<RangeInclusive<u16>>, facts: &PortFacts) -> (BTreeSet<u16>, Option<String>) {
        let (ports, fault) = choose(configured.as_ref(), facts);
        (ports.iter().collect(), fault.map(|fault| fault.reason))
    }

    #[test]
    fn auto_takes_what_is_above_the_ephemeral_ports_without_what_is_in_use() {
        let (ports, fault) = chosen(None, &facts(32_768..=60_999, &[62_000..=62_099], &[61_500, 80]));
        assert_eq!((ports.len(), fault), (4536 - 100 - 1, None));
        assert!(!ports.contains(&61_500) && !ports.contains(&62_050) && ports.contains(&61_000));
        assert_eq!(chosen(None, &PortFacts::default()).0.len(), 4536, "offline");
    }

    #[test]
    fn auto_looks_elsewhere_where_the_node_uses_the_upper_ports() {
        let (ports, fault) = chosen(None, &facts(32_768..=65_535, &[], &[8080]));
        assert_eq!((ports.first(), ports.last(), fault), (Some(&1024), Some(&29_999), None));
        assert!(!ports.contains(&8080));
    }

    #[test]
    fn a_node_that_uses_all_ports_itself_is_told_so_and_goes_on() {
        let (ports, fault) = chosen(None, &facts(1024..=65_535, &[], &[]));
        assert_eq!(ports.len(), 4536);
        assert!(fault.unwrap().contains("may give all ports 61000-65535"));
        // The way out that it is told.
        let reserved = facts(1024..=65_535, &[61_000..=65_535], &[61_001]);
        let (ports, fault) = chosen(Some(61_000..=65_535), &reserved);
        assert_eq!((ports.len(), fault), (4535, None));
    }

    #[test]
    fn a_configured_range_is_kept_as_far_as_it_is_clear() {
        let (ports, fault) = chosen(Some(60_000..=62_000), &facts(32_768..=60_999, &[], &[]));
        assert_eq!((ports.first(), ports.last()), (Some(&61_000), Some(&62_000)));
        assert_eq!(
            fault.unwrap(),
            "1000 of the ports 60000-62000 are left out because the node gives them to its own sockets \
             (net.ipv4.ip_local_port_range); 1001 are left"
        );
    }
}
