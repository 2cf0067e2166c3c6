//! Lines that wait for an earlier packet's end are held back, and only so many.

use crate::capture::Order;
use crate::lab::{SECOND_NS, START_NS, command, examples};
use crate::packets::{fragments, udp};

/// More than are held back.
const PACKETS: u64 = 66_000;

#[test]
fn a_line_that_waits_too_long_for_its_end_is_written_without_it() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let (from, to) = (folder.path().join("in.pcapng"), folder.path().join("out.pcapng"));
    let order = Order::Little;
    let lost = fragments(&udp("10.244.1.14:40000", "10.96.0.50:443", &[7; 2000]), 1000).pop().expect("the last");
    let other = udp("10.244.1.14:41000", "10.96.0.50:443", b"hello");
    let mut blocks =
        vec![order.section(), order.port("pod:default/pod-4", 9), order.packet(0, START_NS, lost.len(), &lost)];
    let packet = |n: u64| order.packet(0, START_NS + n * SECOND_NS / 10_000, other.len(), &other);
    blocks.extend((1..=PACKETS).map(packet));
    std::fs::write(&from, blocks.concat()).expect("a capture");
    let output = command(&examples(), &from, &to).output().expect("a run");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len() as u64, 1 + PACKETS + 1);
    assert_eq!((&lines[0]["n"], &lines[0]["verdict"]), (&1.into(), &"wait".into()));
    for (n, line) in (2..).zip(&lines[1..=PACKETS as usize]) {
        assert_eq!((&line["n"], &line["verdict"], &line["out"][0]), (&n.into(), &"forward".into(), &(n - 1).into()));
    }
    let books = &lines[lines.len() - 1];
    assert_eq!((&books["received"], &books["dropped"]["fragment_timeout"]), (&(PACKETS + 1).into(), &1.into()));
}
