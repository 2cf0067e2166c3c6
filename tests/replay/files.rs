//! Odd captures: what can be read is run, and what cannot is named.

use crate::capture::Order;
use crate::lab::{Lab, Ran, SECOND_NS, START_NS};
use crate::packets::{tuple, udp};

const POD_4: &str = "pod:default/pod-4";
const ORDERS: [Order; 2] = [Order::Big, Order::Little];

fn hello(port: u16) -> Vec<u8> {
    udp(&format!("10.244.1.14:{port}"), "10.96.0.50:443", b"hello")
}

fn run(blocks: &[Vec<u8>]) -> Ran {
    Lab::new().run_on(&blocks.concat())
}

/// Both packets went to pod-1.
fn assert_both_ran(ran: &Ran) {
    assert_eq!(ran.code, 0, "{}", ran.said);
    assert_eq!(ran.lines.len(), 2, "{:?}", ran.lines);
    for n in [1, 2] {
        assert_eq!(tuple(&ran.sent(n).bytes).1, "10.244.1.11:8080");
    }
}

#[test]
fn either_byte_order_and_several_sections() {
    for order in ORDERS {
        for other in ORDERS {
            let ran = run(&[
                order.section(),
                order.port("uplink", 6),
                order.port(POD_4, 9),
                order.packet(1, START_NS, hello(1).len(), &hello(1)),
                other.section(),
                other.port(POD_4, 6),
                other.packet(0, START_NS / 1000 + 2_000_000, hello(2).len(), &hello(2)),
            ]);
            assert_both_ran(&ran);
            assert_eq!(ran.sent(2).time_ns, START_NS + 2 * SECOND_NS, "{order:?} {other:?}");
        }
    }
}

#[test]
fn any_resolution_of_time() {
    let seconds = START_NS / SECOND_NS;
    for (resolution, units_per_s) in
        [(0, 1), (3, 1000), (6, 1_000_000), (9, SECOND_NS), (0x80, 1), (0x80 | 20, 1 << 20)]
    {
        let order = Order::Little;
        let ran = run(&[
            order.section(),
            order.port(POD_4, resolution),
            order.packet(0, seconds * units_per_s, hello(1).len(), &hello(1)),
            order.packet(0, (seconds + 3) * units_per_s, hello(2).len(), &hello(2)),
        ]);
        assert_both_ran(&ran);
        assert_eq!([ran.sent(1).time_ns, ran.sent(2).time_ns], [START_NS, START_NS + 3 * SECOND_NS], "{resolution:#x}");
    }
    // None given: microseconds. An offset in seconds comes on top.
    let order = Order::Big;
    let ran = run(&[
        order.section(),
        order.interface(1, 0, &[(2, POD_4.as_bytes()), (14, &5_i64.to_be_bytes()), (0, &[])]),
        order.packet(0, (seconds - 5) * 1_000_000, hello(1).len(), &hello(1)),
        order.packet(0, (seconds - 5) * 1_000_000 + 1, hello(2).len(), &hello(2)),
    ]);
    assert_both_ran(&ran);
    assert_eq!([ran.sent(1).time_ns, ran.sent(2).time_ns], [START_NS, START_NS + 1000]);
}

#[test]
fn blocks_of_no_interest_are_skipped_and_packets_without_a_time_come_now() {
    let order = Order::Little;
    let ran = run(&[
        order.section(),
        order.block(4, &[0; 8]),
        order.port(POD_4, 9),
        order.packet(0, START_NS, hello(1).len(), &hello(1)),
        order.block(5, &[0; 12]),
        order.block(0x0bad, b"vendor's own"),
        order.block(0x8000_0001, &[]),
        order.simple_packet(&hello(2)),
    ]);
    assert_both_ran(&ran);
    assert_eq!(ran.sent(2).time_ns, START_NS);
}

#[test]
fn an_interface_may_be_described_late_and_be_no_port_as_long_as_nothing_comes_from_it() {
    let order = Order::Big;
    let ran = run(&[
        order.section(),
        order.port("lo", 9),
        order.port(POD_4, 9),
        order.packet(1, START_NS, hello(1).len(), &hello(1)),
        order.port("uplink", 9),
        order.packet(1, START_NS + 1, hello(2).len(), &hello(2)),
    ]);
    assert_both_ran(&ran);
}

#[test]
fn a_packet_cut_by_the_capture_is_dropped_by_name() {
    let order = Order::Little;
    let ran = run(&[
        order.section(),
        order.port(POD_4, 9),
        order.packet(0, START_NS, 1500, &hello(1)),
        order.packet(0, START_NS, hello(2).len(), &hello(2)),
    ]);
    assert_eq!(ran.code, 0);
    assert_eq!(ran.verdict(1), ("drop", Some("capture_cut")));
    assert_eq!(ran.verdict(2), ("forward", None));
}

