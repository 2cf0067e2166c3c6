//! Addresses that are not one Service's alone, with traffic from outside, from a pod and from the node: one that several
//! Services have ports of, and the node's own. Who answers tells whose a port is.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use atalho_benches::lab::command::ip;
use atalho_benches::lab::daemon::{Objects, Status, write_config};
use atalho_benches::lab::objects;
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan, node_address, outside_address, pod_address};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::JobKind;
use atalho_benches::traffic::driver::Agent;

use crate::support::{assert_even_and_right, programs, skipped, turn, wait_for_routes};

const EVERYWHERE: [Place; 3] = [Place::Far, Place::Pod(3), Place::Node];
/// Where a process of the node serves: two ports that Services want, and one that none does.
const OF_THE_NODE: [u16; 3] = [80, 81, 7001];

/// The address that Services share.
fn shared(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 90).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x90).into(),
    }
}

/// A Service with one pod behind it. Its ports are TCP's and UDP's alike.
struct Shares {
    name: &'static str,
    /// Of its cluster IPs.
    number: u8,
    /// The load balancer's, if it has one.
    ingress: Option<fn(Family) -> IpAddr>,
    /// Its external IPs.
    external: &'static [fn(Family) -> IpAddr],
    ports: &'static [u16],
    pod: usize,
}

impl Shares {
    fn write(&self, plan: &Plan) {
        let both = |of: &fn(Family) -> IpAddr| Family::BOTH.map(|family| format!("\"{}\"", of(family))).join(", ");
        let cluster_ips =
            Family::BOTH.map(|family| format!("\"{}\"", paths::cluster_ip(self.number, family))).join(", ");
        let kind = if self.ingress.is_some() { "LoadBalancer" } else { "ClusterIP" };
        let external = self.external.iter().map(both).collect::<Vec<_>>().join(", ");
        let ports = |number: fn(u16) -> u16| {
            let of_both = |port: &u16| {
                let n = number(*port);
                format!("{{name: t{port}, port: {n}}}, {{name: u{port}, port: {n}, protocol: UDP}}")
            };
            self.ports.iter().map(of_both).collect::<Vec<_>>().join(", ")
        };
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {}}}\n\
             spec: {{type: {kind}, clusterIPs: [{cluster_ips}], externalIPs: [{external}], ports: [{}]}}\n",
            self.name,
            ports(|port| port),
        );
        if let Some(ingress) = self.ingress {
            let [v4, v6] = Family::BOTH.map(ingress);
            let _ = writeln!(text, "status: {{loadBalancer: {{ingress: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]}}}}");
        }
        for family in Family::BOTH {
            let _ = write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: {name}-{kind}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {kind}\n\
                 ports: [{ports}]\nendpoints: [{{addresses: [\"{pod}\"], nodeName: node-a}}]\n",
                name = self.name,
                kind = family.name(),
                ports = ports(|_| 8080),
                pod = pod_address(self.pod, family),
            );
        }
        fs::write(self.file(plan), text).unwrap();
    }

    fn file(&self, plan: &Plan) -> PathBuf {
        plan.manifests().join(format!("shares-{}.yaml", self.name))
    }
}

/// A port that is asked, and who is to answer; nobody: it is refused.
struct Asked {
    at: fn(Family) -> IpAddr,
    port: u16,
    kinds: &'static [JobKind],
    from: &'static [Place],
    by: &'static [&'static str],
    /// Else it sees the node.
    sees_client: bool,
}

/// Of an address that leads in from everywhere and is masqueraded.
const fn external(at: fn(Family) -> IpAddr, port: u16, by: &'static [&'static str]) -> Asked {
    Asked { at, port, kinds: &[JobKind::Tcp, JobKind::Udp], from: &EVERYWHERE, by, sees_client: false }
}

