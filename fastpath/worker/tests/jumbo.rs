//! Packets longer than a chunk of memory, over ports in plain memory.

mod common;

use std::net::Ipv4Addr;

use atalho_engine::handoff::Task;
use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_layout::tag_mac;
use atalho_sys::xsk::FramePool;
use atalho_worker::memory_port::MemoryPort;
use atalho_worker::{Spin, Worker};
use common::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// Chunks of 4096 bytes hold 3840 of a packet.
fn jumbo() -> (Worker<MemoryPort>, Bench) {
    let pool = FramePool::in_memory(4096, FRAMES).unwrap().with_pieces();
    bench_of(9000, pool, 16, Spin::Always, |port| port)
}

fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n / 3) as u8).collect()
}

fn long_from_pod_a(to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    udp_with(payload, tag_mac(POD_A), POD_A_IP, to, 1000)
}

/// Reads a frame with another implementation, which also checks that nothing is behind the packet.
fn assert_intact(frame: &[u8], payload: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (sliced.net, sliced.transport) else {
        panic!("no UDP over IPv4")
    };
    assert_eq!(frame.len(), 14 + usize::from(ip.header().total_len()));
    assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
    assert!(udp.payload() == payload);
    let checksum = udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap();
    assert_eq!(udp.checksum(), checksum);
    assert_eq!(ip.header().ttl(), 63);
}

#[test]
fn long_packets_cross_in_pieces_and_both_books_are_even() {
    let (mut worker, bench) = jumbo();
    // One, two and three pieces, and the bounds between them: 42 bytes of headers.
    let lengths = [32, 3798, 3799, 7638, 7639, 8972];
    let sent: Vec<_> = lengths.map(payload).into();
    for payload in &sent {
        assert!(bench.funnel.send(&long_from_pod_a(REMOTE_POD_IP, payload)));
        assert!(bench.funnel.send(&long_from_pod_a(POD_B_IP, payload)));
    }
    while worker.turn() > 0 {}
    for payload in &sent {
        assert_intact(bench.uplink.receive().expect("by the uplink").bytes(), payload);
        assert_intact(bench.funnel.receive().expect("to the pod").bytes(), payload);
    }
    let books = bench.counters.books();
    assert!(books.is_even(), "{books:?}");
    assert_eq!(books.forwarded, 12);
    let bytes: usize = lengths.iter().map(|bytes| 2 * (bytes + 42)).sum();
    assert_eq!((books.received_bytes, books.forwarded_bytes), (bytes as u64, bytes as u64), "of whole packets");
    worker.frame_books().check().unwrap();
}

#[test]
fn what_stands_behind_the_ip_length_is_cut_off_with_its_pieces() {
    let (mut worker, bench) = jumbo();
    let mut frame = long_from_pod_a(REMOTE_POD_IP, &payload(2000));
    frame.resize(9014, 0xee);
    bench.funnel.send(&frame);
    worker.turn();
    assert_intact(bench.uplink.receive().unwrap().bytes(), &payload(2000));
    worker.frame_books().check().unwrap();
    // And one whose length promises more than came.
    let mut frame = long_from_pod_a(REMOTE_POD_IP, &payload(8972));
    frame.truncate(9013);
    bench.funnel.send(&frame);
    worker.turn();
    assert_eq!(bench.counters.books().dropped_by(DropReason::BadTotalLength), 1);
    worker.frame_books().check().unwrap();
}

#[test]
fn a_packet_longer_than_the_mtu_is_refused_by_name() {
    let (mut worker, bench) = jumbo();
    // Room that is there for a VLAN tag may be taken by a packet: whoever sent it is told what fits.
    bench.funnel.send(&long_from_pod_a(REMOTE_POD_IP, &payload(8976)));
    worker.turn();
    let told = bench.queues.punts.pop().expect("a punt");
    assert!(matches!(told.task, Task::Punt { reason: PuntReason::TooBig, mtu: 9000, .. }), "{:?}", told.task);
    bench.funnel.send(&long_from_pod_a(REMOTE_POD_IP, &payload(8977)));
    worker.turn();
    let books = bench.counters.books();
    assert!(books.is_even() && books.dropped_by(DropReason::SuperPacket) == 1, "{books:?}");
    assert_eq!(books.received_bytes, 9018 + 9019);
    worker.frame_books().check().unwrap();
}

#[test]
fn a_punt_takes_all_pieces_along_and_they_come_back() {
    let (mut worker, bench) = jumbo();
    let sent = long_from_pod_a(STRANGER_IP, &payload(8972));
    bench.funnel.send(&sent);
    worker.turn();
    let mut buffer = bench.queues.punts.pop().expect("a punt");
    assert!(matches!(buffer.task, Task::Punt { reason: PuntReason::NeighbourUnresolved, .. }));
    assert!(buffer.bytes() == sent);
    // As if the neighbour had answered, and the packet had been for one that is known.
    let resumed = long_from_pod_a(REMOTE_POD_IP, &payload(8972));
    buffer.frame[..resumed.len()].copy_from_slice(&resumed);
    buffer.task = Task::Resume;
    assert!(bench.queues.returns.push(buffer).is_ok());
    worker.turn();
    assert_intact(bench.uplink.receive().expect("resumed").bytes(), &payload(8972));
    let books = bench.counters.books();
    assert!(books.is_even(), "{books:?}");
    worker.frame_books().check().unwrap();
}

#[test]
fn an_error_that_cannot_be_checked_as_a_whole_is_dropped_by_name() {
    let (mut worker, bench) = jumbo();
    let mut frame = long_from_pod_a(POD_B_IP, &payload(8972));
    // Destination unreachable in place of UDP; the header checksum follows the protocol's change.
    frame[23] = 1;
    frame[34..36].copy_from_slice(&[3, 1]);
    let sum = u16::from_be_bytes([frame[24], frame[25]]);
    frame[24..26].copy_from_slice(&(sum + 16).to_be_bytes());
    bench.funnel.send(&frame);
    worker.turn();
    let books = bench.counters.books();
    assert_eq!((books.dropped_by(DropReason::RxMultiPiece), books.is_even()), (1, true), "{books:?}");
    worker.frame_books().check().unwrap();
}

#[test]
fn a_memory_that_runs_out_in_the_middle_of_a_packet_loses_no_chunk() {
    let pool = FramePool::in_memory(4096, 7).unwrap().with_pieces();
    let (mut worker, bench) = bench_of(9000, pool, 16, Spin::Always, |port: MemoryPort| port);
    for round in 0..50u8 {
        for _ in 0..3 {
            bench.funnel.send(&long_from_pod_a(REMOTE_POD_IP, &payload(8972)));
        }
        while worker.turn() > 0 {}
        let mut arrived = 0;
        while let Some(frame) = bench.uplink.receive() {
            assert_intact(frame.bytes(), &payload(8972));
            arrived += 1;
        }
        assert!(arrived >= 2, "round {round}: {arrived}");
        worker.frame_books().check().unwrap();
    }
}
