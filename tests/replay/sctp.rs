//! Services of protocol SCTP, from the manifests to the packets.

use std::process::Command;

use serde_json::Value;

use crate::lab::{Lab, examples};
use crate::packets::{sctp, sctp_tuple, tuple};

const POD_1: &str = "pod:default/pod-1";
const POD_4: &str = "pod:default/pod-4";

const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: signalling, namespace: default}
spec:
  type: NodePort
  selector: {service: signalling}
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIP: 10.96.0.70
  clusterIPs: [10.96.0.70, "fd00:96::70"]
  ports:
  - {name: n2, protocol: SCTP, port: 38412, targetPort: n2, nodePort: 30412}
  - {name: none, protocol: SCTP, port: 36412, targetPort: none, nodePort: 30413}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: signalling-ipv4
  namespace: default
  labels: {kubernetes.io/service-name: signalling}
addressType: IPv4
ports: [{name: n2, protocol: SCTP, port: 3868}]
endpoints: [{addresses: ["10.244.1.11"], nodeName: node-a, conditions: {ready: true}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: signalling-ipv6
  namespace: default
  labels: {kubernetes.io/service-name: signalling}
addressType: IPv6
ports: [{name: n2, protocol: SCTP, port: 3868}]
endpoints: [{addresses: ["fd00:244:0:1::11"], nodeName: node-a, conditions: {ready: true}}]
"#;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HANDSHAKE: &[u8] = &[1, 2, 3, 4, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9];
const UPLINK: &str = "uplink";

/// The example cluster with these Services.
fn lab() -> Lab {
    let lab = Lab::new();
    let folder = lab.folder().join("objects");
    std::fs::create_dir(&folder).expect("a folder");
    for file in std::fs::read_dir(examples()).expect("the examples") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), folder.join(file.file_name())).expect("a copy");
    }
    std::fs::write(folder.join("signalling.yaml"), OBJECTS).expect("a file");
    lab.manifests(folder)
}

#[test]
fn an_association_through_a_cluster_ip_and_back() {
    for (client, vip, endpoint) in [
        ("10.244.1.14:40000", "10.96.0.70:38412", "10.244.1.11:3868"),
        ("[fd00:244:0:1::14]:40000", "[fd00:96::70]:38412", "[fd00:244:0:1::11]:3868"),
    ] {
        let ran = lab()
            .packet(0.0, POD_4, sctp(client, vip, INIT, HANDSHAKE))
            .packet(0.1, POD_1, sctp(endpoint, client, INIT_ACK, HANDSHAKE))
            .packet(0.2, POD_4, sctp(client, vip, 10, b"cookie!!"))
            .run();
        for n in [1, 3] {
            assert_eq!(ran.sent(n).port, POD_1);
            assert_eq!(sctp_tuple(&ran.sent(n).bytes), (client.into(), endpoint.into()));
        }
        assert_eq!(ran.sent(2).port, POD_4);
        assert_eq!(sctp_tuple(&ran.sent(2).bytes), (vip.into(), client.into()));
    }
}

#[test]
fn a_node_port_is_masqueraded() {
    let request = sctp("203.0.113.9:40000", "192.168.0.2:30412", INIT, HANDSHAKE);
    let first = lab().packet(0.0, UPLINK, request.clone()).run();
    let (source, endpoint) = sctp_tuple(&first.sent(1).bytes);
    assert!(source.starts_with("192.168.0.2:"), "{source}");
    let answer = sctp(&endpoint, &source, INIT_ACK, HANDSHAKE);
    let ran = lab().packet(0.0, UPLINK, request).packet(0.1, POD_1, answer).run();
    assert_eq!(ran.sent(2).port, UPLINK);
    let expected = ("192.168.0.2:30412".into(), "203.0.113.9:40000".into());
    assert_eq!(sctp_tuple(&ran.sent(2).bytes), expected);
}

#[test]
fn what_is_wrong_is_dropped_and_what_has_no_endpoint_is_told() {
    let mut damaged = sctp("10.244.1.14:40000", "10.96.0.70:38412", INIT, HANDSHAKE);
    *damaged.last_mut().expect("a byte") ^= 1;
    let ran = lab()
        .packet(0.0, POD_4, damaged)
        .packet(0.1, POD_4, sctp("10.244.1.14:40001", "10.96.0.70:38412", 0, b"data of no association"))
        .packet(0.2, POD_4, sctp("10.244.1.14:40002", "10.96.0.70:36412", INIT, HANDSHAKE))
        .run();
    assert_eq!(ran.verdict(1), ("drop", Some("bad_checksum")));
    assert_eq!(ran.verdict(2), ("reject", Some("no_connection")));
    assert_eq!(sctp_tuple(&ran.sent(2).bytes), ("10.96.0.70:38412".into(), "10.244.1.14:40001".into()), "an abort");
    assert_eq!(ran.verdict(3), ("reject", Some("no_endpoint")));
    assert_eq!(tuple(&ran.sent(3).bytes), ("10.96.0.70".into(), "10.244.1.14".into()), "port unreachable");
}

#[test]
fn why_says_the_same() {
    let lab = lab();
    let mut why = Command::new(env!("CARGO_BIN_EXE_atalho"));
    why.args(["why", "--node", "node-a", "-o", "json", "--manifests"]).arg(lab.folder().join("objects"));
    let output = why.args(["sctp", "10.244.1.14:40000", "10.96.0.70:38412"]).output().expect("a run");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["verdict"], &told["chosen"]), (&"forward".into(), &"10.244.1.11:3868".into()), "{told}");
    assert_eq!(told["service"], "default/signalling:n2");
}
