//! Endpoints that go under connections, while the daemon looks and while it is dead: TCP is reset, datagrams move, a pod
//! that gets the address of one that went hears nothing of it, and no flow of anybody else is touched.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use atalho_benches::lab::command::ip;
use atalho_benches::lab::daemon::{Objects, write_config};
use atalho_benches::lab::objects::replace_file;
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan, node_address, pod_address, remote_pod_address};
use atalho_benches::lab::session::Session;
use atalho_benches::lab::stack::counters;
use atalho_benches::traffic::client::{JobKind, Outcome};

use crate::support::{assert_even_and_right, last_words, ready, skipped, turn};

/// Gets the address of pod 1.
const HEIR: usize = 5;
/// A Service's node ports: TCP, and UDP right behind it.
const NODE_PORT: u16 = 30070;
/// Endpoints of a Service by name, and whether they terminate.
type Endpoints = &'static [(&'static str, bool)];

/// A Service of these tests: its name, the last number of its IPv4 address, and its endpoints before and after.
struct Service {
    name: &'static str,
    number: u8,
    before: Endpoints,
    after: Option<Endpoints>,
    spec: &'static str,
}

const SERVICES: [Service; 5] = [
    // Its only endpoint gives its place to another one, and its address to another pod.
    Service { name: "moves", number: 71, before: &[("pod-1", false)], after: Some(&[("pod-3", false)]), spec: "" },
    // Its only endpoint goes, and lives on.
    Service { name: "empties", number: 72, before: &[("remote-1", false)], after: Some(&[]), spec: "" },
    // It is deleted.
    Service { name: "ends", number: 73, before: &[("remote-1", false)], after: None, spec: "" },
    // One of its endpoints terminates.
    Service {
        name: "shrinks",
        number: 74,
        before: &[("pod-4", false)],
        after: Some(&[("pod-4", true), ("pod-3", false)]),
        spec: "",
    },
    // Nothing happens to it.
    Service {
        name: "stays",
        number: 75,
        before: &[("pod-3", false), ("pod-4", false), ("remote-1", false), ("remote-2", false)],
        after: Some(&[("pod-3", false), ("pod-4", false), ("remote-1", false), ("remote-2", false)]),
        spec: "sessionAffinity: ClientIP, ",
    },
];

fn address(endpoint: &str, family: Family) -> IpAddr {
    let (kind, number) = endpoint.split_once('-').unwrap();
    let number = number.parse().unwrap();
    if kind == "pod" { pod_address(number, family) } else { remote_pod_address(number, family) }
}

impl Service {
    fn objects(&self, endpoints: Endpoints) -> String {
        let [v4, v6] = Family::BOTH.map(|family| paths::cluster_ip(self.number, family));
        let node_port = NODE_PORT + 2 * u16::from(self.number - 71);
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{type: NodePort, clusterIPs: [{v4}, \"{v6}\"], {spec}\
             ports: [{{name: http, port: 80, nodePort: {node_port}}}, \
             {{name: dns, port: 53, protocol: UDP, nodePort: {udp}}}]}}\n",
            name = self.name,
            spec = self.spec,
            udp = node_port + 1,
        );
        for family in Family::BOTH {
            let _ = write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: {name}-{family}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {family}\n\
                 ports: [{{name: http, port: 8080}}, {{name: dns, port: 5353, protocol: UDP}}]\nendpoints:\n",
                name = self.name,
                family = family.name(),
            );
            for (endpoint, terminates) in endpoints {
                let node = if endpoint.starts_with("pod") { "node-a" } else { "node-b" };
                let _ = writeln!(
                    text,
                    "- {{addresses: [\"{}\"], nodeName: {node}, conditions: {{ready: {}, serving: true, terminating: {terminates}}}}}",
                    address(endpoint, family),
                    !terminates,
                );
            }
        }
        text
    }

    fn file(&self) -> String {
        format!("{}.yaml", self.name)
    }

