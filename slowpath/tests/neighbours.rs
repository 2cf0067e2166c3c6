//! Packets that wait for a neighbour: they go on when it is resolved, and everything about the wait is bounded.

mod node;

use atalho_engine::handoff::Task;
use atalho_engine::next_hops::NextHop;
use std::net::IpAddr;

use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_slowpath::Limits;
use etherparse::{NetSlice, TransportSlice};
use node::*;

const FULL: Option<Task> = Some(Task::Drop(DropReason::NeighbourQueueFull));

#[test]
fn packets_go_on_in_order_once_the_neighbour_is_resolved() {
    let mut node = TestNode::with(Limits::default(), 2);
    for at in 0..5u8 {
        assert_eq!(node.wait_for(u64::from(at), usize::from(at % 2), ip(NEIGHBOUR), &[at; 60]), None);
    }
    assert!(node.slow.has_waiting());
    assert!(node.tick(20).is_empty());
    node.resolve();
    let out = node.tick(40);
    let order: Vec<_> = out.iter().map(|(worker, buffer)| (*worker, buffer.bytes().to_vec(), buffer.task)).collect();
    let expected: Vec<_> = (0..5u8).map(|at| (usize::from(at % 2), vec![at; 60], Task::Resume)).collect();
    assert_eq!(order, expected, "each to its worker, unchanged");
    assert_eq!(out[0].1.ingress, POD_PORT);
    assert!(!node.slow.has_waiting());
    assert_eq!(node.slow.counters().books().resumed, 5);
}

#[test]
fn a_pod_that_is_not_reachable_yet_is_waited_for_too() {
    let mut node = TestNode::new();
    let pod = node.next_hops.get(POD_INDEX).unwrap();
    node.next_hops.set(POD_INDEX, &NextHop { destination: None, ..pod });
    assert_eq!(node.wait_for(0, 0, ip("10.244.0.7"), &[0; 60]), None);
    assert!(node.tick(20).is_empty());
    node.next_hops.set(POD_INDEX, &pod);
    assert_eq!(node.tick(40).len(), 1);
}

#[test]
fn the_kernel_is_asked_once_per_neighbour_and_second() {
    let mut node = TestNode::new();
    for now_ms in [0, 1, 500, 999] {
        node.wait_for(now_ms, 0, ip(NEIGHBOUR), &[0; 60]);
        node.tick(now_ms);
    }
    assert_eq!(node.asked(), [ip(NEIGHBOUR)]);
    node.wait_for(999, 0, ip("192.0.2.2"), &[0; 60]);
    assert_eq!(node.asked(), [ip("192.0.2.2")]);
    node.tick(1000);
    node.wait_for(1000, 0, ip(NEIGHBOUR), &[0; 60]);
    assert_eq!(node.asked(), [ip(NEIGHBOUR)]);
    node.tick(5000);
    assert!(!node.slow.has_waiting());
    node.tick(5001);
    assert!(node.asked().is_empty(), "nobody waits, nobody asks");
}

#[test]
fn one_neighbours_queue_is_bounded() {
    let mut node = TestNode::new();
    for _ in 0..64 {
        assert_eq!(node.wait_for(0, 0, ip(NEIGHBOUR), &[0; 60]), None);
    }
    assert_eq!(node.wait_for(0, 0, ip(NEIGHBOUR), &[0; 60]), FULL);
    assert_eq!(node.wait_for(0, 0, ip("192.0.2.2"), &[0; 60]), None, "another one has room");
    node.resolve();
    assert_eq!(node.tick(20).len(), 64);
    assert_eq!(node.wait_for(20, 0, ip(NEIGHBOUR), &[0; 60]), None, "and so has this one again");
}

#[test]
fn the_number_of_neighbours_is_bounded_and_recovers() {
    let mut node = TestNode::with(Limits { neighbours: 3, ..Limits::default() }, 1);
    for last in 1..=3 {
        assert_eq!(node.wait_for(0, 0, ip(&format!("192.0.2.{last}")), &[0; 60]), None);
    }
    assert_eq!(node.wait_for(0, 0, ip("192.0.2.4"), &[0; 60]), FULL);
    assert_eq!(node.tick(3000).len(), 3);
    // They are remembered for a second since the last question, but make room.
    assert_eq!(node.wait_for(3000, 0, ip("192.0.2.4"), &[0; 60]), None);
}

