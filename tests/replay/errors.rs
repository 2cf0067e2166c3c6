//! ICMP errors find their flow by the packet that they quote.

use crate::lab::Lab;
use crate::packets::{error, tuple, udp};

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
