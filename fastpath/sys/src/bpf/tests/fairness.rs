//! Who may enter a queue of the funnel whose worker does not keep up. The test is the worker: it writes what one would.

use std::sync::atomic::{AtomicU32, Ordering};

use atalho_layout::{KernelCounter, pressure};

use super::frames::{Frame, UDP};
use super::lab::{Lab, Pod, counted, run_tcx, sh, skipped};
use crate::bpf::Kernel;
use crate::mmap::SharedArray;

const RING: u32 = 2048;
const REDIRECT: i32 = 7;

/// The lab has two queues; a flow is in one of them, so both say the same.
struct Worker(&'static [AtomicU32]);

impl Worker {
    fn new(kernel: &Kernel) -> Self {
        let map = kernel.maps().pressures;
        let worker = Self(SharedArray::words32(map.fd, map.bytes).unwrap());
        worker.store(pressure::RING, RING);
        worker.store(pressure::PIECE_BYTES, 1792);
        worker
    }

    fn store(&self, word: usize, value: u32) {
        (0..2).for_each(|queue| self.0[queue * pressure::WORDS + word].store(value, Ordering::SeqCst));
    }

    /// Has taken so many since the start, and sees so many wait.
    fn look(&self, taken: u32, waiting: u32) {
        self.store(pressure::TAKEN, taken);
        self.store(pressure::WAITING, waiting);
        let next = self.0[pressure::REPORT].load(Ordering::SeqCst) + 1;
        self.store(pressure::REPORT, next);
    }
}

/// How many of `count` packets of a pod enter the funnel.
fn enter(kernel: &Kernel, pod: &Pod, count: u32, payload: usize) -> u32 {
    let own = std::net::Ipv4Addr::from(pod.record.addr4).to_string();
    let mut frame = Frame::ports(&own, "198.51.100.7", UDP, 4000, 9).with_mac(pod.record.host_mac).bytes();
    frame.resize(frame.len() + payload, 0);
    (0..count).map(|_| u32::from(run_tcx(kernel, "pod_ingress", pod.ifindex, &frame).0 == REDIRECT)).sum()
}

fn two_pods(lab: &mut Lab, kernel: &mut Kernel) -> [Pod; 2] {
    [1, 2].map(|number| {
        let pod = lab.add_pod(number);
        sh(&format!("ip link set pod{number} down"));
        kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
        pod
    })
}

#[test]
fn a_pod_that_floods_leaves_room_for_the_others() {
    if skipped("a_pod_that_floods_leaves_room_for_the_others") {
        return;
    }
    let mut lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let [loud, quiet] = two_pods(&mut lab, &mut kernel);
    let worker = Worker::new(&kernel);

    // Without a worker that keeps up there is no queue, and nobody is policed.
    for taken in (0..5000).step_by(50) {
        worker.look(taken, 0);
        assert_eq!(enter(&kernel, &loud, 50, 0), 50);
    }

    // The worker has stopped: the loud one gets two thirds of the ring, and not a packet more.
    worker.look(5000, 0);
    let (entered, moved) = counted(&mut kernel, |kernel| enter(kernel, &loud, 4000, 0));
    let two_thirds = RING * 2 / 3;
    assert!((two_thirds..two_thirds + RING / 8).contains(&entered), "{entered} of {RING}");
    let dropped = u64::from(4000 - entered);
    let expected = vec![(KernelCounter::PodClaim, u64::from(entered)), (KernelCounter::PodPoliced, dropped)];
    assert_eq!(moved, expected);
    assert_eq!(kernel.pod_drops().unwrap(), [(loud.ifindex, KernelCounter::PodPoliced, dropped)]);
    // What the other one sends finds room.
    assert_eq!(enter(&kernel, &quiet, 200, 0), 200);

    // The worker goes on, and the loud one keeps the ring full. As it does, the quiet one loses nothing.
    let mut waiting = entered + 200;
    let (mut taken, mut loud_entered, mut quiet_entered) = (5000, 0, 0);
    for _ in 0..200 {
        (taken, waiting) = (taken + 64, waiting - 64);
        worker.look(taken, waiting);
        let (of_loud, of_quiet) = (enter(&kernel, &loud, 90, 0), enter(&kernel, &quiet, 10, 0));
        (loud_entered, quiet_entered) = (loud_entered + of_loud, quiet_entered + of_quiet);
        waiting += of_loud + of_quiet;
        assert!(waiting <= RING, "the ring never overflows: {waiting}");
    }
    assert_eq!(quiet_entered, 200 * 10);
    // And the loud one gets all that is left: the worker is never short of work.
    let left = 200 * 64 - 200 * 10;
    assert!((left - RING / 8..=left + RING / 8).contains(&loud_entered), "{loud_entered} of {left}");
    assert!(waiting > RING / 2, "{waiting}");

    // Two that flood get equal parts.
    let mut entered = [0, 0];
    for _ in 0..400 {
        (taken, waiting) = (taken + 64, waiting - 64);
        worker.look(taken, waiting);
        let now = [enter(&kernel, &loud, 90, 0), enter(&kernel, &quiet, 60, 0)];
        (entered[0], entered[1]) = (entered[0] + now[0], entered[1] + now[1]);
        waiting += now[0] + now[1];
    }
    let share = f64::from(entered[1]) / f64::from(entered[0] + entered[1]);
    assert!((0.42..0.58).contains(&share), "{entered:?}");

    // A pod that goes takes its count along.
    kernel.detach_pod(loud.ifindex).unwrap();
    assert!(kernel.pod_drops().unwrap().iter().all(|(ifindex, ..)| *ifindex == quiet.ifindex));
}

#[test]
fn long_packets_count_by_the_entries_that_they_take() {
    if skipped("long_packets_count_by_the_entries_that_they_take") {
        return;
    }
    let mut lab = Lab::new();
    for name in ["f0", "f1"] {
        sh(&format!("ip link set {name} mtu 3500"));
    }
    let (mut kernel, _) = lab.open();
    let [loud, _] = two_pods(&mut lab, &mut kernel);
    let worker = Worker::new(&kernel);
    worker.look(0, 0);
    // Two entries each.
    let entered = enter(&kernel, &loud, 2000, 3300);
    assert!((RING / 3..RING / 3 + RING / 8).contains(&entered), "{entered}");
}