    /// From a pod, from the node, and from outside by the node port.
    fn paths(&self, family: Family) -> [Path; 3] {
        let vip = paths::cluster_ip(self.number, family);
        let node_port = NODE_PORT + 2 * u16::from(self.number - 71);
        let path = |from, tcp, udp| Path { from, tcp, udp, ..paths::moving(family) };
        let at = SocketAddr::new;
        let node = node_address(family);
        [
            path(Place::Pod(2), at(vip, 80), at(vip, 53)),
            path(Place::Node, at(vip, 80), at(vip, 53)),
            path(Place::Far, at(node, node_port), at(node, node_port + 1)),
        ]
    }
}

#[test]
fn what_led_to_an_endpoint_that_is_gone_ends_and_nothing_else() {
    if !skipped("what_led_to_an_endpoint_that_is_gone_ends_and_nothing_else") {
        play("at-t-gone", |session, change| {
            change(session);
            session.listen(Duration::from_secs(4)).unwrap();
        });
    }
}

#[test]
fn what_went_while_the_daemon_was_dead_ends_when_it_is_back() {
    if !skipped("what_went_while_the_daemon_was_dead_ends_when_it_is_back") {
        play("at-t-missed", |session, change| {
            session.daemon_mut().unwrap().kill().unwrap();
            change(session);
            session.listen(Duration::from_secs(1)).unwrap();
            let config = write_config(session.plan(), None, "").unwrap();
            session.start_daemon(&config, &Objects::Manifests(session.plan().manifests())).unwrap();
            session.daemon_mut().unwrap().wait_ready(Duration::from_secs(20)).unwrap();
            session.listen(Duration::from_secs(4)).unwrap();
        });
    }
}

/// Flows to every Service, held while `around` makes the change.
fn play(prefix: &str, around: impl FnOnce(&mut Session, &dyn Fn(&mut Session))) {
    let _turn = turn();
    let plan = Plan { pods: HEIR, ..Plan::new(prefix) };
    let mut session = ready(&plan);
    let before = session.daemon().unwrap().status().unwrap().services;
    for service in &SERVICES {
        put(&plan, &service.file(), &service.objects(service.before));
    }
    let all = before + SERVICES.len() as u64;
    session.daemon_mut().unwrap().wait_for(Duration::from_secs(10), "to have all", |s| s.services == all).unwrap();

    let bound = bound(&mut session);
    let mut held = Vec::new();
    for service in &SERVICES {
        for path in Family::BOTH.into_iter().flat_map(|family| service.paths(family)) {
            for kind in [JobKind::HoldTcp, JobKind::HoldUdp] {
                let mut job = paths::job(&path, kind, 60.0);
                job.interval_ms = 50;
                if kind == JobKind::HoldTcp {
                    job.timeout_ms = 20_000;
                }
                held.push((service, kind, session.ask(path.from, job).unwrap()));
            }
        }
    }
    session.listen(Duration::from_secs(2)).unwrap();
    let got = std::cell::Cell::new(None);
    around(&mut session, &|session| got.set(Some(change(session))));
    assert_eq!(heard(&plan), got.take().unwrap(), "the pod with the address of pod 1 got something of its");
    assert_eq!(self::bound(&mut session), bound, "a client's next connections go to another endpoint");
    let status = session.daemon().unwrap().status().unwrap();
    session.stop_jobs().unwrap();

    let jobs: Vec<u32> = held.iter().map(|(.., job)| *job).collect();
    let outcomes = session.wait_for(&jobs, Duration::from_secs(30)).unwrap();
    let (mut re_picked, mut reset) = (0, 0);
    for ((service, kind, _), outcome) in held.iter().zip(&outcomes) {
        let what = format!("{} {}: {outcome:?}\n{}", service.name, paths::kind_name(*kind), last_words(&session));
        assert_eq!(outcome.wrong, 0, "{what}");
        let runs_on = matches!((service.name, kind), ("stays", _) | ("shrinks", JobKind::HoldTcp));
        if runs_on {
            re_picked += outcome.moves.len() - 1;
            // What is asked while nobody is there is not answered in time, if it is a datagram.
            let failed_max = if *kind == JobKind::HoldTcp { 0 } else { 8 };
            assert!(outcome.failed <= failed_max && outcome.requests - outcome.failed > 60, "{what}");
        } else if *kind == JobKind::HoldTcp {
            let [failure] = &outcome.failures[..] else { panic!("{what}") };
            assert!(failure.text.contains("reset by peer"), "{what}");
            reset += 1;
        } else {
            check_datagrams(service, outcome, &what);
        }
    }
    assert_eq!(re_picked, 0, "flows of Services to which nothing happened");
    assert_eq!(reset, 3 * 3 * 2);
    // A node port that nobody has any more is the node's own, whose stack resets.
    assert!(status.slow_path.answered["no_connection"] >= reset - 2, "{status:?}");
    assert_even_and_right(&session);
}

