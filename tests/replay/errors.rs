//! ICMP errors find their flow by the packet that they quote.

use crate::lab::Lab;
use crate::packets::{error, macs, tuple, udp};

const POD_1: &str = "pod:default/pod-1";
const POD_4: &str = "pod:default/pod-4";

#[test]
fn a_routers_error_about_a_masqueraded_packet_reaches_the_pod() {
    let request = udp("10.244.1.14:40000", "198.51.100.7:53", b"query");
    let first = Lab::new().packet(0.0, POD_4, request.clone()).run();
    let sent = first.sent(1).bytes.clone();
    // Time exceeded, from a router on the way; as much quoted as RFC 792 asks for.
    let from_router = error("203.0.113.1", "192.168.0.2", 11, &sent[14..14 + 28]);
    let mut unknown = sent[14..14 + 28].to_vec();
    unknown[21] ^= 1;
    let about_nobody = error("203.0.113.1", "192.168.0.2", 11, &unknown);
    let ran = Lab::new()
        .packet(0.0, POD_4, request.clone())
        .packet(0.1, "uplink", from_router)
        .packet(0.1, "uplink", about_nobody)
        .run();
    let told = ran.sent(2);
    assert_eq!(told.port, POD_4);
    assert_eq!(tuple(&told.bytes), ("203.0.113.1".into(), "10.244.1.14".into()));
    let (quote, packet) = (&told.bytes[42..], &request[14..]);
    assert_eq!((&quote[12..20], &quote[20..24]), (&packet[12..20], &packet[20..24]), "what the pod had sent");
    assert_eq!(ran.verdict(3), ("pass", None), "about the node's own traffic");
}

#[test]
fn an_endpoints_error_speaks_for_its_service() {
    let request = udp("10.244.1.14:40000", "10.96.0.50:443", b"hello");
    let first = Lab::new().packet(0.0, POD_4, request.clone()).run();
    let refused = error("10.244.1.11", "10.244.1.14", 3, &first.sent(1).bytes[14..]);
    let ran = Lab::new().packet(0.0, POD_4, request.clone()).packet(0.1, POD_1, refused).run();
    let told = ran.sent(2);
    assert_eq!((told.port.as_str(), tuple(&told.bytes)), (POD_4, ("10.96.0.50".into(), "10.244.1.14".into())));
    assert_eq!(told.bytes[42 + 16..42 + 24], request[30..38], "the quote names the Service too");
}

/// An answer of the Service to a client beyond the uplink, as a router on the way back quotes it.
fn answer_on_its_way() -> Vec<u8> {
    udp("10.96.0.30:443", "203.0.113.9:40000", b"an answer")[14..].to_vec()
}

#[test]
fn an_error_about_another_nodes_masqueraded_flow_goes_to_that_node() {
    let told = error("203.0.113.1", "10.96.0.30", 3, &answer_on_its_way());
    let ran = Lab::new().packet(0.0, "uplink", told.clone()).run();
    assert_eq!(ran.verdict(1), ("forward", None));
    let copy = ran.sent(1);
    assert_eq!(copy.port, "uplink");
    assert_eq!(tuple(&copy.bytes), ("203.0.113.1".into(), "192.168.0.1".into()), "to node-b, from the router still");
    assert_eq!(macs(&copy.bytes).0, [2, 0, 192, 168, 0, 1]);
    assert_eq!(copy.bytes[34..], told[34..], "what it says");
    assert_eq!(ran.books["forwarded"], 1, "{}", ran.books);
}

#[test]
fn an_error_that_another_node_hands_on_reaches_the_endpoint() {
    let request = udp("203.0.113.9:40000", "10.96.0.30:443", b"a request");
    let handed_on = error("203.0.113.1", "192.168.0.2", 3, &answer_on_its_way());
    let ran = Lab::new()
        .packet(0.0, "uplink", handed_on.clone())
        .packet(0.1, "uplink", request)
        .packet(0.2, "uplink", handed_on)
        .run();
    assert_eq!(ran.verdict(1), ("pass", None), "another node's flow, or nobody's");
    let (_, masqueraded) = (ran.sent(2), tuple(&ran.sent(2).bytes).0);
    let told = ran.sent(3);
    assert_eq!((told.port.as_str(), tuple(&told.bytes)), (POD_4, ("203.0.113.1".into(), "10.244.1.14".into())));
    let as_sent = udp("10.244.1.14:8080", &masqueraded, b"an answer");
    assert_eq!(told.bytes[42 + 12..42 + 28], as_sent[26..42], "quoting what the endpoint had sent");
}

#[test]
fn an_error_about_a_flow_that_every_node_gives_to_the_same_endpoint_is_translated() {
    // Where nobody knows what a pod's address is, clients from anywhere keep theirs.
    let config = "[cluster]\npod_cidrs = []\n";
    let error_about = |port: u16| {
        let answer = udp("10.96.0.20:53", &format!("203.0.113.9:{port}"), b"an answer");
        error("203.0.113.1", "10.96.0.20", 3, &answer[14..])
    };
    // Which endpoint a client gets is told by its requests.
    let ports: Vec<u16> = (40_000..40_016).collect();
    let asked = ports.iter().fold(Lab::new().config(config), |lab, port| {
        lab.packet(0.0, "uplink", udp(&format!("203.0.113.9:{port}"), "10.96.0.20:53", b"query"))
    });
    let asked = asked.run();
    let elsewhere = ports.iter().zip(1..).filter(|(_, n)| asked.sent(*n).port == "uplink");
    let elsewhere: Vec<u16> = elsewhere.map(|(port, _)| *port).collect();
    assert!(!elsewhere.is_empty() && elsewhere.len() < ports.len(), "of both endpoints some: {elsewhere:?}");
    let ran = ports.iter().fold(Lab::new().config(config), |lab, port| lab.packet(0.0, "uplink", error_about(*port)));
    let ran = ran.run();
    for (port, n) in ports.iter().zip(1..) {
        if elsewhere.contains(port) {
            let told = ran.sent(n);
            assert_eq!(tuple(&told.bytes), ("203.0.113.1".into(), "10.244.2.12".into()), "{port}");
            let as_sent = udp("10.244.2.12:5353", &format!("203.0.113.9:{port}"), b"an answer");
            assert_eq!(told.bytes[42..], as_sent[14..], "{port}: quoting what the endpoint had sent");
        } else {
            // What other nodes send to a pod here is a flow here.
            assert_eq!(ran.verdict(n), ("drop", Some("icmp_unknown_flow")), "{port}");
        }
    }
}
