//! What is answered, what is left to the node, and what is dropped by name.

use crate::lab::Lab;
use crate::packets::{arp, echo_request, icmpv6, macs, syn, tuple, udp, udp_ttl};

const POD_1: &str = "pod:default/pod-1";
const POD_4: &str = "pod:default/pod-4";

#[test]
fn a_service_without_endpoints_is_answered_for() {
    let ran = Lab::new()
        .packet(0.0, POD_4, syn("10.244.1.14:40000", "10.96.0.60:80"))
        .packet(0.0, "uplink", udp("203.0.113.9:40000", "10.96.0.60:443", b"hello"))
        .packet(0.0, "node", syn("192.168.0.2:40000", "10.96.0.60:80"))
        .run();
    for (n, port) in [(1, POD_4), (2, "uplink"), (3, "node")] {
        assert_eq!(ran.verdict(n), ("reject", Some("no_endpoint")));
        assert_eq!(ran.sent(n).port, port);
    }
    assert_eq!(tuple(&ran.sent(1).bytes), ("10.96.0.60:80".into(), "10.244.1.14:40000".into()));
    assert_eq!(macs(&ran.sent(1).bytes).0, [2, 0, 10, 244, 1, 14]);
    assert_eq!(tuple(&ran.sent(2).bytes), ("10.96.0.60".into(), "203.0.113.9".into()));
    assert_eq!(macs(&ran.sent(2).bytes).0, [2, 0, 203, 0, 113, 9]);
    assert_eq!(ran.books["originated"], 3);
}

#[test]
fn an_echo_to_a_service_and_a_packet_without_hops_are_answered() {
    let ran = Lab::new()
        .packet(0.0, POD_4, echo_request("10.244.1.14", "10.96.0.10"))
        .packet(0.0, POD_4, udp_ttl("10.244.1.14:40000", "10.244.1.11:5353", 1))
        .packet(0.0, POD_4, udp_ttl("[fd00:244:0:1::14]:40000", "[fd00:244:0:2::11]:5353", 1))
        .run();
    assert_eq!(ran.verdict(1), ("reject", Some("echo_to_vip")));
    assert_eq!(tuple(&ran.sent(1).bytes), ("10.96.0.10".into(), "10.244.1.14".into()));
    assert_eq!(ran.verdict(2), ("reject", Some("ttl_exceeded")));
    assert_eq!(ran.sent(2).bytes[34], 11, "ICMP time exceeded");
    assert_eq!(tuple(&ran.sent(2).bytes).1, "10.244.1.14");
    assert_eq!(ran.verdict(3), ("reject", Some("ttl_exceeded")));
    assert_eq!(ran.sent(3).bytes[54], 3, "ICMPv6 time exceeded");
    assert_eq!(tuple(&ran.sent(3).bytes).1, "fd00:244:0:1::14");
}

#[test]
fn what_is_the_nodes_own_passes_unchanged() {
    let to_node = syn("203.0.113.9:40000", "192.168.0.2:22");
    let frames = [
        ("uplink", to_node.clone()),
        ("uplink", arp([192, 168, 0, 1])),
        ("uplink", udp("203.0.113.9:40000", "198.51.100.1:53", b"transit")),
        (POD_4, syn("10.244.1.14:40000", "192.168.0.2:10250")),
        (POD_4, arp([10, 244, 1, 14])),
        ("node", syn("192.168.0.2:40000", "10.244.1.11:8080")),
        ("node", udp("192.168.0.2:40000", "198.51.100.1:53", b"query")),
    ];
    let lab = frames.iter().fold(Lab::new(), |lab, (port, bytes)| lab.packet(0.0, port, bytes.clone()));
    let ran = lab.run();
    for (n, (_, bytes)) in (1..).zip(&frames) {
        assert_eq!(ran.verdict(n), ("pass", None), "packet {n}");
        assert_eq!((ran.sent(n).port.as_str(), &ran.sent(n).bytes), ("node", bytes), "packet {n}");
    }
    assert_eq!(ran.books["forwarded"], frames.len());
}

