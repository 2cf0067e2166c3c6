//! Load-balancer addresses and external IPs with traffic: from outside, from a pod and from the node, under both policies, and
//! guarded by source ranges. What counts is who answers and whom the server sees.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use atalho_benches::lab::command::ip;
use atalho_benches::lab::daemon::{Objects, write_config};
use atalho_benches::lab::objects;
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan, node_address, outside_address, pod_address, remote_pod_address};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::JobKind;

use crate::support::{assert_even_and_right, programs, skipped, turn, wait_for_routes};

/// Every endpoint may be asked, and sees the node.
const OPEN: u8 = 81;
/// externalTrafficPolicy Local.
const KEPT: u8 = 82;
/// Open for the outside client alone.
const GUARDED: u8 = 83;

/// By external IPs.
const EXTERNAL: u8 = 84;

/// The outside address of a Service.
fn address(service: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, service).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, service.into()).into(),
    }
}

/// A Service with outside addresses, and pod-2 and remote-1 behind it.
fn service_with(service: u8, spec: &str) -> String {
    let [v4, v6] = Family::BOTH.map(|family| address(service, family));
    let [cluster4, cluster6] = Family::BOTH.map(|family| paths::cluster_ip(service, family));
    let (kind, status) = match service {
        EXTERNAL => ("ClusterIP", String::new()),
        _ => ("LoadBalancer", format!("status: {{loadBalancer: {{ingress: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]}}}}\n")),
    };
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: lb-{service}}}\n\
         spec: {{type: {kind}, clusterIPs: [{cluster4}, \"{cluster6}\"], {spec}\
         ports: [{{name: http, port: 80}}, {{name: dns, port: 53, protocol: UDP}}]}}\n{status}"
    );
    for family in Family::BOTH {
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: lb-{service}-{name}, labels: {{kubernetes.io/service-name: lb-{service}}}}}\naddressType: {name}\n\
             ports: [{{name: http, port: 8080}}, {{name: dns, port: 5353, protocol: UDP}}]\n\
             endpoints: [{{addresses: [\"{here}\"], nodeName: node-a}}, {{addresses: [\"{there}\"], nodeName: node-b}}]\n",
            name = family.name(),
            here = pod_address(2, family),
            there = remote_pod_address(1, family),
        );
    }
    text
}

/// Who asks which Service, who answers, and whom the server sees; no answer where nobody is let in.
fn cases(family: Family) -> Vec<(Place, u8, &'static [&'static str], IpAddr)> {
    let (node, outside, pod) = (node_address(family), outside_address(family), pod_address(3, family));
    let (both, here, nobody): (&[_], &[_], &[_]) = (&["pod-2", "remote-1"], &["pod-2"], &[]);
    vec![
        (Place::Far, OPEN, both, node),
        (Place::Pod(3), OPEN, both, node),
        (Place::Node, OPEN, both, node),
        (Place::Far, KEPT, here, outside),
        (Place::Pod(3), KEPT, both, pod),
        (Place::Node, KEPT, both, node),
        (Place::Far, GUARDED, both, node),
        (Place::Pod(3), GUARDED, nobody, pod),
        (Place::Node, GUARDED, nobody, node),
        (Place::Far, EXTERNAL, both, node),
        (Place::Pod(3), EXTERNAL, both, node),
        (Place::Node, EXTERNAL, both, node),
    ]
}

#[test]
fn load_balancers_are_reached_from_everywhere_by_their_policy() {
    if skipped("load_balancers_are_reached_from_everywhere_by_their_policy") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-lb");
    let mut session = Session::build(&plan, &programs()).unwrap();
    let ranges = "[service]\nexternal_ip_cidrs = [\"192.0.2.80/29\", \"2001:db8:7::/64\"]\n";
    let config = write_config(&plan, None, ranges).unwrap();
    session.start_daemon(&config, &Objects::Manifests(objects::write(&plan).unwrap())).unwrap();
    session.daemon_mut().unwrap().wait_ready(Duration::from_secs(20)).unwrap();
    let [node4, node6] = Family::BOTH.map(node_address);
    let [outside4, outside6] = Family::BOTH.map(outside_address);
    let routes = format!(
        "route add 192.0.2.80/29 via {node4} src {outside4}\nroute add 2001:db8:7::/64 via {node6} src {outside6}\n"
    );
    ip(&plan.far(), &routes).unwrap();
    let before = session.daemon().unwrap().status().unwrap().services;
    for (service, spec) in [
        (OPEN, String::new()),
        (KEPT, "externalTrafficPolicy: Local, ".to_owned()),
        (GUARDED, format!("loadBalancerSourceRanges: [\" {outside4}/32\", \"{outside6}/128\"], ")),
        (
            EXTERNAL,
            format!("externalIPs: [{}, \"{}\"], ", address(EXTERNAL, Family::V4), address(EXTERNAL, Family::V6)),
        ),
    ] {
        fs::write(plan.manifests().join(format!("lb-{service}.yaml")), service_with(service, &spec)).unwrap();
    }
    let daemon = session.daemon_mut().unwrap();
    daemon.wait_for(Duration::from_secs(10), "the load balancers", |status| status.services == before + 4).unwrap();
    let all = [OPEN, KEPT, GUARDED, EXTERNAL].map(|service| Family::BOTH.map(|family| address(service, family)));
    wait_for_routes(&plan, all.as_flattened());

    let mut asked = Vec::new();
    for family in Family::BOTH {
        for (from, service, names, source) in cases(family) {
            for kind in [JobKind::Tcp, JobKind::Udp] {
                let target = |port| SocketAddr::new(address(service, family), port);
                let path = Path { from, tcp: target(80), udp: target(53), ..paths::moving(family) };
                let mut job = paths::job(&path, kind, 30.0);
                (job.interval_ms, job.count_max, job.timeout_ms) =
                    if names.is_empty() { (0, 2, 1000) } else { (10, 60, 10_000) };
                let what = format!("{from:?} to lb-{service} by {kind:?}, {}", family.name());
                asked.push((what, session.ask(from, job).unwrap(), names, source));
            }
        }
    }
    let jobs: Vec<u32> = asked.iter().map(|(_, job, ..)| *job).collect();
    let outcomes = session.wait_for(&jobs, Duration::from_secs(60)).unwrap();
    for ((what, _, names, source), outcome) in asked.iter().zip(&outcomes) {
        let what = format!("{what}\n{outcome:?}");
        if names.is_empty() {
            let silent = outcome.failures.iter().filter(|failure| failure.text.contains("no answer in time")).count();
            assert!(outcome.requests > 0 && silent as u64 == outcome.requests, "{what}");
            continue;
        }
        assert_eq!((outcome.failed, outcome.wrong), (0, 0), "{what}");
        let answered: BTreeSet<&str> = outcome.backends.keys().map(String::as_str).collect();
        assert_eq!(answered, names.iter().copied().collect(), "{what}");
        assert_eq!(outcome.sources.keys().collect::<Vec<_>>(), [&source.to_string()], "{what}");
    }
    assert_even_and_right(&session);
}
