mod services;

use super::*;

const OBJECTS: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: [10.244.0.0/24, "fd44:0::/64"]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: InternalIP, address: "fd00::2"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.3}]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [172.30.0.0/16, "fd96::/112"]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.0.5}, {ip: "fd44::5"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.0.7}, {ip: "fd44::7"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIPs: [172.30.0.41, "fd96::41"]
  ports: [{name: http, port: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: NodePort
  clusterIP: 172.30.0.42
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  ports: [{port: 80, nodePort: 30081}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: 172.30.0.43, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.7], nodeName: node-b}
- {addresses: [10.244.1.8], nodeName: node-b, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.244.1.9], nodeName: node-b, conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ["fd44::7"], nodeName: node-a}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: local-4, labels: {kubernetes.io/service-name: local}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.7], nodeName: node-b}]
"#;

/// A folder with `objects`, and the options that ask it.
struct Asked {
    folder: tempfile::TempDir,
    options: WhyOptions,
    batch: PathBuf,
}

impl Asked {
    fn new(objects: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifests = folder.path().join("objects");
        std::fs::create_dir(&manifests).unwrap();
        std::fs::write(manifests.join("all.yaml"), objects).unwrap();
        let options = WhyOptions { manifests: Some(manifests), node: Some("node-a".into()), ..WhyOptions::default() };
        Self { batch: folder.path().join("batch.jsonl"), folder, options }
    }

    fn with(objects: &str, config: &str) -> Self {
        let mut asked = Self::new(objects);
        let path = asked.folder.path().join("config.toml");
        std::fs::write(&path, config).unwrap();
        asked.options.config = Some(path);
        asked
    }

    /// Exit code and lines of a batch.
    fn batch(&self, lines: &str) -> (u8, Vec<String>) {
        std::fs::write(&self.batch, lines).unwrap();
        let options = WhyOptions { batch: Some(self.batch.clone()), json: true, ..self.options.clone() };
        self.run(&options)
    }

    fn words(&self, words: [&str; 3], port: Option<&str>) -> (u8, Vec<String>) {
        let options = WhyOptions {
            query: Some(words.map(str::to_owned).to_vec()),
            port: port.map(str::to_owned),
            ..self.options.clone()
        };
        self.run(&options)
    }

    fn run(&self, options: &WhyOptions) -> (u8, Vec<String>) {
        let mut out = Vec::new();
        let code = run(options, |_, _| Err("no daemon here".to_owned()), &mut out);
        (code, String::from_utf8(out).unwrap().lines().map(str::to_owned).collect())
    }

    /// verdict, reason, service, vip, chosen, source, egress of one packet.
    fn short(&self, query: &str) -> String {
        let (code, lines) = self.batch(query);
        assert_eq!((code, lines.len()), (0, 1), "{lines:?}");
        let a: Answer = serde_json::from_str(&lines[0]).unwrap();
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let verdict = format!("{:?}", a.verdict).to_lowercase();
        let parts = [text(a.reason), text(a.service), text(a.vip), text(a.chosen), text(a.source), text(a.egress)];
        format!("{verdict} {}", parts.join(" "))
    }
}

