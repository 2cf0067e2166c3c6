//! The ways of traffic through a node, and what an answer on each of them must look like.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::plan::{Family, OUTSIDE_PORT, node_address, outside_address, pod_address};
use crate::traffic::client::{Job, JobKind, Outcome};

/// Where an agent lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Node,
    Far,
    /// Pod of this number, from 1.
    Pod(usize),
}

/// Who asks whom, and who may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub name: &'static str,
    pub family: Family,
    pub from: Place,
    pub tcp: SocketAddr,
    pub udp: SocketAddr,
    /// Who may answer over TCP and over UDP.
    pub tcp_backends: &'static [&'static str],
    pub udp_backends: &'static [&'static str],
    /// Whom the server must see.
    pub source: IpAddr,
}

/// Name of the Service whose endpoint is replaced, as a path.
pub const MOVING: &str = "pod to moving Service";

/// A Service's cluster IP, by the last number of its IPv4 address.
pub fn cluster_ip(last: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 96, 0, last]),
        Family::V6 => {
            let digits = u16::from(last / 10) << 4 | u16::from(last % 10);
            IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, digits])
        }
    }
}

/// Every path of one family; the objects are those of `examples/`.
pub fn paths(family: Family) -> Vec<Path> {
    let at = |address: IpAddr, port: u16| SocketAddr::new(address, port);
    let web: &[&str] = &["pod-1", "pod-2", "remote-1"];
    let pod = |number| pod_address(number, family);
    let node = node_address(family);
    let outside = outside_address(family);
    let path = |name, from, tcp, udp, tcp_backends, udp_backends, source| Path {
        name,
        family,
        from,
        tcp,
        udp,
        tcp_backends,
        udp_backends,
        source,
    };
    vec![
        path("pod to pod", Place::Pod(1), at(pod(2), 8080), at(pod(2), 8080), &["pod-2"], &["pod-2"], pod(1)),
        path(
            "pod to ClusterIP",
            Place::Pod(3),
            at(cluster_ip(10, family), 80),
            at(cluster_ip(10, family), 443),
            web,
            web,
            pod(3),
        ),
        path(
            "pod to itself by its Service",
            Place::Pod(4),
            at(cluster_ip(30, family), 80),
            at(cluster_ip(30, family), 443),
            &["pod-4"],
            &["pod-4"],
            node,
        ),
        path(
            "node to ClusterIP",
            Place::Node,
            at(cluster_ip(10, family), 9000),
            at(cluster_ip(20, family), 53),
            web,
            &["pod-3", "remote-2"],
            node,
        ),
        path(
            "far host to NodePort",
            Place::Far,
            at(node, 30080),
            at(node, 30053),
            &["pod-2", "remote-1"],
            &["pod-2", "remote-1"],
            node,
        ),
        path(
            "pod to far host",
            Place::Pod(2),
            at(outside, OUTSIDE_PORT),
            at(outside, OUTSIDE_PORT),
            &["outside"],
            &["outside"],
            node,
        ),
    ]
}

/// The path to the Service whose endpoint is replaced.
pub fn moving(family: Family) -> Path {
    Path {
        name: MOVING,
        family,
        from: Place::Pod(2),
        tcp: SocketAddr::new(cluster_ip(50, family), 80),
        udp: SocketAddr::new(cluster_ip(50, family), 443),
        tcp_backends: &["pod-1", "pod-3"],
        udp_backends: &["pod-1", "pod-3"],
        source: pod_address(2, family),
    }
}

/// Paths that need no Service and so work through any router: what the lab itself is checked with.
pub fn without_services(family: Family) -> Vec<Path> {
    let mut paths = paths(family);
    paths.retain(|path| path.name == "pod to pod" || path.name == "pod to far host");
    for path in &mut paths {
        if let Place::Pod(number) = path.from {
            path.source = pod_address(number, family);
        }
    }
    paths
}

/// How a job asks by default: a pace that two cores carry on every path at once.
pub fn job(path: &Path, kind: JobKind, seconds: f64) -> Job {
    let datagrams = matches!(kind, JobKind::Udp | JobKind::HoldUdp);
    Job {
        id: 0,
        kind,
        target: if datagrams { path.udp } else { path.tcp },
        seconds,
        interval_ms: if datagrams { 10 } else { 20 },
        // Held flows are short of patience, so that they do not wait out the moment they are there to see.
        timeout_ms: if kind == JobKind::HoldUdp { 1000 } else { 3000 },
        request_bytes: if datagrams { 400 } else { 1000 },
        reply_bytes: if datagrams { 900 } else { 4000 },
        count_max: if kind == JobKind::Bulk { 4 << 30 } else { 1_000_000 },
    }
}

