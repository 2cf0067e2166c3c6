//! One Service for each row, in files of its own: what stands in it, and who is to answer.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;

use atalho_benches::lab::paths::cluster_ip;
use atalho_benches::lab::plan::{Family, Plan, pod_address, remote_pod_address};

/// Who answers a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    Each(&'static [&'static str]),
    /// Always the same one.
    OneOf(&'static [&'static str]),
    /// Refused by a reset or an ICMP error.
    Refused,
    /// Silence.
    Nobody,
}

#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    /// Of its cluster IPs, see [`cluster_ip`].
    pub number: u8,
    pub labels: &'static str,
    /// In YAML, each with its comma behind it.
    pub spec: &'static str,
    pub slices: &'static [Slice<'static>],
    pub answers: Answers,
}

/// An EndpointSlice for each family.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    pub name: &'static str,
    /// Numbers of the ports `http` (TCP) and `dns` (UDP).
    pub ports: [u16; 2],
    /// Who, and what else is said of it.
    pub endpoints: &'a [(&'static str, &'static str)],
}

const PORTS: [u16; 2] = [8080, 5353];
const NOT_READY: &str = "conditions: {ready: false, serving: true, terminating: true}";
const NOT_SERVING: &str = "conditions: {ready: false, serving: false, terminating: true}";
const NODE_A: &str = "hints: {forNodes: [{name: node-a}]}";
const NODE_B: &str = "hints: {forNodes: [{name: node-b}]}";
const ZONE_A: &str = "hints: {forZones: [{name: zone-a}]}";
const ZONE_B: &str = "hints: {forZones: [{name: zone-b}]}";

