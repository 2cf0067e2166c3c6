//! Connections through Services, as a node would treat them.

use std::collections::BTreeSet;

use crate::lab::{Lab, SECOND_NS, START_NS};
use crate::packets::{ack, macs, syn, syn_ack, tuple, udp};

const POD_1: &str = "pod:default/pod-1";
const POD_2: &str = "pod:default/pod-2";
const POD_4: &str = "pod:default/pod-4";
const POD_1_MAC: [u8; 6] = [2, 0, 10, 244, 1, 11];

#[test]
fn a_pod_reaches_a_service_and_the_answer_comes_back_translated() {
    let ran = Lab::new()
        .packet(0.0, POD_4, syn("10.244.1.14:40000", "10.96.0.50:80"))
        .packet(0.001, POD_1, syn_ack("10.244.1.11:8080", "10.244.1.14:40000"))
        .packet(0.002, POD_4, ack("10.244.1.14:40000", "10.96.0.50:80", 1001, 5001))
        .run();
    let request = ran.sent(1);
    assert_eq!((request.port.as_str(), request.time_ns), (POD_1, START_NS));
    assert_eq!(tuple(&request.bytes), ("10.244.1.14:40000".into(), "10.244.1.11:8080".into()));
    assert_eq!(macs(&request.bytes).0, POD_1_MAC);
    let answer = ran.sent(2);
    assert_eq!((answer.port.as_str(), answer.time_ns), (POD_4, START_NS + SECOND_NS / 1000));
    assert_eq!(tuple(&answer.bytes), ("10.96.0.50:80".into(), "10.244.1.14:40000".into()));
    assert_eq!(ran.sent(3).port, POD_1);
}

#[test]
fn ipv6_goes_by_the_pods_one_mac_and_the_neighbours_own() {
    let ran = Lab::new()
        .packet(0.0, POD_4, udp("[fd00:244:0:1::14]:40000", "[fd00:96::50]:443", b"hello"))
        .packet(0.0, POD_4, udp("[fd00:244:0:1::14]:40000", "[fd00:244:0:2::11]:5353", b"hello"))
        .run();
    assert_eq!(tuple(&ran.sent(1).bytes).1, "[fd00:244:0:1::11]:8080");
    assert_eq!(macs(&ran.sent(1).bytes).0, POD_1_MAC);
    assert_eq!(ran.sent(2).port, "uplink");
    assert_eq!(macs(&ran.sent(2).bytes).0, [2, 0, 0, 0, 0, 0x11]);
}

#[test]
fn a_node_port_is_masqueraded_to_an_endpoint_elsewhere() {
    let mut lab = Lab::new();
    for port in 0..64 {
        lab = lab.packet(0.0, "uplink", udp(&format!("203.0.113.9:{}", 2000 + port), "192.168.0.2:30053", b"query"));
    }
    let ran = lab.run();
    let mut sources = BTreeSet::new();
    let mut exits = BTreeSet::new();
    for n in 1..=64 {
        let frame = ran.sent(n);
        let (src, dst) = tuple(&frame.bytes);
        exits.insert((frame.port.clone(), dst.clone()));
        assert!(sources.insert(src.clone()), "{src} was given out twice");
        assert!(src.starts_with("192.168.0.2:"), "{src}");
        if frame.port == "uplink" {
            assert_eq!(macs(&frame.bytes).0, [2, 0, 10, 244, 2, 11]);
        }
    }
    let both =
        [(POD_2.to_owned(), "10.244.1.12:5353".to_owned()), ("uplink".to_owned(), "10.244.2.11:5353".to_owned())];
    assert_eq!(exits, BTreeSet::from(both));
}

#[test]
fn the_answer_to_a_masqueraded_packet_is_found_by_its_port_alone() {
    // The source port is a draw: a first run tells it, the second one answers. Chance is the seed's, so it is the same.
    let request = udp("10.244.1.14:40000", "198.51.100.7:53", b"query");
    let first = Lab::new().packet(0.0, POD_4, request.clone()).run();
    let (source, _) = tuple(&first.sent(1).bytes);
    let ran = Lab::new()
        .packet(0.0, POD_4, request)
        .packet(0.5, "uplink", udp("198.51.100.7:53", &source, b"answer"))
        .packet(0.5, "uplink", udp("198.51.100.8:53", &source, b"no answer"))
        .run();
    assert_eq!(ran.sent(2).port, POD_4);
    assert_eq!(tuple(&ran.sent(2).bytes), ("198.51.100.7:53".into(), "10.244.1.14:40000".into()));
    assert_eq!(ran.verdict(3), ("pass", None), "nobody's flow: the node's own affair");
}

/// Whether the answer at `answer_s` still belongs to the flow that a datagram began at `asked_s`.
fn is_answer_known(asked_s: &[f64], answer_s: f64) -> bool {
    let mut lab = Lab::new();
    for at_s in asked_s {
        lab = lab.packet(*at_s, POD_4, udp("10.244.1.14:40000", "10.96.0.50:443", b"hello"));
    }
    let answer = udp("10.244.1.11:8080", "10.244.1.14:40000", b"answer");
    let ran = lab.packet(answer_s, POD_1, answer).run();
    tuple(&ran.sent(asked_s.len() + 1).bytes).0 == "10.96.0.50:443"
}

#[test]
fn an_unanswered_datagram_is_remembered_for_30_s_of_the_captures_time() {
    assert!(is_answer_known(&[0.0], 29.9));
    assert!(!is_answer_known(&[0.0], 30.0));
    assert!(is_answer_known(&[0.0, 20.0], 49.9));
    assert!(!is_answer_known(&[0.0, 20.0], 50.5));
    // Decades later, past what 32 bits of seconds can tell apart.
    assert!(!is_answer_known(&[0.0], 3e9));
    assert!(!is_answer_known(&[0.0], 4_294_967_296.0 + 1.0));
}

#[test]
fn timestamps_that_run_back_make_the_clock_stand() {
    let ran = Lab::new()
        .packet(10.0, POD_4, udp("10.244.1.14:40000", "10.96.0.50:443", b"a"))
        .packet(-5000.0, POD_4, udp("10.244.1.14:40001", "10.96.0.50:443", b"b"))
        .packet(12.0, POD_4, udp("10.244.1.14:40002", "10.96.0.50:443", b"c"))
        .run();
    let times: Vec<u64> = ran.out.iter().map(|frame| frame.time_ns - START_NS).collect();
    assert_eq!(times, [10 * SECOND_NS, 10 * SECOND_NS, 12 * SECOND_NS]);
}

#[test]
fn until_is_reached_at_once_however_far_it_is() {
    let started = std::time::Instant::now();
    let ran = Lab::new()
        .packet(0.0, POD_4, udp("10.244.1.14:40000", "10.96.0.50:443", b"a"))
        .argument(&["--until", "500000000"])
        .run();
    assert_eq!(ran.out.len(), 1);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