/// Asks in both families.
fn assert_answers(session: &mut Session, all: &[Asked]) {
    let mut jobs = Vec::new();
    for asked in all {
        for (family, from) in
            Family::BOTH.into_iter().flat_map(|family| asked.from.iter().map(move |from| (family, *from)))
        {
            let target = SocketAddr::new((asked.at)(family), asked.port);
            let path = Path { from, tcp: target, udp: target, ..paths::moving(family) };
            for kind in asked.kinds {
                let mut job = paths::job(&path, *kind, 30.0);
                (job.interval_ms, job.count_max, job.timeout_ms) = (10, 10, 5000);
                let sees = match from {
                    Place::Far if asked.sees_client => outside_address(family),
                    Place::Pod(number) if asked.sees_client => pod_address(number, family),
                    _ => node_address(family),
                };
                let what = format!("{from:?} to {target} by {kind:?}, answered by {:?} who sees {sees}", asked.by);
                jobs.push((session.ask(from, job).unwrap(), asked, sees.to_string(), what));
            }
        }
    }
    let ids: Vec<u32> = jobs.iter().map(|job| job.0).collect();
    let outcomes = session.wait_for(&ids, Duration::from_secs(60)).unwrap();
    for ((_, asked, sees, what), outcome) in jobs.iter().zip(&outcomes) {
        let what = format!("{what}\n{outcome:?}");
        if asked.by.is_empty() {
            let refused = outcome.failures.iter().filter(|failure| failure.text.contains("refused")).count();
            assert_eq!((refused as u64, outcome.requests), (10, 10), "{what}");
            continue;
        }
        assert_eq!((outcome.requests, outcome.failed, outcome.wrong), (10, 0, 0), "{what}");
        assert!(outcome.backends.keys().all(|who| asked.by.contains(&who.as_str())), "{what}");
        assert_eq!(outcome.sources.keys().collect::<Vec<_>>(), [sees], "{what}");
    }
}

/// A daemon that lets external IPs be, a way to the shared address from outside, and a process of the node that serves.
fn lab(prefix: &str) -> (Session, Agent) {
    let plan = Plan::new(prefix);
    let mut session = Session::build(&plan, &programs()).unwrap();
    let config = write_config(&plan, None, "[service]\nexternal_ip_cidrs = [\"0.0.0.0/0\", \"::/0\"]\n").unwrap();
    session.start_daemon(&config, &Objects::Manifests(objects::write(&plan).unwrap())).unwrap();
    session.daemon_mut().unwrap().wait_ready(Duration::from_secs(20)).unwrap();
    let ways = Family::BOTH.map(|family| {
        let (node, outside) = (node_address(family), outside_address(family));
        format!("route add {} via {node} src {outside}\n", shared(family))
    });
    ip(&plan.far(), &ways.concat()).unwrap();
    let mut process = Agent::start(&programs().lab, &plan.node()).unwrap();
    let serves =
        Family::BOTH.into_iter().flat_map(|family| OF_THE_NODE.map(|port| (node_address(family), port).into()));
    process.serve("node", serves.collect()).unwrap();
    (session, process)
}

/// Waits until so many Services are in force, and what is refused is just that somebody else has what these words name.
fn wait_for(session: &mut Session, services: u64, refused: &[String]) {
    let daemon = session.daemon_mut().unwrap();
    let is_said = |refusal: &serde_json::Value| refused.iter().any(|words| refusal.to_string().contains(words));
    let holds = |status: &Status| {
        status.services == services && status.refused.len() == refused.len() && status.refused.iter().all(is_said)
    };
    daemon.wait_for(Duration::from_secs(10), &format!("to refuse {refused:#?}"), holds).unwrap();
    // The kernel's side comes after the tables.
    session.listen(Duration::from_millis(500)).unwrap();
}

/// What is said where a Service does not get this port, in both families.
fn belongs(at: fn(Family) -> IpAddr, port: u16, protocols: &[&str], to: &str) -> Vec<String> {
    let of = |family| protocols.iter().map(move |protocol| (at(family), protocol));
    let said = |(address, protocol)| format!("{address}, {protocol} port {port}, belongs to Service default/{to}");
    Family::BOTH.into_iter().flat_map(of).map(said).collect()
}

fn of_first(family: Family) -> IpAddr {
    paths::cluster_ip(FIRST.number, family)
}

const BOTH: [&str; 2] = ["TCP", "UDP"];
const FIRST: Shares = Shares { name: "first", number: 90, ingress: Some(shared), external: &[], ports: &[80], pod: 1 };
const SECOND: Shares = Shares { name: "second", number: 91, ports: &[80, 81], pod: 2, ..FIRST };
/// Wants the first one's cluster IP, and the node's address with what is another Service's node port over TCP.
const THIEF: Shares = Shares {
    name: "thief",
    number: 92,
    ingress: None,
    external: &[of_first, node_address],
    ports: &[80, 30080],
    pod: 4,
};