/// Datagrams go on to who is there now, or nowhere.
fn check_datagrams(service: &Service, outcome: &Outcome, what: &str) {
    let answered: Vec<&str> = outcome.moves.iter().map(|(_, name)| name.as_str()).collect();
    let expected: &[&str] = match service.name {
        "moves" => &["pod-1", "pod-3"],
        "shrinks" => &["pod-4", "pod-3"],
        _ => &["remote-1"],
    };
    assert_eq!(answered, expected, "{what}");
    if service.name == "empties" {
        assert!(outcome.failures.iter().any(|failure| failure.text.contains("refused")), "{what}");
    }
}

/// Who answers a client that session affinity binds, asked by either protocol.
fn bound(session: &mut Session) -> BTreeMap<(Family, Place), String> {
    let stays = SERVICES.iter().find(|service| service.name == "stays").unwrap();
    let mut bound = BTreeMap::new();
    for path in Family::BOTH.into_iter().flat_map(|family| stays.paths(family)) {
        for kind in [JobKind::Tcp, JobKind::Udp] {
            let mut job = paths::job(&path, kind, 30.0);
            (job.count_max, job.interval_ms, job.timeout_ms) = (20, 5, 10_000);
            let id = session.ask(path.from, job).unwrap();
            let outcome = session.wait_for(&[id], Duration::from_secs(40)).unwrap().remove(0);
            let what = format!("{} from {:?}: {outcome:?}", path.family.name(), path.from);
            let names: Vec<String> = outcome.backends.into_keys().collect();
            let [name] = &names[..] else { panic!("not one endpoint, {what}") };
            let before = bound.insert((path.family, path.from), name.clone());
            assert!(before.is_none_or(|before| before == *name), "another endpoint by UDP, {what}");
        }
    }
    bound
}

/// Puts all that changes into force, the address of pod 1 with another pod included. Returns what that one had heard before.
fn change(session: &mut Session) -> u64 {
    let plan = session.plan().clone();
    // Links first: what their pods' stacks still have to say is not to be heard.
    ip(&plan.node(), &format!("link delete pod{HEIR}\n")).unwrap();
    session.end_agent(Place::Pod(HEIR));
    let heard = heard(&plan);
    let pods = fs::read_to_string(plan.manifests().join("pods.yaml")).unwrap();
    put(&plan, "pods.yaml", &pods.replace("name: pod-1\n", "name: heir\n"));
    fs::remove_file(plan.manifests().join("more-pods.yaml")).unwrap();
    for service in &SERVICES {
        match service.after {
            Some(endpoints) => put(&plan, &service.file(), &service.objects(endpoints)),
            None => fs::remove_file(plan.manifests().join(service.file())).unwrap(),
        }
    }
    ip(&plan.node(), "link delete pod1\n").unwrap();
    session.end_agent(Place::Pod(1));
    session.network().connect_pod_as(HEIR, 1).unwrap();
    heard
}

/// Segments and datagrams that the pod got which gets the address of pod 1.
fn heard(plan: &Plan) -> u64 {
    let counters = counters(&plan.pod(HEIR)).unwrap();
    let of = |name| counters.get(name).copied().unwrap_or(0);
    ["TcpInSegs", "UdpInDatagrams", "UdpNoPorts", "Udp6InDatagrams", "Udp6NoPorts"].into_iter().map(of).sum()
}

/// Writes a manifest as a whole.
fn put(plan: &Plan, name: &str, text: &str) {
    let beside: PathBuf = plan.folder().join("next.yaml");
    fs::write(&beside, text).unwrap();
    replace_file(&plan.manifests(), name, &beside).unwrap();
}
