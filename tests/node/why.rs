//! `atalho why` asks the running daemon, and traffic does what it says.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{
    Family, OUTSIDE_PORT, Plan, REMOTE_PODS, node_address, outside_address, pod_address, remote_pod_address,
};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::{JobKind, Outcome};
use serde_json::{Value, json};

use crate::support::{assert_even_and_right, atalho, ready, skipped, turn};

/// The keys of an answer.
const KEYS: [&str; 11] =
    ["id", "verdict", "reason", "service", "vip", "backends", "chosen", "snat", "source", "egress", "policy"];

/// A first packet, what is to be said of it, and how that looks to the one who sends it.
struct Case {
    name: &'static str,
    from: Place,
    kind: JobKind,
    source: IpAddr,
    target: SocketAddr,
    verdict: &'static str,
    reason: Option<&'static str>,
    service: Option<&'static str>,
    vip: Option<&'static str>,
    seen: Seen,
}

/// What the sender meets.
enum Seen {
    /// Answered by all of these and by nobody else; servers see this source.
    Answers(BTreeSet<String>, IpAddr),
    Refusal,
    Silence,
}

fn cases(family: Family) -> Vec<Case> {
    let (node, outside) = (node_address(family), outside_address(family));
    let vip = |last, port| SocketAddr::new(paths::cluster_ip(last, family), port);
    let pod = |number| pod_address(number, family);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let case = |name, (from, source), (kind, target), verdict, reason, service, vip, seen| Case {
        name,
        from,
        kind,
        source,
        target,
        verdict,
        reason,
        service,
        vip,
        seen,
    };
    let pod3 = (Place::Pod(3), pod(3));
    let far = (Place::Far, outside);
    let web = names(&["pod-1", "pod-2", "remote-1"]);
    let gate = names(&["pod-2", "remote-1"]);
    vec![
        case(
            "a ClusterIP",
            pod3,
            (JobKind::Tcp, vip(10, 80)),
            "forward",
            None,
            Some("default/web:http"),
            Some("ClusterIP"),
            Seen::Answers(web, pod(3)),
        ),
        case(
            "a node port",
            far,
            (JobKind::Udp, SocketAddr::new(node, 30053)),
            "forward",
            None,
            Some("default/gate:dns"),
            Some("NodePort"),
            Seen::Answers(gate, node),
        ),
        case(
            "a pod's way out",
            pod3,
            (JobKind::Udp, SocketAddr::new(outside, OUTSIDE_PORT)),
            "forward",
            None,
            None,
            None,
            Seen::Answers(names(&["outside"]), node),
        ),
        case(
            "a pod to a pod",
            pod3,
            (JobKind::Tcp, SocketAddr::new(pod(1), 8080)),
            "forward",
            None,
            None,
            None,
            Seen::Answers(names(&["pod-1"]), pod(3)),
        ),
        case(
            "no endpoint",
            pod3,
            (JobKind::Tcp, vip(60, 80)),
            "reject",
            Some("no_endpoint"),
            Some("default/empty:http"),
            Some("ClusterIP"),
            Seen::Refusal,
        ),
        case(
            "an unknown port",
            (Place::Node, node),
            (JobKind::Udp, vip(10, 81)),
            "reject",
            Some("unknown_service_port"),
            None,
            None,
            Seen::Refusal,
        ),
        case(
            "an unallocated address",
            pod3,
            (JobKind::Tcp, vip(99, 80)),
            "drop",
            Some("no_vip_port"),
            None,
            None,
            Seen::Silence,
        ),
    ]
}