#[test]
fn services_share_an_address_by_port_and_who_comes_first_keeps_it() {
    if skipped("services_share_an_address_by_port_and_who_comes_first_keeps_it") {
        return;
    }
    let _turn = turn();
    let (mut session, _process) = lab("at-t-shared");
    let before = session.daemon().unwrap().status().unwrap().services;
    let plan = session.plan().clone();
    let of_second = belongs(shared, 80, &BOTH, "first");
    let node_port = belongs(node_address, 30080, &["TCP"], "gate");
    let cluster_ip = [80, 30080].map(|port| belongs(of_first, port, &BOTH, "first")).concat();
    FIRST.write(&plan);
    wait_for(&mut session, before + 1, &[]);
    SECOND.write(&plan);
    wait_for(&mut session, before + 2, &of_second);
    THIEF.write(&plan);
    wait_for(&mut session, before + 3, &[of_second, node_port.clone(), cluster_ip].concat());
    wait_for_routes(&plan, &Family::BOTH.map(shared));
    let from_inside = &EVERYWHERE[1..];
    let whoever_is_first = [
        Asked { kinds: &[JobKind::Tcp], ..external(node_address, 30080, &["pod-2", "remote-1"]) },
        Asked { kinds: &[JobKind::Udp], ..external(node_address, 30080, &["pod-4"]) },
        external(shared, 81, &["pod-2"]),
        external(shared, 82, &[]),
    ];
    assert_answers(&mut session, &whoever_is_first);
    assert_answers(
        &mut session,
        &[
            external(shared, 80, &["pod-1"]),
            Asked { from: from_inside, sees_client: true, ..external(of_first, 80, &["pod-1"]) },
            Asked { from: from_inside, ..external(of_first, 30080, &[]) },
        ],
    );

    // It goes, and what it had falls to those that wait for it.
    fs::remove_file(FIRST.file(&plan)).unwrap();
    wait_for(&mut session, before + 2, &node_port);
    assert_answers(&mut session, &whoever_is_first);
    assert_answers(
        &mut session,
        &[
            external(shared, 80, &["pod-2"]),
            Asked { from: from_inside, ..external(of_first, 80, &["pod-4"]) },
            Asked { from: from_inside, ..external(of_first, 30080, &["pod-4"]) },
        ],
    );
    assert_even_and_right(&session);
}

#[test]
fn an_external_address_of_the_node_gives_its_port_alone_to_a_service() {
    if skipped("an_external_address_of_the_node_gives_its_port_alone_to_a_service") {
        return;
    }
    let _turn = turn();
    let (mut session, _process) = lab("at-t-own");
    let before = session.daemon().unwrap().status().unwrap().services;
    let plan = session.plan().clone();
    let of_the_node = |port| Asked { sees_client: true, ..external(node_address, port, &["node"]) };
    // The kernel bounds its port unreachables, and not its resets.
    let nobodys = || Asked { kinds: &[JobKind::Tcp], ..external(node_address, 7002, &[]) };
    assert_answers(&mut session, &[of_the_node(80), of_the_node(81), of_the_node(7001), nobodys()]);
    let balancer = Shares { ingress: Some(node_address), ..FIRST };
    let external_ip = Shares { ingress: None, external: &[node_address], ports: &[81], ..SECOND };
    balancer.write(&plan);
    external_ip.write(&plan);
    wait_for(&mut session, before + 2, &[]);
    let services = [external(node_address, 80, &["pod-1"]), external(node_address, 81, &["pod-2"])];
    assert_answers(&mut session, &services);
    assert_answers(&mut session, &[of_the_node(7001), nobodys()]);
    fs::remove_file(balancer.file(&plan)).unwrap();
    wait_for(&mut session, before + 1, &[]);
    assert_answers(&mut session, &services[1..]);
    assert_answers(&mut session, &[of_the_node(80), of_the_node(7001), nobodys()]);
    assert_even_and_right(&session);
}