fn line(protocol: &str, src: &str, dst: &str, port: u16, way: &str) -> String {
    let way = if way.is_empty() { String::new() } else { format!(",\"in\":\"{way}\"") };
    format!(r#"{{"protocol":"{protocol}","src_ip":"{src}","src_port":40000,"dst_ip":"{dst}","dst_port":{port}{way}}}"#)
}

#[test]
fn the_answer_has_exactly_the_documented_fields_in_their_order() {
    let asked = Asked::new(OBJECTS);
    let query =
        r#"{"id":"1","protocol":"TCP","src_ip":"10.244.0.5","src_port":34567,"dst_ip":"172.30.0.41","dst_port":80}"#;
    let expected = r#"{"id":"1","verdict":"forward","reason":null,"service":"default/web:http","vip":"ClusterIP","backends":[{"address":"10.244.1.7:8080","weight":1,"node":"node-b","local":false}],"chosen":"10.244.1.7:8080","snat":false,"source":null,"egress":"uplink","policy":null}"#;
    assert_eq!(asked.batch(query), (0, vec![expected.to_owned()]));
}

#[test]
fn packets_meet_the_object_that_decides() {
    let asked = Asked::new(OBJECTS);
    for (query, expected) in [
        // ClusterIP, from pod, node and outside
        (
            line("TCP", "10.244.0.5", "172.30.0.41", 80, ""),
            "forward - default/web:http ClusterIP 10.244.1.7:8080 - uplink",
        ),
        (
            line("TCP", "fd44::5", "fd96::41", 80, ""),
            "forward - default/web:http ClusterIP [fd44::7]:8080 - pod:default/web-1",
        ),
        (
            line("TCP", "192.168.0.2", "172.30.0.41", 80, ""),
            "forward - default/web:http ClusterIP 10.244.1.7:8080 192.168.0.2 uplink",
        ),
        (
            line("TCP", "203.0.113.9", "172.30.0.41", 80, ""),
            "forward - default/web:http ClusterIP 10.244.1.7:8080 192.168.0.2 uplink",
        ),
        // a pod to itself
        (
            line("TCP", "fd44::7", "fd96::41", 80, ""),
            "forward - default/web:http ClusterIP [fd44::7]:8080 fd00::2 pod:default/web-1",
        ),
        // node ports
        (
            line("TCP", "203.0.113.9", "192.168.0.2", 30080, ""),
            "forward - default/web:http NodePort 10.244.1.7:8080 192.168.0.2 uplink",
        ),
        (
            line("TCP", "10.244.0.5", "192.168.0.2", 30080, ""),
            "forward - default/web:http NodePort 10.244.1.7:8080 192.168.0.2 uplink",
        ),
        (
            line("TCP", "203.0.113.9", "192.168.0.2", 30081, ""),
            "drop no_local_endpoint default/local:80 NodePort - - -",
        ),
        (
            line("TCP", "10.244.0.5", "192.168.0.2", 30081, ""),
            "forward - default/local:80 NodePort 10.244.1.7:8080 - uplink",
        ),
        (line("TCP", "10.244.0.5", "172.30.0.42", 80, ""), "drop no_local_endpoint default/local:80 ClusterIP - - -"),
        // nobody there
        (line("UDP", "10.244.0.5", "172.30.0.43", 53, ""), "reject no_endpoint default/empty:53 ClusterIP - - -"),
        (line("TCP", "10.244.0.5", "172.30.0.41", 81, ""), "reject unknown_service_port - - - - -"),
        (line("UDP", "10.244.0.5", "172.30.0.41", 80, ""), "reject unknown_service_port - - - - -"),
        (line("TCP", "10.244.0.5", "172.30.9.9", 80, ""), "drop no_vip_port - - - - -"),
        (line("ICMP", "10.244.0.5", "172.30.0.41", 0, ""), "reject echo_to_vip - - - - -"),
        // no Service
        (line("TCP", "10.244.0.5", "10.244.0.7", 80, ""), "forward - - - - - pod:default/web-1"),
        (line("TCP", "10.244.0.5", "10.244.1.7", 80, ""), "forward - - - - - uplink"),
        (line("TCP", "10.244.0.5", "198.51.100.1", 80, ""), "forward - - - - 192.168.0.2 uplink"),
        (line("ICMP", "fd44::5", "fd44::7", 0, ""), "forward - - - - - pod:default/web-1"),
        (line("TCP", "10.244.1.9", "10.244.0.7", 80, ""), "forward - - - - - pod:default/web-1"),
        // not ours
        (line("TCP", "203.0.113.9", "192.168.0.2", 22, ""), "pass - - - - - -"),
        (line("TCP", "203.0.113.9", "192.168.0.3", 30080, ""), "pass - - - - - -"),
        (line("TCP", "10.244.0.5", "192.168.0.2", 22, ""), "pass - - - - - -"),
        (line("TCP", "192.168.0.2", "198.51.100.1", 443, ""), "pass - - - - - -"),
        (line("TCP", "127.0.0.1", "127.0.0.1", 30080, ""), "pass - - - - - -"),
        // where it comes in, said
        (line("TCP", "10.244.0.5", "192.168.0.2", 22, "pod:default/web-1"), "drop wrong_source - - - - -"),
        (line("TCP", "10.244.0.5", "172.30.0.41", 80, "uplink"), "drop martian - - - - -"),
        (line("TCP", "10.244.0.5", "172.30.0.41", 80, "pod:shop/nobody"), "drop unknown_port - - - - -"),
    ] {
        assert_eq!(asked.short(&query), expected, "{query}");
    }
}

#[test]
fn the_scheduler_that_is_configured_chooses() {
    let objects = OBJECTS.replace("{ready: false, serving: true, terminating: true}", "{ready: true}");
    let chosen_of = |scheduler: &str, queries: Vec<String>| {
        let mut asked = Asked::new(&objects);
        let config = asked.folder.path().join("atalho.toml");
        std::fs::write(&config, format!("[service]\nscheduler = \"{scheduler}\"\n")).unwrap();
        asked.options.config = Some(config);
        let (code, lines) = asked.batch(&queries.join("\n"));
        assert_eq!((code, lines.len()), (0, queries.len()), "{lines:?}");
        let mut chosen = Vec::new();
        for line in lines {
            let answer: Answer = serde_json::from_str(&line).unwrap();
            let backends: Vec<&str> = answer.backends.iter().map(|backend| backend.address.as_str()).collect();
            assert_eq!(backends, ["10.244.1.7:8080", "10.244.1.8:8080"], "{scheduler}");
            chosen.push(answer.chosen.unwrap());
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    };
    let query = |source: String, port: u32| {
        format!(r#"{{"protocol":"TCP","src_ip":"{source}","src_port":{port},"dst_ip":"172.30.0.41","dst_port":80}}"#)
    };
    let of_ports = || (0..32).map(|i| query("10.244.0.5".into(), 40_000 + i)).collect();
    let of_sources = || (0..32).map(|i| query(format!("10.244.1.{}", 100 + i), 40_000)).collect();
    let both = ["10.244.1.7:8080", "10.244.1.8:8080"];
    // Maglev goes by the whole flow. A draw does not, and to be asked twice without another answer it goes by the port here.
    assert_eq!(chosen_of("maglev", of_ports()), both);
    assert_eq!(chosen_of("maglev", of_sources()), both);
    assert_eq!(chosen_of("random", of_ports()), both);
    assert_eq!(chosen_of("random", of_sources()).len(), 1);
}

#[test]
fn bad_lines_are_answered_in_their_place_with_line_and_field() {
    let asked = Asked::new(OBJECTS);
    let good = line("TCP", "10.244.0.5", "172.30.0.41", 80, "");
    let lines = [
        good.as_str(),
        r#"{"id":7,"protocol":"TCP","src_ip":"10.0.0.300","dst_ip":"10.0.0.1","dst_port":1}"#,
        "",
        r#"{"protocol":"QUIC","src_ip":"10.0.0.3","dst_ip":"10.0.0.1","dst_port":1}"#,
        r#"{"protocol":"TCP","src_ip":"10.0.0.3","dst_ip":"10.0.0.1","dst_port":70000}"#,
        r#"{"protocol":"TCP","src_ip":"10.0.0.3","dst_ip":"10.0.0.1"}"#,
        r#"{"protocol":"TCP","src_ip":"10.0.0.3","dst_ip":"fd00::1","dst_port":1}"#,
        r#"{"protocol":"TCP","src_ip":"10.0.0.3","dst_ip":"10.0.0.1","dst_port":1,"in":"eth0"}"#,
        r#"{"protocol":"TCP","dst_ip":"10.0.0.1","dst_port":1}"#,
        r#"{"proto":"TCP"}"#,
        "{",
        good.as_str(),
    ];
    let (code, answers) = asked.batch(&lines.join("\n"));
    assert_eq!(code, 1);
    assert_eq!(answers[1], r#"{"id":7,"line":2,"field":"src_ip","error":"\"10.0.0.300\" is not an IP address"}"#);
    let short: Vec<String> = answers
        .iter()
        .map(|answer| {
            let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
            match answer.get("error") {
                None => "fine".to_owned(),
                Some(error) => format!(
                    "{} {}: {}",
                    answer["line"],
                    answer["field"].as_str().unwrap_or("-"),
                    error.as_str().unwrap()
                ),
            }
        })
        .collect();
    let expected = [
        "fine",
        "2 src_ip: \"10.0.0.300\" is not an IP address",
        "4 protocol: \"QUIC\"; wanted TCP, UDP, SCTP or ICMP",
        "5 dst_port: 70000 is not a port from 0 to 65535",
        "6 dst_port: TCP needs a destination port",
        "7 dst_ip: fd00::1 is of another family than the source 10.0.0.3",
        "8 in: \"eth0\"; wanted uplink, node or pod:NAMESPACE/NAME",
        "9 src_ip: it is missing",
        "10 -: unknown field \"proto\"; the fields are id, protocol, src_ip, src_port, dst_ip, dst_port, in",
        "11 -: not JSON: EOF while parsing an object at line 1 column 1",
        "fine",
    ];
    assert_eq!(short, expected);
}

#[test]
fn people_are_told_which_endpoints_were_left_out_and_by_which_field() {
    let asked = Asked::new(OBJECTS);
    let (code, lines) = asked.words(["tcp", "10.244.0.5:34567", "172.30.0.41:80"], None);
    let expected = [
        "TCP 10.244.0.5:34567 -> 172.30.0.41:80, coming in by pod:shop/client",
        "  forward, translated to 10.244.1.7:8080",
        "  service   default/web:http (ClusterIP)",
        "  endpoints",
        "    -> 10.244.1.7:8080 on node-b",
        "     x 10.244.1.8:8080: conditions.terminating is true, and others are ready",
        "     x 10.244.1.9:8080: conditions.ready is false, and it does not serve while it terminates",
        "  source    kept",
        "  leaves    TCP 10.244.0.5:34567 -> 10.244.1.7:8080 by uplink",
    ];
    assert_eq!((code, lines), (0, expected.map(str::to_owned).to_vec()));
    let (_, lines) = asked.words(["tcp", "203.0.113.9", "192.168.0.2:30081"], None);
    let expected = [
        "TCP 203.0.113.9 -> 192.168.0.2:30081, coming in by uplink",
        "  drop (no_local_endpoint): nothing is answered",
        "  because   policy Local and no endpoint on this node",
        "  service   default/local:80 (NodePort)",
        "  endpoints  none",
        "     x 10.244.1.7:8080: externalTrafficPolicy is Local, and it is on node-b",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn refused_objects_make_the_answer_degraded_and_a_missingfolder_breaks_it() {
    let asked = Asked::new(&format!("{OBJECTS}---\nkind: Widget\nmetadata: {{name: w}}\n"));
    assert_eq!(asked.batch(&line("TCP", "10.244.0.5", "172.30.0.41", 80, "")).0, 1);
    let options = WhyOptions { manifests: Some("/nonexistent".into()), ..asked.options.clone() };
    assert_eq!(
        asked.run(&WhyOptions { query: Some(vec!["tcp".into(), "10.0.0.1".into(), "10.0.0.2:1".into()]), ..options }).0,
        2
    );
    assert_eq!(asked.words(["tcp", "10.0.0.1", "x"], None).0, 2);
    assert_eq!(asked.words(["tcp", "10.0.0.1", "10.0.0.2:1"], Some("pod:x")).0, 2);
}

#[test]
fn without_manifests_the_daemon_is_asked_and_its_answers_are_printed() {
    let options = WhyOptions {
        query: Some(vec!["udp".into(), "[fd00::1]:5".into(), "[fd00::2]:53".into()]),
        json: true,
        ..WhyOptions::default()
    };
    let mut out = Vec::new();
    let code = run(
        &options,
        |_, queries| {
            // Over the socket and back.
            let json = serde_json::to_string(queries).unwrap();
            assert_eq!(
                json,
                r#"[{"dst_ip":"fd00::2","dst_port":53,"protocol":"UDP","src_ip":"fd00::1","src_port":5}]"#
            );
            assert_eq!(serde_json::from_str::<Vec<Query>>(&json).unwrap(), queries);
            let detail = Detail { came_in: "uplink".into(), ..Detail::default() };
            Ok(vec![Answer {
                id: None,
                verdict: Verdict::Pass,
                reason: None,
                service: None,
                vip: None,
                backends: vec![],
                chosen: None,
                snat: false,
                source: None,
                egress: None,
                policy: None,
                detail: Some(detail),
            }])
        },
        &mut out,
    );
    assert_eq!(code, 0);
    assert!(String::from_utf8(out).unwrap().starts_with(r#"{"id":null,"verdict":"pass","reason":null,"#));
    let mut out = Vec::new();
    assert_eq!(run(&options, |_, _| Err("no daemon".into()), &mut out), 2);
}