#[test]
fn what_stays_on_a_link_passes_and_a_pod_that_plays_router_does_not() {
    let (solicitation, advertisement, router_advertisement, redirect) = (135, 136, 134, 137);
    let own = "fd00:244:0:1::14";
    let frames = [
        (POD_4, icmpv6("fe80::14", "ff02::1:ff00:1", solicitation), "pass"),
        (POD_4, icmpv6("::", "ff02::1:ff00:14", solicitation), "pass"),
        (POD_4, icmpv6(own, "fe80::1", advertisement), "pass"),
        (POD_4, icmpv6("fd00:244:0:1::13", "fe80::1", advertisement), "drop"),
        (POD_4, icmpv6("fe80::14", "ff02::1", router_advertisement), "drop"),
        (POD_4, icmpv6(own, "fe80::1", redirect), "drop"),
        ("uplink", icmpv6("fe80::1", "ff02::1", router_advertisement), "pass"),
        ("uplink", icmpv6("fe80::1", "fd00:168::2", solicitation), "pass"),
        ("uplink", udp("203.0.113.9:5353", "224.0.0.251:5353", b"who is there"), "pass"),
        ("node", icmpv6("fe80::2", "ff02::2", solicitation), "pass"),
    ];
    let lab = frames.iter().fold(Lab::new(), |lab, (port, bytes, _)| lab.packet(0.0, port, bytes.clone()));
    let ran = lab.run();
    for (n, (_, _, verdict)) in (1..).zip(&frames) {
        let reason = (*verdict == "drop").then_some("wrong_source");
        assert_eq!(ran.verdict(n), (*verdict, reason), "packet {n}");
    }
}

#[test]
fn the_node_reaches_services_and_gets_its_answers() {
    let ran = Lab::new()
        .packet(0.0, "node", udp("192.168.0.2:40000", "10.96.0.50:443", b"query"))
        .packet(0.1, POD_1, udp("10.244.1.11:8080", "192.168.0.2:40000", b"answer"))
        .packet(0.1, POD_1, udp("10.244.1.11:8080", "192.168.0.2:40001", b"own affair"))
        .run();
    assert_eq!(ran.sent(1).port, POD_1);
    assert_eq!(ran.verdict(2), ("forward", None));
    assert_eq!(ran.sent(2).port, "node");
    assert_eq!(tuple(&ran.sent(2).bytes), ("10.96.0.50:443".into(), "192.168.0.2:40000".into()));
    assert_eq!(ran.verdict(3), ("pass", None));
    assert!(ran.out.iter().all(|frame| frame.bytes[..2] != [2, 0xfe] && frame.bytes[6..8] != [2, 0xfe]), "a tag leaks");
}

#[test]
fn what_must_not_be_is_dropped_by_name() {
    let mut vlan = udp("10.244.1.14:40000", "10.96.0.50:443", b"tagged");
    vlan.splice(12..12, [0x81, 0, 0, 5]);
    let mut bad_sum = udp("203.0.113.9:40000", "10.96.0.50:443", b"damaged");
    bad_sum[24] ^= 1;
    let mut long = udp("203.0.113.9:40000", "10.96.0.50:443", b"cut");
    long.truncate(40);
    let ran = Lab::new()
        .config("[cluster]\nservice_cidrs = [\"10.96.0.0/16\"]\n")
        .packet(0.0, POD_4, vlan)
        .packet(0.0, POD_4, udp("10.244.1.13:40000", "10.96.0.50:443", b"not mine"))
        .packet(0.0, POD_4, arp([10, 244, 1, 13]))
        .packet(0.0, "uplink", bad_sum)
        .packet(0.0, "uplink", long)
        .packet(0.0, "uplink", vec![1, 2, 3])
        .packet(0.0, "uplink", Vec::new())
        .packet(0.0, "uplink", udp("203.0.113.9:40000", "10.96.200.1:443", b"unallocated"))
        .run();
    let reasons = [
        "vlan_tagged",
        "wrong_source",
        "wrong_source",
        "bad_checksum",
        "bad_total_length",
        "too_short",
        "too_short",
        "no_vip_port",
    ];
    for (n, reason) in (1..).zip(reasons) {
        assert_eq!(ran.verdict(n), ("drop", Some(reason)), "packet {n}");
        assert!(ran.lines[n - 1].out.is_empty());
    }
}

#[test]
fn answers_are_limited_in_rate_by_the_captures_clock() {
    let ask = |port: u32| udp(&format!("203.0.113.9:{port}"), "10.96.0.60:443", b"hello");
    let mut lab = Lab::new();
    for n in 0..1000 {
        lab = lab.packet(f64::from(n) * 1e-6, "uplink", ask(4000 + n));
    }
    let ran = lab.packet(2.0, "uplink", ask(5000)).run();
    let refused = ran.books["dropped"]["sender_rate_limited"].as_u64().expect("a count");
    assert!((500..1000).contains(&refused), "one sender gets a burst of answers and no more: {refused}");
    assert_eq!(ran.verdict(1001), ("reject", Some("no_endpoint")), "2 s later there are more");
}