/// Everything that is wrong with an outcome on a path; empty if nothing.
pub fn complaints(path: &Path, kind: JobKind, outcome: &Outcome) -> Vec<String> {
    let datagrams = matches!(kind, JobKind::Udp | JobKind::HoldUdp);
    let allowed: BTreeSet<&str> =
        (if datagrams { path.udp_backends } else { path.tcp_backends }).iter().copied().collect();
    let name = format!("{} {} {}", path.name, path.family.name(), kind_name(kind));
    let mut complaints = Vec::new();
    if outcome.requests == 0 {
        complaints.push(format!("{name}: nothing was asked"));
    }
    // A datagram flow that moves is ended at once: an answer of the old endpoint that is on its way just then is lost, as
    // with every balancer that forgets the flow. One request at a time is on its way.
    let failed_max = u64::from(datagrams && path.name == MOVING);
    if outcome.failed > failed_max || outcome.wrong > 0 {
        let first = outcome
            .failures
            .first()
            .map_or_else(String::new, |failure| format!("; first: request {}: {}", failure.number, failure.text));
        complaints
            .push(format!("{name}: {} of {} failed, {} wrong{first}", outcome.failed, outcome.requests, outcome.wrong));
    }
    for backend in outcome.backends.keys().filter(|backend| !allowed.contains(backend.as_str())) {
        complaints.push(format!("{name}: answered by {backend}, which is no backend of it"));
    }
    let source = path.source.to_string();
    for seen in outcome.sources.keys().filter(|seen| **seen != source) {
        complaints.push(format!("{name}: the server saw {seen} instead of {source}"));
    }
    // With so many flows a balancer that leaves one out is broken, not unlucky: 3 backends miss one of 60 flows with 3e-11.
    if matches!(kind, JobKind::Tcp | JobKind::Udp) && path.name != MOVING && outcome.requests >= 60 {
        for missing in allowed.iter().filter(|backend| !outcome.backends.contains_key(**backend)) {
            complaints.push(format!("{name}: {missing} never answered"));
        }
    }
    complaints
}

pub fn kind_name(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Tcp => "TCP",
        JobKind::Udp => "UDP",
        JobKind::Bulk => "TCP bulk",
        JobKind::HoldTcp => "TCP held",
        JobKind::HoldUdp => "UDP held",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(path: &Path) -> Outcome {
        let share = 100 / path.tcp_backends.len() as u64;
        Outcome {
            requests: 100,
            backends: path.tcp_backends.iter().map(|name| ((*name).to_owned(), share)).collect(),
            sources: [(path.source.to_string(), 100)].into(),
            ..Outcome::default()
        }
    }

    #[test]
    fn one_answer_may_be_lost_where_a_datagram_flow_moves_and_nowhere_else() {
        let path = moving(Family::V4);
        let one = Outcome { failed: 1, ..outcome(&path) };
        assert!(complaints(&path, JobKind::HoldUdp, &one).is_empty());
        assert!(!complaints(&path, JobKind::HoldUdp, &Outcome { failed: 2, ..one.clone() }).is_empty());
        assert!(!complaints(&path, JobKind::HoldTcp, &one).is_empty());
        let other = paths(Family::V4).remove(0);
        assert!(!complaints(&other, JobKind::Udp, &Outcome { failed: 1, ..outcome(&other) }).is_empty());
    }

    #[test]
    fn a_good_outcome_has_no_complaint_and_every_fault_has_one() {
        for path in Family::BOTH.into_iter().flat_map(paths) {
            let good = outcome(&path);
            assert!(complaints(&path, JobKind::Tcp, &good).is_empty(), "{:?}", complaints(&path, JobKind::Tcp, &good));
            let bad = [
                Outcome { failed: 1, ..good.clone() },
                Outcome { wrong: 1, ..good.clone() },
                Outcome { requests: 0, ..good.clone() },
                Outcome { sources: [("192.0.2.9".into(), 1)].into(), ..good.clone() },
                Outcome { backends: [("stranger".into(), 1)].into(), ..good.clone() },
                Outcome { backends: [(path.tcp_backends[0].into(), 0)].into_iter().skip(1).collect(), ..good },
            ];
            for outcome in bad {
                assert!(!complaints(&path, JobKind::Tcp, &outcome).is_empty(), "{}: {outcome:?}", path.name);
            }
        }
    }
}
