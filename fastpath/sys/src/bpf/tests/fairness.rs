//! Who may enter a queue of the funnel whose worker does not keep up. The test is the worker: it writes what one would.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use atalho_layout::{KernelCounter, pressure};

use super::frames::{Frame, TCP, UDP};
use super::lab::{Lab, Pod, counted, run_tcx, sh, skipped};
use crate::bpf::Kernel;
use crate::mmap::SharedArray;

const RING: u32 = 2048;
pub(super) const REDIRECT: i32 = 7;

/// The lab has two queues; all flows here are in one of them, so both say the same.
pub(super) struct Worker(&'static [AtomicU32]);

impl Worker {
    pub(super) fn new(kernel: &Kernel, ring: u32) -> Self {
        let map = kernel.maps().pressures;
        let worker = Self(SharedArray::words32(map.fd, map.bytes).unwrap());
        worker.store(pressure::RING, ring);
        worker.store(pressure::PIECE_BYTES, 1792);
        worker
    }

    fn store(&self, word: usize, value: u32) {
        (0..2).for_each(|queue| self.0[queue * pressure::WORDS + word].store(value, Ordering::SeqCst));
    }

    /// Has taken so many since the start, and sees so many wait.
    pub(super) fn look(&self, taken: u32, waiting: u32) {
        self.store(pressure::TAKEN, taken);
        self.store(pressure::WAITING, waiting);
        let next = self.0[pressure::REPORT].load(Ordering::SeqCst) + 1;
        self.store(pressure::REPORT, next);
    }
}

/// A packet of a pod to somewhere far away. All pods' are in one queue: the hash that chooses it is symmetric, so what both
/// addresses have in common does not count.
pub(super) fn frame_of(pod: &Pod) -> Vec<u8> {
    frame_by(pod, UDP)
}

fn frame_by(pod: &Pod, protocol: u8) -> Vec<u8> {
    let [.., last] = pod.record.addr4;
    let own = Ipv4Addr::from(pod.record.addr4).to_string();
    Frame::ports(&own, &format!("198.51.100.{last}"), protocol, 4000, 9).with_mac(pod.record.host_mac).bytes()
}

/// How many of `count` packets of a pod enter the funnel.
fn enter(kernel: &Kernel, pod: &Pod, count: u32, payload: usize) -> u32 {
    enter_by(kernel, pod, UDP, count, payload)
}

fn enter_by(kernel: &Kernel, pod: &Pod, protocol: u8, count: u32, payload: usize) -> u32 {
    let mut frame = frame_by(pod, protocol);
    frame.resize(frame.len() + payload, 0);
    (0..count).map(|_| u32::from(run_tcx(kernel, "pod_ingress", pod.ifindex, &frame).0 == REDIRECT)).sum()
}

/// Pods of a node whose programs say who may enter; nothing of what their own stacks send is in between.
pub(super) fn silent_pods<const N: usize>(lab: &mut Lab, kernel: &mut Kernel) -> [Pod; N] {
    std::array::from_fn(|index| {
        let pod = lab.add_pod(index as u8 + 1);
        sh(&format!("ip link set pod{} down", index + 1));
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
    let [loud, quiet] = silent_pods(&mut lab, &mut kernel);
    let worker = Worker::new(&kernel, RING);

    // Without a worker that keeps up there is no queue, and nobody is policed.
    for taken in (0..5000).step_by(50) {
        worker.look(taken, 0);
        assert_eq!(enter(&kernel, &loud, 50, 0), 50);
    }

    // The worker has stopped: the loud one gets a third of the ring, and not a packet more.
    worker.look(5000, 0);
    let (entered, moved) = counted(&mut kernel, |kernel| enter(kernel, &loud, 4000, 0));
    let third = RING / 3;
    assert!((third..third + RING / 8).contains(&entered), "{entered} of {RING}");
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
    assert!((left - RING / 6..=left + RING / 6).contains(&loud_entered), "{loud_entered} of {left}");
    assert!(waiting > RING / 4, "{waiting}");

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
    let [loud, _] = silent_pods(&mut lab, &mut kernel);
    let worker = Worker::new(&kernel, RING);
    worker.look(0, 0);
    // Two entries each.
    let entered = enter(&kernel, &loud, 2000, 3300);
    assert!((RING / 6..RING / 6 + RING / 8).contains(&entered), "{entered}");
}

#[test]
fn streams_leave_room_for_their_pods_other_packets() {
    if skipped("streams_leave_room_for_their_pods_other_packets") {
        return;
    }
    let mut lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let [pod, _] = silent_pods(&mut lab, &mut kernel);
    let worker = Worker::new(&kernel, RING);
    worker.look(0, 0);
    let segments = enter_by(&kernel, &pod, TCP, 4000, 1400);
    assert!((RING / 4..RING / 4 + RING / 8).contains(&segments), "{segments} of {RING}");
    // What streams leave is for the others, be they datagrams or what asks for a connection, and not for streams.
    let datagrams = enter(&kernel, &pod, 20, 1400);
    let others = enter_by(&kernel, &pod, TCP, 1000, 0);
    assert_eq!(datagrams, 20);
    assert!((RING / 64..RING / 8).contains(&others), "{others} beside {segments}");
    assert_eq!(enter_by(&kernel, &pod, TCP, 1, 1400), 0);
}
