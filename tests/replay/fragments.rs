//! Datagrams in fragments, and packets that have to be cut.

use crate::lab::{Lab, SECOND_NS, START_NS};
use crate::packets::{fragments, tuple, udp};

const POD_1: &str = "pod:default/pod-1";
const POD_4: &str = "pod:default/pod-4";

fn long_datagram(src: &str, dst: &str, bytes: usize) -> Vec<u8> {
    udp(src, dst, &(0..bytes).map(|n| n as u8).collect::<Vec<_>>())
}

#[test]
fn fragments_wait_for_their_first_one_and_the_report_keeps_its_order() {
    let [first, second, third] = fragments(&long_datagram("10.244.1.14:40000", "10.96.0.50:443", 2900), 1000)
        .try_into()
        .expect("three fragments");
    let ran = Lab::new()
        .packet(0.0, POD_4, third)
        .packet(0.1, POD_4, second)
        .packet(0.2, POD_4, udp("10.244.1.14:41000", "10.96.0.50:443", b"overtakes"))
        .packet(0.3, POD_4, first)
        .run();
    assert_eq!(ran.lines.iter().map(|line| line.n).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(ran.lines.iter().map(|line| line.out.clone()).collect::<Vec<_>>(), [[3], [4], [1], [2]]);
    assert_eq!(ran.books["forwarded"], 4);
    for n in [1, 2, 4] {
        let frame = ran.sent(n);
        assert_eq!((frame.port.as_str(), frame.time_ns), (POD_1, START_NS + 3 * SECOND_NS / 10));
        assert_eq!(frame.bytes[30..34], [10, 244, 1, 11], "packet {n} goes to the endpoint");
    }
}

#[test]
fn a_fragment_whose_first_one_never_comes_is_given_up_with_or_without_more_packets() {
    let lost = fragments(&long_datagram("10.244.1.14:40000", "10.96.0.50:443", 2000), 1000).pop().expect("the last");
    let alone = Lab::new().packet(0.0, POD_4, lost.clone()).run();
    assert_eq!(alone.verdict(1), ("drop", Some("fragment_timeout")));
    let ran = Lab::new()
        .packet(0.0, POD_4, lost)
        .packet(29.0, POD_4, udp("10.244.1.14:41000", "10.96.0.50:443", b"before"))
        .packet(31.0, POD_4, udp("10.244.1.14:41000", "10.96.0.50:443", b"after"))
        .run();
    assert_eq!(ran.verdict(1), ("drop", Some("fragment_timeout")));
    assert_eq!((ran.sent(2).port.as_str(), ran.sent(3).port.as_str()), (POD_1, POD_1));
}

#[test]
fn fragments_to_a_node_port_follow_their_first_one_and_others_pass() {
    let [first, second] = fragments(&long_datagram("203.0.113.9:40000", "192.168.0.2:30053", 1900), 1000)
        .try_into()
        .expect("two fragments");
    let ran = Lab::new()
        .packet(0.0, "uplink", first)
        .packet(0.0, "uplink", second.clone())
        .packet(40.0, "uplink", second)
        .run();
    assert_eq!(ran.verdict(1), ("forward", None));
    assert_eq!(ran.verdict(2), ("forward", None));
    assert_eq!(ran.sent(1).port, ran.sent(2).port);
    assert_eq!(ran.verdict(3), ("pass", None), "its first one is forgotten: the node's own affair");
}

#[test]
fn a_packet_that_is_too_long_and_may_be_cut_is_cut() {
    let whole = long_datagram("10.244.1.14:40000", "10.96.0.50:443", 4000);
    let mut may_be_cut = whole.clone();
    may_be_cut[20] &= !0x40;
    crate::packets::sum_header(&mut may_be_cut);
    let mut must_not = whole;
    must_not[20] |= 0x40;
    crate::packets::sum_header(&mut must_not);
    let ran = Lab::new().packet(0.0, POD_4, may_be_cut).packet(0.0, POD_4, must_not).run();
    assert_eq!(ran.verdict(1), ("forward", None));
    let pieces = ran.out_of(1);
    assert_eq!(pieces.len(), 3);
    assert!(pieces.iter().all(|piece| piece.port == POD_1 && piece.bytes.len() <= 1514));
    assert_eq!(ran.verdict(2), ("reject", Some("needs_fragmentation")));
    assert_eq!(tuple(&ran.sent(2).bytes).1, "10.244.1.14");
    assert_eq!(
        (&ran.books["forwarded"], &ran.books["originated"]),
        (&1.into(), &3.into()),
        "two more pieces, an answer"
    );
}

#[test]
fn what_waits_at_the_end_of_all_time_is_written_without_an_end() {
    let order = crate::capture::Order::Little;
    let lost = fragments(&long_datagram("10.244.1.14:40000", "10.96.0.50:443", 2000), 1000).pop().expect("the last");
    let other = udp("10.244.1.14:41000", "10.96.0.50:443", b"hello");
    // Seconds, so that the file can name more of them than the clock can count in nanoseconds.
    let capture = [
        order.section(),
        order.port(POD_4, 0),
        order.packet(0, 0, other.len(), &other),
        order.packet(0, u64::MAX, lost.len(), &lost),
        order.packet(0, u64::MAX, other.len(), &other),
    ]
    .concat();
    let lab = Lab::new();
    let (from, to) = (lab.folder().join("in.pcapng"), lab.folder().join("out.pcapng"));
    std::fs::write(&from, capture).expect("a capture");
    let output = crate::lab::command(&crate::lab::examples(), &from, &to).output().expect("a run");
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        told.contains("{\"n\":2,\"in\":\"pod:default/pod-4\",\"verdict\":\"wait\",\"reason\":null,\"out\":[]}"),
        "{told}"
    );
    let books: serde_json::Value = serde_json::from_str(told.lines().last().expect("books")).expect("JSON");
    assert_eq!([&books["received"], &books["forwarded"], &books["punted"]], [3, 2, 1], "{books}");
}
