//! From files to what the workers read, and back through the socket and HTTP.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use atalho_control::dataplane::InForce;
use atalho_control::start::Source;
use atalho_control::status::{self, StatusOptions};
use atalho_engine::conntrack::{Direction, NewConnection, Rewrite, Segment};
use atalho_engine::flow::{FlowKey, Protocol};
use atalho_engine::tables::Port;
use atalho_layout::ClaimKind;
use serde_json::json;

use crate::bench::{Bench, until};
use crate::namespace::{in_namespace, ip};
use crate::objects::{SERVICE, slice};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default}
spec: {nodeName: node-a, containers: []}
status: {phase: Running, podIP: 10.244.1.10, podIPs: [{ip: 10.244.1.10}]}
";

/// Status line and body.
fn get(port: u16, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node-a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn files_become_tables_and_changes_end_flows() {
    in_namespace(|| {
        let bench = Bench::new();
        bench.write("service.yaml", SERVICE);
        bench.write("slice.yaml", &slice(&["10.244.2.7", "10.244.2.8"]));
        let control = bench.start().unwrap();
        assert!(control.wait_ready(Duration::from_secs(5)), "{}", bench.status());

        // The tables, the kernel side, the node's routes.
        let both: [IpAddr; 2] = ["10.244.2.7".parse().unwrap(), "10.244.2.8".parse().unwrap()];
        assert_eq!(bench.endpoints(Protocol::Tcp, 80), both);
        let held = bench.kernel.0.lock().unwrap().clone();
        assert!(
            held.claims.iter().any(|(key, kind)| {
                atalho_engine::flow::unmapped(key.addr) == both_vip() && *kind == ClaimKind::Vip
            })
        );
        assert_eq!(held.ranges.len(), 1);
        until("the route", || ip("route get 10.96.0.10").contains("dev at-f1"));
        // The gateway is a next hop that the kernel resolves.
        until("the gateway's MAC", || {
            let hops = (1..256).filter_map(|i| bench.next_hops.get(i));
            hops.into_iter().any(|hop| hop.ifindex == bench.uplink && hop.destination.is_some())
        });

        // Who asks is answered.
        let status = bench.status();
        assert_eq!(
            (&status["state"], &status["services"], &status["endpoints"]),
            (&json!("ready"), &json!(1), &json!(2))
        );
        assert_eq!(get(10256, "/healthz").0, "HTTP/1.1 200 OK");
        assert!(get(10256, "/livez").1.contains("lastUpdated"));
        assert_eq!(get(10249, "/readyz"), ("HTTP/1.1 200 OK".into(), "ok".into()));
        assert_eq!(get(10249, "/proxyMode").1, "atalho");
        let metrics = get(10249, "/metrics").1;
        assert!(metrics.contains("atalho_dropped_packets_total{worker=\"0\",reason=\"no_route\"} 1"), "{metrics}");
        let why = json!({"ask": "why", "queries": [{"id": "1", "protocol": "TCP", "src_ip": "198.51.100.1", "src_port": 1, "dst_ip": "10.96.0.10", "dst_port": 80}]});
        let answer = bench.ask(&why);
        assert_eq!(answer["answers"][0]["service"], "default/web:http", "{answer}");

        // An endpoint is replaced: UDP to it ends at once, and so does TCP, for no slice has it any more.
        bench.connect(Protocol::Udp, 53, 5353);
        bench.connect(Protocol::Tcp, 80, 8080);
        let triggered = slice(&["10.244.2.8", "10.244.2.9"]).replace(
            "name: web-1,",
            "name: web-1, annotations: {endpoints.kubernetes.io/last-change-trigger-time: '2026-01-02T03:04:05Z'},",
        );
        bench.write("slice.yaml", &triggered);
        until("the new endpoint", || bench.endpoints(Protocol::Udp, 53).contains(&"10.244.2.9".parse().unwrap()));
        bench.work_until(0);
        let status = bench.status();
        assert!(status["change_to_use_ms"]["last"].as_f64().is_some_and(|ms| ms < 1000.0), "{status}");
        assert_eq!(status["flows_ended"], 2);
        let programming = "kubeproxy_network_programming_duration_seconds_count 1";
        assert!(get(10249, "/metrics").1.contains(programming), "the slice's trigger time is measured once");
        assert!(status["published"].as_u64() >= Some(2));

        // Ended means not ready any more: TCP runs on while the slice has the endpoint.
        bench.write("slice.yaml", &slice(&["10.244.2.7", "10.244.2.9"]));
        until("the old endpoint", || bench.endpoints(Protocol::Tcp, 80).contains(&"10.244.2.7".parse().unwrap()));
        bench.connect(Protocol::Tcp, 80, 8080);
        bench.connect(Protocol::Udp, 53, 5353);
        let unready = slice(&["10.244.2.7", "10.244.2.9"]).replacen("ready: true", "ready: false, serving: false", 1);
        bench.write("slice.yaml", &unready);
        bench.work_until(1);
        std::thread::sleep(Duration::from_millis(300));
        bench.work_until(1);

        let begin = Instant::now();
        control.shutdown();
        assert!(begin.elapsed() < Duration::from_millis(600), "{:?}", begin.elapsed());
        assert_eq!(bench.kernel.0.lock().unwrap().claims.len(), held.claims.len(), "a successor finds every claim");
        assert!(ip("route get 10.96.0.10").contains("dev at-f1"));
    });
}

fn both_vip() -> IpAddr {
    "10.96.0.10".parse().unwrap()
}

#[test]
fn a_file_that_is_written_slowly_in_place_takes_nothing_down() {
    in_namespace(|| {
        let bench = Bench::new();
        let with = |endpoint: &str| format!("{SERVICE}---\n{}", slice(&["10.244.2.7", endpoint]));
        bench.write("all.yaml", &with("10.244.2.8"));
        let control = bench.start().unwrap();
        assert!(control.wait_ready(Duration::from_secs(5)), "{}", bench.status());
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut file = std::fs::File::create(bench.folder.path().join("objects/all.yaml")).unwrap();
        for line in with("10.244.2.9").split_inclusive('\n') {
            file.write_all(line.as_bytes()).unwrap();
            let pause = Instant::now() + Duration::from_millis(100);
            while Instant::now() < pause {
                assert_eq!(bench.endpoints(Protocol::Tcp, 80), [of("10.244.2.7"), of("10.244.2.8")], "before {line:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        until("the new endpoint", || bench.endpoints(Protocol::Tcp, 80) == [of("10.244.2.7"), of("10.244.2.9")]);
        control.shutdown();
    });
}

#[test]
fn a_bad_object_degrades_and_the_rest_works() {
    in_namespace(|| {
        let (bench, control) = Bench::serving();
        let options = StatusOptions { run_dir: bench.run_dir(), node: "node-a".into(), json: false };
        let mut out = Vec::new();
        assert_eq!(status::run(&options, &mut out), 0, "{}", String::from_utf8_lossy(&out));

        bench.write("bad.yaml", &SERVICE.replace("web", "bad").replace("10.96.0.10", "10.96.0.999"));
        until("the refusal", || bench.status()["state"] == "degraded");
        let mut out = Vec::new();
        assert_eq!(status::run(&options, &mut out), 1);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("bad.yaml:") && text.contains("10.96.0.999"), "{text}");
        assert_eq!(get(10256, "/healthz").0, "HTTP/1.1 200 OK");
        assert_eq!(bench.endpoints(Protocol::Tcp, 80).len(), 1);

        std::fs::remove_file(bench.folder.path().join("objects/bad.yaml")).unwrap();
        until("no refusal", || bench.status()["state"] == "ready");

        // A second daemon of the same node is refused; a folder that is not there is, too.
        let error = bench.start().err().unwrap();
        assert!(error.contains("another daemon") && error.contains("node-a"), "{error}");
        control.shutdown();
        assert_eq!(status::run(&options, &mut Vec::new()), 2, "nobody answers any more");
        let error = bench.start_from(Source::Manifests(Path::new("/nowhere").into())).err().unwrap();
        assert!(error.contains("/nowhere"), "{error}");
    });
}

#[test]
fn a_pod_comes_with_its_port_and_goes_with_its_flows() {
    in_namespace(|| {
        let bench = Bench::new();
        bench.write("service.yaml", SERVICE);
        bench.write("slice.yaml", &slice(&["10.244.2.7"]));
        bench.write("pod.yaml", POD);
        let control = bench.start().unwrap();
        assert!(control.wait_ready(Duration::from_secs(5)));
        // The pod's object is there, its port is not: said, and no claim made.
        assert_eq!(bench.kernel.0.lock().unwrap().pods, []);

        ip("link add pod1 type veth peer name pod1-in");
        ip("link set pod1 up");
        ip("link set pod1-in up");
        ip("route add 10.244.1.10/32 dev pod1");
        let index: u32 = ip("-o link show pod1").split(':').next().unwrap().trim().parse().unwrap();
        until("the pod's port", || bench.kernel.0.lock().unwrap().pods.iter().any(|(i, _)| *i == index));
        until("the pod in the tables", || matches!(bench.snapshot.load().ports.get(&index), Some(Port::Pod { .. })));
        let has_pod_claim = || bench.kernel.0.lock().unwrap().claims.iter().any(|(_, kind)| *kind == ClaimKind::Pod);
        assert!(has_pod_claim());
        // The kernel is asked for its MAC; nobody answers here.
        until("the neighbour", || ip("neigh show dev pod1").contains("10.244.1.10"));
        let status = bench.status();
        assert!(status["unresolved"].to_string().contains("10.244.1.10 on pod1"), "{status}");

        let pod: IpAddr = "10.244.1.10".parse().unwrap();
        let key = FlowKey {
            src: pod,
            dst: "198.51.100.1".parse().unwrap(),
            src_port: 1,
            dst_port: 2,
            protocol: Protocol::Tcp,
        };
        let direction = |key: FlowKey, ingress| Direction {
            key,
            rewrite: Rewrite { src: key.src, dst: key.dst, src_port: key.src_port, dst_port: key.dst_port },
            next_hop: 1,
            ingress,
        };
        let new = NewConnection {
            original: direction(key, index),
            reply: direction(key.reversed(), bench.uplink),
            is_service: false,
            first: Segment::Other,
        };
        bench.table.insert(0, &bench.epochs, &new, 1).unwrap();
        ip("link del pod1");
        until("no port", || bench.kernel.0.lock().unwrap().pods.is_empty());
        until("no claim", || !has_pod_claim());
        bench.work_until(0);
        // What was removed becomes usable again without anybody's doing.
        until("the slot's grace period", || !bench.epochs.waits());

        // An on-link host that a packet asks for is resolved; nobody else would ask for it.
        bench.asks.send("192.0.2.77".parse().unwrap()).unwrap();
        until("the asked host", || ip("neigh show dev up0").contains("192.0.2.77"));
        control.shutdown();
    });
}

#[test]
fn an_unreachable_server_is_said_and_waited_for() {
    in_namespace(|| {
        let bench = Bench::new();
        let kubeconfig = bench.folder.path().join("kubeconfig");
        std::fs::write(
            &kubeconfig,
            "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n- name: a\n  cluster: {server: \
             'http://127.0.0.1:6443'}\nusers:\n- {name: a, user: {}}\ncontexts:\n- {name: a, context: {cluster: a, user: a}}\n",
        )
        .unwrap();
        let control = bench.start_from(Source::Api { kubeconfig: Some(kubeconfig) }).unwrap();
        until("the trouble", || bench.status()["api"].is_string());
        let status = bench.status();
        assert_eq!(status["state"], "starting");
        assert!(status["api"].as_str().unwrap().contains("cannot be reached"), "{status}");
        assert!(status["waiting_for"].to_string().contains("EndpointSlice"), "{status}");
        assert_eq!(get(10249, "/readyz").0, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(get(10256, "/healthz").0, "HTTP/1.1 503 Service Unavailable");
        // Nothing is published, nothing is claimed: the node's traffic is as it was.
        assert_eq!(bench.snapshot.load().generation, 0);
        assert_eq!(*bench.kernel.0.lock().unwrap(), InForce::default());
        assert!(!control.is_ready());
        control.shutdown();
    });
}

#[test]
fn a_taken_port_is_a_fault_and_not_the_end() {
    in_namespace(|| {
        let bench = Bench::new();
        let taken = std::net::TcpListener::bind("127.0.0.1:10249").unwrap();
        let control = bench.start().unwrap();
        assert!(control.wait_ready(Duration::from_secs(5)));
        until("the fault", || bench.status()["faults"].to_string().contains("127.0.0.1:10249"));
        drop(taken);
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", 10249)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(8), "the port is not tried again");
            std::thread::sleep(Duration::from_millis(50));
        }
        until("no fault", || bench.status()["state"] == "ready");
        control.shutdown();
    });
}