#[test]
fn all_before_the_damage_is_run_and_the_damage_is_named() {
    let order = Order::Little;
    let begin = [order.section(), order.port(POD_4, 9)].concat();
    let packet = |port| order.packet(0, START_NS, hello(port).len(), &hello(port));
    let good = [begin.clone(), packet(1), packet(2)].concat();
    let whole = Lab::new().run_on(&good);
    let third = packet(3);
    for cut in [1, 4, 7, 8, 9, 28, 40, third.len() - 4, third.len() - 1] {
        let ran = Lab::new().run_on(&[&good[..], &third[..cut]].concat());
        assert_eq!(ran.code, 1, "{cut} bytes of a third packet: {}", ran.said);
        assert_eq!((&ran.lines, &ran.bytes.0), (&whole.lines, &whole.bytes.0));
        let said = format!("byte {}: the file ends {cut} bytes into a block", good.len());
        assert!(ran.said.contains(&said) && ran.said.contains("The 2 packets before were run"), "{}", ran.said);
    }
    let ran = Lab::new().run_on(&begin[..begin.len() - 1]);
    assert_eq!(ran.code, 2, "nothing was done: {}", ran.said);
    for (what, block) in [
        ("with the length 3", [6, 0, 0, 0, 3, 0, 0, 0].to_vec()),
        ("with the length 4294967292", [6, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff].to_vec()),
        ("interface 7", order.packet(7, START_NS, 0, &[])),
        ("too short for it", order.block(6, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0xff, 0, 0, 0])),
        ("cut short", order.block(6, &[0; 8])),
        ("cut short", order.block(3, &[])),
        ("cut short", order.block(1, &[])),
        ("byte-order magic", order.block(0x0a0d_0d0a, &[0; 16])),
    ] {
        let ran = Lab::new().run_on(&[&good[..], &block].concat());
        assert_eq!((ran.code, &ran.lines), (1, &whole.lines), "{what}: {}", ran.said);
        assert!(ran.said.contains(what), "{what}: {}", ran.said);
    }
}

#[test]
fn what_is_no_capture_of_ports_is_refused_with_what_would_be_one() {
    let order = Order::Little;
    let from = |name: &str| {
        [order.section(), order.port(name, 9), order.packet(0, START_NS, hello(1).len(), &hello(1))].concat()
    };
    for (said, bytes) in [
        (
            "interface \"eth0\", which is no port of this node; the ports are uplink, node, pod:default/pod-1",
            from("eth0"),
        ),
        ("interface \"pod:default/remote-1\", which is no port", from("pod:default/remote-1")),
        ("not a pcapng file", b"GET / HTTP/1.1\r\n".to_vec()),
        ("older pcap format", [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0].to_vec()),
        (
            "link type 101",
            [
                order.section(),
                order.interface(101, 0, &[(2, b"uplink"), (0, &[])]),
                order.packet(0, START_NS, hello(1).len(), &hello(1)),
            ]
            .concat(),
        ),
        (
            "an interface without a name",
            [order.section(), order.interface(1, 0, &[]), order.packet(0, START_NS, hello(1).len(), &hello(1))]
                .concat(),
        ),
    ] {
        let ran = Lab::new().run_on(&bytes);
        assert_eq!(ran.code, 2, "{said}: {}", ran.said);
        assert!(ran.said.contains(said) && ran.said.contains("in.pcapng"), "{said}: {}", ran.said);
    }
    let ran = Lab::new().run_on(&[]);
    assert_eq!((ran.code, ran.out.len()), (0, 0), "an empty file has no packets: {}", ran.said);
}

#[test]
fn a_capture_that_is_not_there_breaks_the_run() {
    let lab = Lab::new();
    let (from, to) = (lab.folder().join("none"), lab.folder().join("out"));
    let output = crate::lab::command(&crate::lab::examples(), &from, &to).output().expect("a run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("none: the capture cannot be opened"), "{said}");
}

#[test]
fn the_capture_that_is_read_is_not_written_over() {
    let lab = Lab::new();
    let path = lab.folder().join("both.pcapng");
    std::fs::write(&path, Order::Big.section()).expect("a file");
    let output = crate::lab::command(&crate::lab::examples(), &path, &path).output().expect("a run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--out names the capture that is read"), "{said}");
    assert_eq!(std::fs::read(&path).expect("a file"), Order::Big.section());
}
