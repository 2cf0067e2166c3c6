//! Objects that change during the run.

use std::path::PathBuf;

use crate::lab::{Lab, examples};
use crate::packets::{ack, syn, syn_ack, tuple, udp};

const POD_1: &str = "pod:default/pod-1";
const POD_4: &str = "pod:default/pod-4";

/// The example cluster with one file in place of another, in a folder of the lab.
fn changed(lab: &Lab, name: &str, edit: impl Fn(&str, String) -> Option<String>) -> PathBuf {
    let folder = lab.folder().join(name);
    std::fs::create_dir(&folder).expect("a folder");
    for entry in std::fs::read_dir(examples()).expect("the examples") {
        let path = entry.expect("a file").path();
        let file = path.file_name().expect("a name").to_str().expect("a plain name").to_owned();
        if let Some(text) = edit(&file, std::fs::read_to_string(&path).expect("a text")) {
            std::fs::write(folder.join(&file), text).expect("a copy");
        }
    }
    folder
}

fn replaced(lab: &Lab) -> PathBuf {
    let replacement = examples().parent().expect("a parent").join("replace/moving.yaml");
    changed(lab, "replaced", |file, text| match file {
        "moving.yaml" => std::fs::read_to_string(&replacement).ok(),
        _ => Some(text),
    })
}

#[test]
fn udp_moves_at_once_to_the_new_endpoint_and_established_tcp_stays() {
    let lab = Lab::new();
    let then = format!("5.0={}", replaced(&lab).display());
    let datagram = || udp("10.244.1.14:40000", "10.96.0.50:443", b"hello");
    let ran = lab
        .argument(&["--then", &then])
        .packet(0.0, POD_4, syn("10.244.1.14:41000", "10.96.0.50:80"))
        .packet(0.1, POD_1, syn_ack("10.244.1.11:8080", "10.244.1.14:41000"))
        .packet(0.2, POD_4, ack("10.244.1.14:41000", "10.96.0.50:80", 1001, 5001))
        .packet(4.999, POD_4, datagram())
        .packet(5.0, POD_4, datagram())
        .packet(5.1, POD_4, ack("10.244.1.14:41000", "10.96.0.50:80", 1001, 5001))
        .packet(5.2, POD_4, syn("10.244.1.14:41001", "10.96.0.50:80"))
        .run();
    let to = |n| tuple(&ran.sent(n).bytes).1;
    assert_eq!((to(4), to(5)), ("10.244.1.11:8080".into(), "10.244.1.13:8080".into()));
    assert_eq!((to(6), to(7)), ("10.244.1.11:8080".into(), "10.244.1.13:8080".into()));
}

#[test]
fn a_pod_that_goes_takes_its_flows_along_and_its_port_with_it() {
    let lab = Lab::new();
    let gone = changed(&lab, "gone", |file, text| match file {
        "pods.yaml" => Some(text.split("---").filter(|d| !d.contains("name: pod-1\n")).collect::<Vec<_>>().join("---")),
        _ => Some(text),
    });
    let ran = lab
        .argument(&["--then", &format!("1={}", gone.display())])
        .packet(0.0, POD_1, udp("10.244.1.11:5000", "10.244.1.14:5353", b"hello"))
        .packet(0.5, POD_4, udp("10.244.1.14:5353", "10.244.1.11:5000", b"answer"))
        .packet(0.5, POD_4, udp("10.244.1.14:6000", "10.244.2.11:5353", b"hello"))
        .packet(2.0, POD_1, udp("10.244.1.11:5000", "10.244.1.14:5353", b"ghost"))
        .packet(2.0, "uplink", udp("10.244.2.11:5353", "10.244.1.14:6000", b"answer"))
        .run();
    assert_eq!(ran.sent(2).port, POD_1);
    assert_eq!(ran.verdict(4), ("drop", Some("unknown_port")));
    assert_eq!(ran.sent(5).port, POD_4, "others keep their ports and their flows");
}

#[test]
fn refused_objects_are_named_and_the_rest_works() {
    let lab = Lab::new();
    let broken = changed(&lab, "broken", |file, text| match file {
        "dns.yaml" => Some("kind: Service\napiVersion: v1\nmetadata: {name: [1]}\n".to_owned()),
        _ => Some(text),
    });
    let ran = lab.manifests(broken).packet(0.0, POD_4, syn("10.244.1.14:40000", "10.96.0.50:80")).run_anyhow();
    assert_eq!(ran.code, 1);
    assert!(ran.said.contains("refused: ") && ran.said.contains("dns.yaml:3"), "{}", ran.said);
    assert_eq!(ran.sent(1).port, POD_1);
}

#[test]
fn a_folder_that_is_not_there_breaks_the_run() {
    let ran = Lab::new().argument(&["--then", "1=/nowhere"]).run_anyhow();
    assert_eq!(ran.code, 2);
    assert!(ran.said.contains("/nowhere"), "{}", ran.said);
}

#[test]
fn objects_past_the_end_are_told() {
    let lab = Lab::new();
    let then = format!("5={}", replaced(&lab).display());
    let ran =
        lab.argument(&["--then", &then]).packet(0.0, POD_4, udp("10.244.1.14:40000", "10.96.0.50:443", b"hello")).run();
    assert!(ran.said.contains("--then 5: the run ended before it"), "{}", ran.said);
}

#[test]
fn a_client_keeps_its_endpoint_while_the_service_says_so() {
    let lab = Lab::new();
    let sticky = changed(&lab, "sticky", |file, text| {
        match file {
        "web.yaml" => Some(text.replacen(
            "  type: ClusterIP\n",
            "  type: ClusterIP\n  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}\n",
            1,
        )),
        _ => Some(text),
    }
    });
    let mut lab = lab.manifests(sticky);
    for n in 0..40_u32 {
        // Twenty connections within a minute of each other, then twenty with more than that in between.
        let at_s = if n < 20 { f64::from(n) * 50.0 } else { 1000.0 + f64::from(n) * 100.0 };
        lab = lab.packet(at_s, POD_4, syn(&format!("10.244.1.14:{}", 40_000 + n), "10.96.0.10:80"));
    }
    let ran = lab.run();
    let endpoints = |range: std::ops::RangeInclusive<usize>| {
        range.map(|n| tuple(&ran.sent(n).bytes).1).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(endpoints(1..=20).len(), 1);
    assert!(endpoints(21..=40).len() > 1);
}

#[test]
fn a_pod_without_an_address_has_a_port_and_sends_nothing() {
    let lab = Lab::new();
    let pending = changed(&lab, "pending", |_, text| Some(text));
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: new, namespace: default}\n\
               spec: {nodeName: node-a, containers: [{name: main, image: none}]}\nstatus: {phase: Pending}\n";
    std::fs::write(pending.join("new.yaml"), pod).expect("a file");
    let ran = lab
        .manifests(pending)
        .packet(0.0, "pod:default/new", udp("10.244.1.99:40000", "10.96.0.50:443", b"too early"))
        .packet(0.0, POD_4, udp("10.244.1.14:40000", "10.96.0.50:443", b"hello"))
        .run();
    assert_eq!(ran.verdict(1), ("drop", Some("unknown_port")));
    assert_eq!(ran.sent(2).port, POD_1);
}
