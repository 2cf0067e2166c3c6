//! What a tap copies is what came in, in its order; what it cannot copy it counts, and no worker waits or allocates for it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atalho_sys::no_alloc::{self, Guarded};
use atalho_worker::Spin;
use atalho_worker::tap::{Filter, Tap, TapRing};
use common::*;

#[global_allocator]
static ALLOCATOR: Guarded = Guarded;

const BUFFERS: usize = 16;

fn taken(ring: &TapRing) -> Vec<(u32, Vec<u8>)> {
    let mut packets = Vec::new();
    while ring.take(|tapped| packets.push((tapped.ingress, tapped.bytes().to_vec()))) {}
    packets
}

#[test]
fn a_tap_copies_what_comes_in_before_it_is_changed_and_counts_what_it_cannot() {
    let ring = TapRing::new(BUFFERS, 1);
    let (worker, bench) = bench_with(8, Spin::Micros(20), |port| port);
    let mut worker = worker.with_tap(Tap::new(0, Filter::default(), ring.clone()));
    let mut sent = Vec::new();
    for n in 0..4 {
        let (from_uplink, from_pod) = (from_uplink(POD_A_IP, 1000 + n), from_pod_a(POD_B_IP, 2000 + n));
        bench.uplink.send(&from_uplink);
        bench.funnel.send(&from_pod);
        sent.extend([(UPLINK, from_uplink), (POD_A, from_pod)]);
        while worker.turn() > 0 {}
    }
    assert_eq!(taken(&ring), sent);
    assert!(bench.counters.books().forwarded >= 8, "the engine has changed its own copy and sent it");

    for n in 0..BUFFERS as u16 + 5 {
        bench.uplink.send(&from_uplink(POD_A_IP, 3000 + n));
    }
    while worker.turn() > 0 {}
    assert_eq!((taken(&ring).len(), ring.lost(0)), (BUFFERS, 5));
    bench.uplink.send(&from_uplink(POD_A_IP, 4000));
    while worker.turn() > 0 {}
    assert_eq!((taken(&ring).len(), ring.lost(0)), (1, 5), "there is room again");
}

#[test]
fn a_filter_leaves_the_rest_out_and_a_worker_with_a_tap_allocates_nothing() {
    let ring = TapRing::new(BUFFERS, 1);
    let (worker, bench) = bench_with(8, Spin::Micros(20), |port| port);
    let worker = worker.with_tap(Tap::new(0, "in uplink and udp".parse().unwrap(), ring.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let thread = worker.spawn(stop.clone()).unwrap();
    let before = no_alloc::violations();
    for n in 0..100_u16 {
        bench.uplink.send(&from_uplink(POD_A_IP, n));
        bench.funnel.send(&from_pod_a(POD_B_IP, n));
        if bench.queues.is_asleep() {
            bench.doorbell.ring();
        }
        while bench.funnel.receive().is_some() || bench.uplink.receive().is_some() {}
    }
    eventually("all is done", || bench.funnel.waiting() + bench.uplink.waiting() == 0 && bench.queues.is_asleep());
    stop.store(true, Ordering::Relaxed);
    bench.doorbell.ring();
    thread.join().unwrap();
    let packets = taken(&ring);
    assert!(packets.iter().all(|(ingress, _)| *ingress == UPLINK));
    assert_eq!(packets.len() as u64 + ring.lost(0), 100, "each is copied or counted");
    assert_eq!(no_alloc::violations(), before);
}