#[test]
fn what_why_says_is_what_traffic_does() {
    if skipped("what_why_says_is_what_traffic_does") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-why"));
    let cases: Vec<(Family, Case)> =
        Family::BOTH.into_iter().flat_map(|family| cases(family).into_iter().map(move |case| (family, case))).collect();
    let lines: Vec<String> = cases.iter().enumerate().map(|(number, (_, case))| line(number, case)).collect();
    let output = why(&session, &["--batch", "-", "-o", "json"], &lines.join("\n"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(answers.len(), cases.len(), "{said}");

    let jobs: Vec<u32> = cases.iter().map(|(family, case)| ask(&mut session, *family, case)).collect();
    let outcomes = session.wait_for(&jobs, Duration::from_secs(60)).unwrap();
    for (number, (((family, case), answer), outcome)) in cases.iter().zip(&answers).zip(&outcomes).enumerate() {
        let what = format!("{} {}: {answer}", case.name, family.name());
        let written: BTreeSet<&str> = answer.as_object().expect(&what).keys().map(String::as_str).collect();
        assert_eq!(written, KEYS.into(), "{what}");
        assert_eq!(answer["id"], json!(number.to_string()), "{what}");
        assert_eq!(answer["verdict"], json!(case.verdict), "{what}");
        assert_eq!(answer["reason"], json!(case.reason), "{what}");
        assert_eq!(answer["policy"], Value::Null, "{what}");
        if case.service.is_some() || matches!(case.seen, Seen::Answers(..)) {
            assert_eq!(answer["service"], json!(case.service), "{what}");
            assert_eq!(answer["vip"], json!(case.vip), "{what}");
        }
        assert_seen(case, answer, outcome, &format!("{what}\n{outcome:?}"));
    }
    assert_even_and_right(&session);
}

/// Traffic met what was said, and what was said is what traffic met.
fn assert_seen(case: &Case, answer: &Value, outcome: &Outcome, what: &str) {
    let said: BTreeSet<String> = answer["backends"]
        .as_array()
        .expect(what)
        .iter()
        .map(|backend| identity(backend["address"].as_str().expect(what)))
        .collect();
    let (names, source) = match &case.seen {
        Seen::Answers(names, source) => (names, source),
        unanswered => {
            let text = if matches!(unanswered, Seen::Refusal) { "refused" } else { "no answer in time" };
            let met = outcome.failures.iter().filter(|failure| failure.text.contains(text)).count() as u64;
            assert!(outcome.requests > 0 && met == outcome.requests, "not all {text}: {what}");
            assert!(said.is_empty() && answer["chosen"].is_null() && answer["egress"].is_null(), "{what}");
            return;
        }
    };
    assert_eq!((outcome.failed, outcome.wrong), (0, 0), "{what}");
    assert_eq!(outcome.backends.keys().cloned().collect::<BTreeSet<_>>(), *names, "{what}");
    assert_eq!(outcome.sources.keys().collect::<Vec<_>>(), [&source.to_string()], "{what}");
    let is_rewritten = *source != case.source;
    assert_eq!(answer["snat"], json!(is_rewritten), "{what}");
    assert_eq!(answer["source"], json!(is_rewritten.then(|| source.to_string())), "{what}");
    let egress = |name: &str| match name.strip_prefix("pod-") {
        Some(_) => format!("pod:default/{name}"),
        None => "uplink".to_owned(),
    };
    if case.service.is_some() {
        assert_eq!(said, *names, "{what}");
        let chosen = identity(answer["chosen"].as_str().expect(what));
        assert!(names.contains(&chosen), "{what}");
        assert_eq!(answer["egress"], json!(egress(&chosen)), "{what}");
    } else {
        assert!(said.is_empty() && answer["chosen"].is_null(), "{what}");
        assert_eq!(answer["egress"], json!(egress(names.first().expect(what))), "{what}");
    }
}

#[test]
fn a_single_question_is_answered_in_words_and_a_bad_one_refused() {
    if skipped("a_single_question_is_answered_in_words_and_a_bad_one_refused") {
        return;
    }
    let mut session = ready(&Plan::new("at-t-words"));
    let expect = |session: &Session, arguments: &[&str], code: i32, words: &[&str]| {
        let output = why(session, arguments, "");
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is missing in: {said}");
        }
    };
    let web = ["TCP", "forward, translated to", "default/web:http", "ClusterIP", "10.244.2.11:8080 on node-b", "kept"];
    expect(&session, &["tcp", "10.244.1.13:40000", "10.96.0.10:80"], 0, &web);
    let gate = ["default/gate:http", "NodePort", "rewritten to fd00:168::2"];
    expect(&session, &["tcp", "[2001:db8:203::10]:40000", "[fd00:168::2]:30080"], 0, &gate);
    let empty = ["reject", "no_endpoint", "default/empty:http3", "pod:default/pod-1"];
    expect(&session, &["udp", "10.244.1.11", "10.96.0.60:443", "--in", "pod:default/pod-1"], 0, &empty);
    expect(&session, &["udp", "10.244.1.12", "10.96.0.10:443", "--in", "pod:default/pod-1"], 0, &["wrong_source"]);
    expect(&session, &["icmp", "10.244.1.11", "10.96.0.10"], 0, &["echo_to_vip"]);
    expect(&session, &["udp", "nowhere", "10.96.0.10:443"], 2, &["source", "nowhere"]);

    // A bad line has its answer in its place, and the others theirs.
    let batch = "{\"id\":\"a\",\"protocol\":\"TCP\",\"src_ip\":\"10.244.1.13\",\"dst_ip\":\"10.96.0.10\",\"dst_port\":80}\n\
                 {\"id\":\"b\",\"protocol\":\"GRE\",\"src_ip\":\"10.244.1.13\",\"dst_ip\":\"10.96.0.10\"}\n";
    let output = why(&session, &["--batch", "-", "-o", "json"], batch);
    let said = String::from_utf8(output.stdout).unwrap();
    let [good, bad] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(good.contains("\"id\":\"a\"") && good.contains("default/web:http"), "{good}");
    assert!(bad.contains("\"id\":\"b\"") && bad.contains("error") && bad.contains("GRE"), "{bad}");

    // Without a daemon there is nobody to ask, and that is said.
    session.daemon_mut().unwrap().terminate().unwrap();
    expect(&session, &["tcp", "10.244.1.13", "10.96.0.10:80"], 2, &["node-a", "daemon"]);
}

/// The command, asking the lab's daemon.
fn why(session: &Session, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(atalho())
        .arg("why")
        .arg("--config")
        .arg(session.plan().folder().join("atalho.toml"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One who does not read it says why by his exit code.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// A line of a batch. It does not say where the packet comes in: that follows from its source.
fn line(number: usize, case: &Case) -> String {
    let protocol = if case.kind == JobKind::Udp { "UDP" } else { "TCP" };
    json!({
        "id": number.to_string(),
        "protocol": protocol,
        "src_ip": case.source,
        "src_port": 40_000,
        "dst_ip": case.target.ip(),
        "dst_port": case.target.port(),
    })
    .to_string()
}

/// The traffic that the case is about: enough for every backend to be met.
fn ask(session: &mut Session, family: Family, case: &Case) -> u32 {
    let path = Path { from: case.from, tcp: case.target, udp: case.target, ..paths::moving(family) };
    let mut job = paths::job(&path, case.kind, 30.0);
    (job.interval_ms, job.count_max, job.timeout_ms) = match case.seen {
        Seen::Answers(..) => (10, 80, 10_000),
        Seen::Refusal => (100, 3, 5000),
        Seen::Silence => (0, 2, 1000),
    };
    session.ask(case.from, job).unwrap()
}

/// The name under which an endpoint serves.
fn identity(endpoint: &str) -> String {
    let address = endpoint.parse::<SocketAddr>().unwrap_or_else(|_| panic!("{endpoint} is no endpoint")).ip();
    let local = (1..=4)
        .map(|number| (format!("pod-{number}"), pod_address(number, Family::V4), pod_address(number, Family::V6)));
    let remote = (1..=REMOTE_PODS).map(|number| {
        (format!("remote-{number}"), remote_pod_address(number, Family::V4), remote_pod_address(number, Family::V6))
    });
    local
        .chain(remote)
        .find(|(_, v4, v6)| address == *v4 || address == *v6)
        .map_or_else(|| endpoint.to_owned(), |(name, ..)| name)
}
