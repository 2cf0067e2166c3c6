//! What operators and load balancers ask a running daemon: `svc`, `flows`, `drops`, and the HTTP ports.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use atalho_benches::lab::command::run_in;
use atalho_benches::lab::paths::{self, Path, Place};
use atalho_benches::lab::plan::{Family, Plan, node_address, pod_address};
use atalho_benches::lab::session::Session;
use atalho_benches::traffic::client::JobKind;
use serde_json::Value;

use crate::support::{assert_all_paths_work, assert_even_and_right, atalho, ready, skipped, turn};

/// `atalho ARGUMENTS`, asking the lab's daemon.
fn ask(session: &Session, arguments: &[&str]) -> Output {
    let config = session.plan().folder().join("atalho.toml");
    Command::new(atalho()).args(arguments).arg("--config").arg(config).output().unwrap()
}

/// What it prints, which must end with this exit code.
fn said(session: &Session, arguments: &[&str], code: i32) -> String {
    let output = ask(session, arguments);
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn services_flows_and_drops_are_told_as_they_are() {
    if skipped("services_flows_and_drops_are_told_as_they_are") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan::new("at-t-ask"));
    assert_all_paths_work(&mut session, 1.0);
    // Nobody has this Service address: two datagrams end there.
    let nobody = (paths::cluster_ip(250, Family::V4), 80).into();
    let path = Path { from: Place::Pod(3), tcp: nobody, udp: nobody, ..paths::moving(Family::V4) };
    let mut job = paths::job(&path, JobKind::Udp, 30.0);
    (job.interval_ms, job.count_max, job.timeout_ms) = (0, 2, 500);
    let id = session.ask(path.from, job).unwrap();
    session.wait_for(&[id], Duration::from_secs(30)).unwrap();

    let services = lines(&said(&session, &["svc", "-o", "json"], 0));
    let web = services.iter().find(|row| row["service"] == "default/web").expect("default/web");
    let vip = web["vips"].as_array().unwrap().iter().find(|vip| vip["address"] == "10.96.0.10:80").expect("its VIP");
    assert_eq!((&vip["vip"], &vip["protocol"]), (&"ClusterIP".into(), &"TCP".into()));
    assert!(vip["inside"]["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == 3), "{vip}");
    let words = said(&session, &["svc", "web"], 0);
    assert!(words.contains("ClusterIP TCP 10.96.0.10:80") && words.contains("on node-a, this one"), "{words}");
    assert!(said(&session, &["svc"], 0).contains("default/empty:http"));
    assert!(said(&session, &["svc", "default/nobody"], 2).contains("default/nobody"));

    let flows = lines(&said(&session, &["flows", "-o", "json"], 0));
    let in_all = session.daemon().unwrap().status().unwrap().flows;
    assert!(!flows.is_empty() && flows.len() as u64 <= in_all + 100, "{} of {in_all}", flows.len());
    let to_web = lines(&said(&session, &["flows", "-o", "json", "--service", "default/web", "--protocol", "tcp"], 0));
    assert!(!to_web.is_empty() && to_web.len() < flows.len(), "{} of {}", to_web.len(), flows.len());
    for flow in &to_web {
        let service = flow["service"].as_str().unwrap();
        assert!(service.starts_with("default/web:") && flow["protocol"] == "TCP", "{flow}");
        assert_ne!(flow["destination"], flow["new_destination"], "{flow}");
    }
    let pod = pod_address(3, Family::V4).to_string();
    let of_pod = lines(&said(&session, &["flows", "-o", "json", "--pod", "default/pod-3", "--address", &pod], 0));
    assert!(!of_pod.is_empty() && of_pod.iter().any(|flow| flow["in"] == "pod:default/pod-3"), "{of_pod:?}");
    let words = said(&session, &["flows", "--limit", "2"], 0);
    assert!(words.lines().count() == 4 && words.contains("2 shown"), "a head, two flows, an end: {words}");
    assert!(said(&session, &["flows", "--state", "open"], 2).contains("ESTABLISHED"));
    assert!(said(&session, &["flows", "--pod", "default/nobody"], 2).contains("--address"));

    let drops: Value = serde_json::from_str(&said(&session, &["drops", "-o", "json"], 0)).unwrap();
    let unallocated = drops["drops"].as_array().unwrap().iter().find(|drop| drop["reason"] == "no_vip_port");
    assert!(unallocated.is_some_and(|drop| drop["packets"].as_u64() >= Some(2)), "{drops}");
    assert!(said(&session, &["drops"], 0).contains("atalho svc"));
    assert_even_and_right(&session);

    session.daemon_mut().unwrap().terminate().unwrap();
    for command in ["svc", "flows", "drops"] {
        assert!(said(&session, &[command], 2).contains("no daemon"));
    }
}

/// The answer to a GET, head and body; empty if nobody listens.
fn get(namespace: &str, address: std::net::SocketAddr, path: &str) -> String {
    let (host, port) = (address.ip(), address.port());
    let script = format!(
        "exec 3<>/dev/tcp/{host}/{port} && printf 'GET {path} HTTP/1.1\\r\\nHost: node\\r\\nConnection: close\\r\\n\\r\\n' >&3 && timeout 5 cat <&3"
    );
    run_in(namespace, "bash", &["-c", &script]).unwrap_or_default()
}

/// Asks until the answer has all these words.
fn wait_for(namespace: &str, address: std::net::SocketAddr, path: &str, words: &[&str]) -> String {
    let start = Instant::now();
    loop {
        let answer = get(namespace, address, path);
        if words.iter().all(|word| answer.contains(word)) {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{address}{path} never said {words:?}: {answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

const CHECKED: &str = "\
apiVersion: v1
kind: Service
metadata: {name: checked, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.71
  clusterIPs: [10.96.0.71]
  externalTrafficPolicy: Local
  healthCheckNodePort: 32071
  ports: [{name: http, port: 80, protocol: TCP, nodePort: 30071}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: checked-1, namespace: default, labels: {kubernetes.io/service-name: checked}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.1.11], nodeName: node-a}, {addresses: [10.244.2.11], nodeName: node-b}]
";

#[test]
fn a_load_balancer_is_told_of_local_endpoints_and_of_a_node_that_leaves() {
    if skipped("a_load_balancer_is_told_of_local_endpoints_and_of_a_node_that_leaves") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-health");
    let mut session = ready(&plan);
    let (node, far) = (plan.node(), plan.far());
    let manifest = plan.manifests().join("checked.yaml");
    std::fs::write(&manifest, CHECKED).unwrap();
    let checked = (node_address(Family::V4), 32_071).into();
    let answer = wait_for(&far, checked, "/", &["200 OK", "\"localEndpoints\": 1", "\"serviceProxyHealthy\": true"]);
    assert!(answer.to_lowercase().contains("x-load-balancing-endpoint-weight: 1"), "{answer}");
    std::fs::write(&manifest, CHECKED.replace("nodeName: node-a}", "nodeName: node-c}")).unwrap();
    wait_for(&far, checked, "/healthz", &["503", "\"localEndpoints\": 0"]);
    std::fs::remove_file(&manifest).unwrap();
    let start = Instant::now();
    while !get(&far, checked, "/").is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "the port stays open without its Service");
        std::thread::sleep(Duration::from_millis(100));
    }

    let local = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    wait_for(&node, local(10_256), "/healthz", &["200 OK", "\"nodeEligible\":true"]);
    assert!(get(&node, local(10_249), "/proxyMode").ends_with("atalho"));
    let metrics = get(&node, local(10_249), "/metrics");
    assert!(metrics.contains("\nkubeproxy_proxy_healthz_total{code=\"200\"}"), "{metrics}");
    // The node is about to leave: no new clients, but no restart either.
    let nodes = plan.manifests().join("nodes.yaml");
    let text = std::fs::read_to_string(&nodes).unwrap();
    let taint = "taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]";
    let tainted = text.replacen("\nspec:\n", &format!("\nspec:\n  {taint}\n"), 1);
    assert_ne!(tainted, text, "node-a has a spec");
    std::fs::write(&nodes, tainted).unwrap();
    wait_for(&node, local(10_256), "/healthz", &["503", "\"nodeEligible\":false"]);
    assert!(get(&node, local(10_256), "/livez").contains("200 OK"));
    assert_all_paths_work(&mut session, 0.5);
}