const fn one(endpoints: &'static [(&'static str, &'static str)]) -> Slice<'static> {
    Slice { name: "a", ports: PORTS, endpoints }
}

const fn row(number: u8, name: &'static str, slices: &'static [Slice<'static>], answers: Answers) -> Row {
    Row { name, number, labels: "", spec: "", slices, answers }
}

pub const ROWS: &[Row] = &[
    row(
        70,
        "numbers-by-name",
        &[
            Slice { name: "a", ports: [9090, 8080], endpoints: &[("pod-1", "")] },
            Slice { name: "b", ports: PORTS, endpoints: &[("pod-2", "")] },
        ],
        Answers::Each(&["pod-1", "pod-2"]),
    ),
    row(
        71,
        "merged",
        &[
            one(&[("pod-1", "")]),
            Slice { name: "b", ports: PORTS, endpoints: &[("pod-1", NOT_READY), ("remote-1", "")] },
        ],
        Answers::Each(&["pod-1", "remote-1"]),
    ),
    row(72, "ready-first", &[one(&[("pod-1", ""), ("pod-2", NOT_READY)])], Answers::Each(&["pod-1"])),
    row(73, "terminating", &[one(&[("pod-2", NOT_READY), ("remote-1", NOT_SERVING)])], Answers::Each(&["pod-2"])),
    row(74, "nobody-serves", &[one(&[("remote-1", NOT_SERVING)])], Answers::Refused),
    row(75, "no-slice", &[], Answers::Refused),
    Row {
        spec: "trafficDistribution: PreferSameNode, ",
        ..row(76, "same-node", &[one(&[("pod-1", NODE_A), ("remote-1", NODE_B)])], Answers::Each(&["pod-1"]))
    },
    Row {
        spec: "trafficDistribution: PreferSameZone, ",
        ..row(
            77,
            "same-zone",
            &[one(&[("pod-2", ZONE_A), ("remote-1", ZONE_B), ("remote-2", ZONE_A)])],
            Answers::Each(&["pod-2", "remote-2"]),
        )
    },
    Row {
        spec: "trafficDistribution: PreferClose, ",
        ..row(
            78,
            "a-hint-is-missing",
            &[one(&[("pod-2", ZONE_A), ("remote-1", "")])],
            Answers::Each(&["pod-2", "remote-1"]),
        )
    },
    Row {
        spec: "internalTrafficPolicy: Local, ",
        ..row(79, "internal-here", &[one(&[("pod-1", ""), ("remote-1", "")])], Answers::Each(&["pod-1"]))
    },
    Row {
        spec: "internalTrafficPolicy: Local, ",
        ..row(80, "internal-elsewhere", &[one(&[("remote-1", "")])], Answers::Nobody)
    },
    Row {
        spec: "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}, ",
        ..row(
            81,
            "affinity",
            &[one(&[("pod-1", ""), ("pod-2", ""), ("remote-1", ""), ("remote-2", "")])],
            Answers::OneOf(&["pod-1", "pod-2", "remote-1", "remote-2"]),
        )
    },
    Row {
        labels: "service.kubernetes.io/service-proxy-name: another",
        ..row(83, "of-another-proxy", &[one(&[("pod-1", "")])], Answers::Nobody)
    },
    Row {
        labels: "service.kubernetes.io/headless: \"\"",
        ..row(84, "headless", &[one(&[("pod-1", "")])], Answers::Nobody)
    },
    row(85, "kubernetes", &[one(&[("remote-1", "")])], Answers::Each(&["remote-1"])),
    // Written last: what is refused of it says that all is read.
    row(82, "bad-addresses", &[one(&[("loopback", ""), ("link-local", ""), ("pod-1", "")])], Answers::Each(&["pod-1"])),
];

/// The lab's Nodes, in zones.
pub const NODES: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: zone-a}}
spec: {podCIDRs: [10.244.1.0/24, \"fd00:244:0:1::/64\"]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: InternalIP, address: \"fd00:168::2\"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b, labels: {topology.kubernetes.io/zone: zone-b}}
spec: {podCIDRs: [10.244.2.0/24, \"fd00:244:0:2::/64\"]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: \"fd00:168::1\"}]}
";

pub fn of(name: &str) -> &'static Row {
    ROWS.iter().find(|row| row.name == name).expect("a row of this name")
}

/// Writes a Service, and its slices into files of their own: each is an event.
pub fn write(plan: &Plan, row: &Row, slices: &[Slice<'_>]) {
    let put = |file: String, text: String| {
        let beside = plan.manifests().join(format!(".{file}.new"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, plan.manifests().join(file)).unwrap();
    };
    put(format!("row-{}.yaml", row.name), service(row));
    for slice in slices {
        put(format!("row-{}-{}.yaml", row.name, slice.name), slice_of(row, slice));
    }
}

/// Nobody listens at its targetPort, which is not to be read.
fn service(row: &Row) -> String {
    let [v4, v6] = Family::BOTH.map(|family| cluster_ip(row.number, family));
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {}, labels: {{{}}}}}\n\
         spec: {{clusterIPs: [{v4}, \"{v6}\"], ipFamilies: [IPv4, IPv6], {}\
         ports: [{{name: http, port: 80, targetPort: 1}}, {{name: dns, port: 53, protocol: UDP, targetPort: 1}}]}}\n",
        row.name, row.labels, row.spec
    )
}

fn slice_of(row: &Row, slice: &Slice<'_>) -> String {
    let Slice { ports: [http, dns], endpoints, .. } = slice;
    let mut text = String::new();
    for family in Family::BOTH {
        let listed: Vec<String> = endpoints
            .iter()
            .map(|(who, words)| {
                let node = if who.starts_with("remote") { "node-b" } else { "node-a" };
                format!("{{addresses: [\"{}\"], nodeName: {node}, {words}}}", address(who, family))
            })
            .collect();
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{part}-{family}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: {kind}\nports: [{{name: http, port: {http}}}, {{name: dns, port: {dns}, protocol: UDP}}]\n\
             endpoints: [{listed}]\n",
            name = row.name,
            part = slice.name,
            family = family.name().to_lowercase(),
            kind = family.name(),
            listed = listed.join(", "),
        );
    }
    text
}

fn address(who: &str, family: Family) -> IpAddr {
    let number = |prefix| who.strip_prefix(prefix).and_then(|number: &str| number.parse().ok());
    if let Some(pod) = number("pod-") {
        return pod_address(pod, family);
    }
    if let Some(pod) = number("remote-") {
        return remote_pod_address(pod, family);
    }
    let [v4, v6] = if who == "loopback" { ["127.0.0.1", "::1"] } else { ["169.254.0.9", "fe80::9"] };
    (if family == Family::V4 { v4 } else { v6 }).parse().unwrap()
}
