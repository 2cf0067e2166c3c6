//! `atalho why` and `atalho replay` tell the same about the first packet of every connection.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::lab::{Lab, examples};
use crate::packets::{echo_request, syn, tuple, udp};

const PODS: [(&str, [&str; 2]); 2] = [
    ("pod:default/pod-1", ["10.244.1.11", "fd00:244:0:1::11"]),
    ("pod:default/pod-4", ["10.244.1.14", "fd00:244:0:1::14"]),
];
const OUTSIDE: [&str; 2] = ["203.0.113.9", "fd00:113::9"];
const REMOTE_POD: [&str; 2] = ["10.244.2.12", "fd00:244:0:2::12"];
const NODE: [&str; 2] = ["192.168.0.2", "fd00:168::2"];

/// Services with and without endpoints, pods here and there, nodes, the world, and nobody.
const DESTINATIONS: [[&str; 2]; 10] = [
    ["10.96.0.10", "fd00:96::10"],
    ["10.96.0.40", "fd00:96::40"],
    ["10.96.0.50", "fd00:96::50"],
    ["10.96.0.60", "fd00:96::60"],
    ["10.96.9.9", "fd00:96::9:9"],
    ["10.244.1.12", "fd00:244:0:1::12"],
    REMOTE_POD,
    NODE,
    ["192.168.0.1", "fd00:168::1"],
    ["198.51.100.7", "2001:db8::7"],
];
const PORTS: [u16; 4] = [80, 443, 30_080, 30_053];

struct Case {
    way: &'static str,
    src: String,
    dst: String,
    protocol: &'static str,
    port: u16,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in [0, 1] {
        let sources = PODS.iter().map(|(pod, addresses)| (*pod, addresses[family])).chain([
            ("uplink", OUTSIDE[family]),
            ("uplink", REMOTE_POD[family]),
            ("node", NODE[family]),
        ]);
        for (way, src) in sources {
            for dst in DESTINATIONS.map(|both| both[family]) {
                for (protocol, port) in
                    PORTS.iter().flat_map(|port| [("TCP", *port), ("UDP", *port)]).chain([("ICMP", 0)])
                {
                    if src != dst {
                        cases.push(Case { way, src: src.to_owned(), dst: dst.to_owned(), protocol, port });
                    }
                }
            }
        }
    }
    cases
}

fn socket(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn ask_why(config: &std::path::Path, cases: &[Case]) -> Vec<Value> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_atalho"))
        .args(["why", "--node", "node-a", "--batch", "-", "-o", "json", "--config"])
        .arg(config)
        .arg("--manifests")
        .arg(examples())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("why");
    let questions: String = (10_000..)
        .zip(cases)
        .map(|(src_port, case)| {
            // An echo has its identifier where others have their source port.
            let src_port = if case.protocol == "ICMP" { 7 } else { src_port };
            let question = json!({
                "protocol": case.protocol, "src_ip": case.src, "src_port": src_port, "dst_ip": case.dst,
                "dst_port": case.port, "in": case.way,
            });
            format!("{question}\n")
        })
        .collect();
    let mut input = child.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || input.write_all(questions.as_bytes()));
    let output = child.wait_with_output().expect("answers");
    writer.join().expect("a thread").expect("a reader");
    assert!(output.status.success());
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
}

#[test]
fn both_tell_the_same() {
    let cases = cases();
    let cidrs = "[cluster]\npod_cidrs = [\"10.244.0.0/16\", \"fd00:244::/48\"]\n\
                 service_cidrs = [\"10.96.0.0/16\", \"fd00:96::/112\"]\n";
    let mut lab = Lab::new().config(cidrs);
    let config = lab.folder().join("why.toml");
    std::fs::write(&config, cidrs).expect("a file");
    // A second and more apart, so that no answer is over the limit; echoes with one identifier are forgotten in between.
    for (n, case) in cases.iter().enumerate() {
        let (src, dst) = (socket(&case.src, 10_000 + n as u16), socket(&case.dst, case.port));
        let bytes = match case.protocol {
            "TCP" => syn(&src, &dst),
            "UDP" => udp(&src, &dst, b"hello"),
            _ => echo_request(&case.src, &case.dst),
        };
        lab = lab.packet(n as f64 * 600.0, case.way, bytes);
    }
    let answers = ask_why(&config, &cases);
    let ran = lab.run();
    assert_eq!((answers.len(), ran.lines.len()), (cases.len(), cases.len()));
    let mut differences = Vec::new();
    for (n, (case, answer)) in (1..).zip(cases.iter().zip(&answers)) {
        let line = &ran.lines[n - 1];
        let what = format!("{} {} -> {} by {}", case.protocol, case.src, socket(&case.dst, case.port), case.way);
        let told = json!([line.verdict, line.reason]);
        if told != json!([answer["verdict"], answer["reason"]]) {
            differences.push(format!("{what}: why {answer}, replay {told}"));
        } else if line.verdict == "forward" {
            let frame = ran.sent(n);
            let dst = tuple(&frame.bytes).1;
            if answer["egress"] != json!(frame.port) || answer["chosen"].as_str().is_some_and(|chosen| chosen != dst) {
                differences.push(format!("{what}: why {answer}, replay to {dst} by {}", frame.port));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {}:\n{}",
        differences.len(),
        cases.len(),
        differences[..differences.len().min(20)].join("\n")
    );
    for verdict in ["forward", "pass", "reject", "drop"] {
        assert!(ran.lines.iter().any(|line| line.verdict == verdict), "no {verdict} among {} cases", cases.len());
    }
}