#[test]
fn half_of_a_workers_buffers_stay_free() {
    let mut node = TestNode::with(Limits::default(), 2);
    let parked = (0..BUFFERS).filter(|at| {
        let address = ip(&format!("192.0.2.{}", 1 + at / 32));
        node.wait_for(0, 0, address, &[0; 60]).is_none()
    });
    assert_eq!(parked.count(), BUFFERS / 2);
    assert_eq!(node.wait_for(0, 1, ip(NEIGHBOUR), &[0; 60]), None, "the other worker has its own");
}

#[test]
fn a_packet_waits_three_seconds_and_is_dropped_by_name() {
    let mut node = TestNode::new();
    node.wait_for(10, 0, ip(NEIGHBOUR), &[1; 60]);
    node.wait_for(500, 0, ip(NEIGHBOUR), &[2; 60]);
    assert!(node.tick(3009).is_empty());
    let out = node.tick(3010);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].1.task, out[0].1.bytes()[0]), (Task::Drop(DropReason::NeighbourTimeout), 1));
    assert_eq!(node.tick(3500).len(), 1);
    let books = node.slow.counters().books();
    assert_eq!(books.dropped[DropReason::NeighbourTimeout as usize], 2);
}

#[test]
fn who_sent_a_packet_that_waited_in_vain_is_told() {
    for (src, dst, primary) in
        [("10.244.0.7", "192.0.2.77", "192.0.2.10"), ("fd00:244::7", "2001:db8::77", "2001:db8::10")]
    {
        let mut frame = Vec::new();
        let ethernet = etherparse::PacketBuilder::ethernet2([2; 6], [2; 6]);
        match (ip(src), ip(dst)) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 9).udp(1, 2),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 9).udp(1, 2),
            _ => unreachable!(),
        }
        .write(&mut frame, b"content")
        .unwrap();
        let mut node = TestNode::new();
        node.wait_for(0, 0, ip(dst), &frame);
        let out = node.tick(3000);
        assert_eq!(out[0].1.task, Task::Reply);
        let answer = etherparse::SlicedPacket::from_ethernet(out[0].1.bytes()).unwrap();
        let (from, to, kind, quote): (IpAddr, IpAddr, _, _) = match (answer.net.unwrap(), answer.transport.unwrap()) {
            (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
                let kind = (icmp.type_u8(), icmp.code_u8());
                (ip.header().source_addr().into(), ip.header().destination_addr().into(), kind, icmp.payload())
            }
            (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
                let kind = (icmp.type_u8(), icmp.code_u8());
                (ip.header().source_addr().into(), ip.header().destination_addr().into(), kind, icmp.payload())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!((from, to, quote), (ip(primary), ip(src), &frame[14..]));
        assert_eq!(kind, if from.is_ipv4() { (3, 1) } else { (1, 3) });
        let books = node.slow.counters().books();
        assert_eq!(books.answered[PuntReason::NeighbourUnresolved as usize], 1);
    }
}

#[test]
fn packets_that_come_straight_back_do_not_run_in_a_circle() {
    let mut node = TestNode::new();
    node.resolve();
    node.wait_for(0, 0, ip(NEIGHBOUR), &[0; 60]);
    assert_eq!(node.tick(0).len(), 1);
    node.wait_for(0, 0, ip(NEIGHBOUR), &[0; 60]);
    assert!(node.tick(19).is_empty());
    assert_eq!(node.tick(20).len(), 1);
}

#[test]
fn a_neighbour_that_is_gone_from_the_tables_is_not_resolved() {
    let mut node = TestNode::new();
    node.resolve();
    *node.tables.lock().unwrap() = std::sync::Arc::default();
    node.wait_for(0, 0, ip(NEIGHBOUR), &[0; 60]);
    assert!(node.tick(20).is_empty());
}
