//! A worker allocates and frees nothing after its start, whatever happens to its packets (invariant 3).

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atalho_engine::handoff::Task;
use atalho_engine::tables::Tables;
use atalho_sys::no_alloc::{self, Guarded};
use atalho_worker::Spin;
use common::*;

#[global_allocator]
static ALLOCATOR: Guarded = Guarded;

#[test]
fn a_worker_allocates_nothing_after_its_start() {
    // The guard must be able to see: a thread that promised and breaks its word is counted.
    std::thread::spawn(|| {
        no_alloc::arm();
        let broken = std::hint::black_box(Box::new(1u64));
        no_alloc::disarm();
        drop(broken);
    })
    .join()
    .unwrap();
    assert_eq!(no_alloc::violations(), 1);

    let (worker, bench) = bench_with(8, Spin::Micros(20), |port| port);
    let stop = Arc::new(AtomicBool::new(false));
    let thread = worker.spawn(stop.clone()).unwrap();
    // Control keeps every snapshot until no worker has it any more.
    let mut kept = vec![bench.snapshot.load_full()];
    for round in 0..200u16 {
        for n in 0..8 {
            bench.funnel.send(&from_pod_a(POD_B_IP, round * 16 + n));
            bench.uplink.send(&from_uplink(POD_A_IP, round * 16 + n));
            bench.funnel.send(&from_pod_a(STRANGER_IP, n));
            bench.funnel.send(&[0x77; 40]);
        }
        if let Some(mut buffer) = bench.queues.punts.pop() {
            buffer.task = if round % 2 == 0 { Task::Resume } else { Task::Reply };
            assert!(bench.queues.returns.push(buffer).is_ok());
        }
        if let Some(connection) = bench.table.connections().next() {
            let _ = bench.queues.end_flows.push(connection.at);
        }
        if round % 20 == 0 {
            let next = Arc::new(Tables { generation: u64::from(round) + 2, ..(*kept[0]).clone() });
            bench.snapshot.store(next.clone());
            kept.push(next);
        }
        if bench.queues.is_asleep() {
            bench.doorbell.ring();
        }
        while bench.funnel.receive().is_some() || bench.uplink.receive().is_some() {}
        if round % 50 == 0 {
            eventually("it sleeps in between", || bench.queues.is_asleep());
        }
    }
    eventually("all is done", || bench.funnel.waiting() + bench.uplink.waiting() == 0 && bench.queues.is_asleep());
    stop.store(true, Ordering::Relaxed);
    bench.doorbell.ring();
    thread.join().unwrap();
    let books = bench.counters.books();
    assert!(books.forwarded > 1000 && books.punted() > 0 && bench.stats.flows_ended() > 0, "{books:?}");
    assert!(bench.stats.sleeps() > 0);
    assert_eq!(no_alloc::violations(), 1, "the worker broke its promise");
}
