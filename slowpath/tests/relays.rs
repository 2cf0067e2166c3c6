//! ICMP errors about flows that another node tracks: one copy to each other node, within bounds.

mod node;

use std::net::IpAddr;
use std::sync::Arc;

use atalho_engine::handoff::{Handoff, Task};
use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_slowpath::Limits;
use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, NetSlice, PacketBuilder, SlicedPacket};
use node::*;

const REASON: PuntReason = PuntReason::TrackedElsewhere;

/// Fragmentation needed, from a router to a Service address.
fn error(hops: u8) -> Vec<u8> {
    let mut quoted = Vec::new();
    let answer = PacketBuilder::ipv4([172, 30, 0, 41], [203, 0, 113, 5], 60);
    answer.udp(53, 50_000).write(&mut quoted, b"an answer that is too long").unwrap();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(FAR_MAC, NODE_MAC).ipv4([203, 0, 113, 1], [172, 30, 0, 41], hops);
    builder.icmpv4_raw(3, 4, [0, 0, 5, 0x78]).write(&mut frame, &quoted).unwrap();
    frame
}

fn with_other_nodes(limits: Limits, other_nodes: Vec<IpAddr>) -> TestNode {
    let node = TestNode::with(limits, 1);
    let changed = atalho_engine::tables::Tables { other_nodes: Arc::new(other_nodes), ..tables() };
    *node.tables.lock().unwrap() = Arc::new(changed);
    node.resolve();
    node
}

/// Nodes behind the neighbour.
fn nodes(count: u8) -> Vec<IpAddr> {
    (1..=count).map(|n| IpAddr::from([198, 51, 100, n])).collect()
}

fn relay(node: &mut TestNode, now_ms: u64) -> Vec<Box<Handoff>> {
    let out = node.handle(now_ms, 0, punt(REASON, None, UPLINK, 0, &error(9)));
    out.into_iter().map(|(_, buffer)| buffer).collect()
}

/// Where a right copy goes.
fn destination(copy: &Handoff) -> IpAddr {
    assert_eq!((copy.task, copy.ingress), (Task::Reply, UPLINK));
    let (came, left) = (error(9), copy.bytes());
    assert_eq!((&left[..6], &left[6..12]), (&FAR_MAC[..], &NODE_MAC[..]));
    let packet = SlicedPacket::from_ethernet(left).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!((header.protocol, header.time_to_live), (IpNumber::ICMP, 8));
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(left[26..30], came[26..30], "from the router still");
    assert_eq!(left[34..], came[34..], "what it says");
    ip.header().destination_addr().into()
}

#[test]
fn each_other_node_of_the_family_gets_a_copy() {
    let mut node = with_other_nodes(Limits::default(), [nodes(3), vec![ip("2001:db8::3")]].concat());
    let copies = relay(&mut node, 0);
    assert_eq!(copies.iter().map(|copy| destination(copy)).collect::<Vec<_>>(), nodes(3));
    let books = node.slow.counters().books();
    assert_eq!((books.punted, books.answered[REASON as usize]), (1, 1));
}

#[test]
fn the_reserved_bit_goes_on_under_a_right_checksum() {
    let mut node = with_other_nodes(Limits::default(), nodes(1));
    let mut came = error(9);
    came[20] |= 0x80;
    let out = node.punt(0, REASON, UPLINK, 0, &came).unwrap();
    assert_eq!((out.task, out.bytes()[20]), (Task::Reply, came[20]));
    let sum = Sum16BitWords::new().add_slice(&out.bytes()[14..34]).ones_complement();
    assert_eq!(sum, 0, "header checksum");
}

#[test]
fn many_nodes_get_their_copies_in_turn_and_copies_are_limited_in_rate() {
    let limits = Limits { relays_per_s: 64, relays_burst: 128, ..Limits::default() };
    let mut node = with_other_nodes(limits, nodes(100));
    let mut told: Vec<IpAddr> = Vec::new();
    for _ in 0..2 {
        let copies = relay(&mut node, 0);
        assert_eq!(copies.len(), 64);
        told.extend(copies.iter().map(|copy| destination(copy)));
        copies.into_iter().for_each(|copy| drop(node.queues[0].free.push(copy)));
    }
    told.sort_unstable();
    told.dedup();
    assert_eq!(told, nodes(100), "after two errors everybody knows");
    assert_eq!(relay(&mut node, 999)[0].task, Task::Drop(DropReason::PuntRateLimited));
    assert_eq!(relay(&mut node, 1000).len(), 64);
    // Answers have a budget of their own.
    let answer = node.punt(1000, PuntReason::NoEndpoint, UPLINK, 0, &error(9)[..14]).unwrap();
    assert_eq!(answer.task, Task::Drop(DropReason::SlowPathMalformed), "not for its rate");
}

#[test]
fn one_sender_is_limited_as_for_answers() {
    let limits = Limits { answers_to_sender_per_s: 1, answers_to_sender_burst: 1, ..Limits::default() };
    let mut node = with_other_nodes(limits, nodes(2));
    assert_eq!(relay(&mut node, 0).len(), 2);
    assert_eq!(relay(&mut node, 1)[0].task, Task::Drop(DropReason::SenderRateLimited));
}

#[test]
fn a_node_whose_way_is_not_known_yet_is_asked_for_and_left_out() {
    // One on the uplink's own net that nobody has asked for, one behind the gateway.
    let stranger = ip("192.0.2.77");
    let mut node = with_other_nodes(Limits::default(), vec![stranger, nodes(1)[0]]);
    let copies = relay(&mut node, 0);
    assert_eq!(copies.iter().map(|copy| destination(copy)).collect::<Vec<_>>(), nodes(1));
    assert_eq!(node.asked(), [stranger]);

    let mut alone = with_other_nodes(Limits::default(), vec![stranger]);
    assert_eq!(relay(&mut alone, 0)[0].task, Task::Drop(DropReason::IcmpUnknownFlow));
    assert_eq!(alone.asked(), [stranger]);
}

#[test]
fn without_buffers_nobody_gets_one_and_without_hops_neither() {
    let mut node = with_other_nodes(Limits::default(), nodes(3));
    let taken: Vec<_> = (0..BUFFERS - 1).map(|_| node.queues[0].free.pop().unwrap()).collect();
    let out = relay(&mut node, 0);
    assert_eq!(out.len(), 2, "the packet's buffer and the one that was left");
    assert!(out.iter().all(|buffer| buffer.task == Task::Drop(DropReason::PuntQueueFull)));
    drop(taken);

    let mut node = with_other_nodes(Limits::default(), nodes(3));
    let out = node.punt(0, REASON, UPLINK, 0, &error(1)).unwrap();
    assert_eq!(out.task, Task::Drop(DropReason::IcmpUnknownFlow));
}
