//! The rate of answers, junk of every kind, and the thread itself.

mod node;

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use atalho_engine::handoff::Task;
use atalho_engine::next_hops::NextHop;
use atalho_engine::verdict::{DropReason, PuntReason};
use atalho_slowpath::Limits;
use etherparse::PacketBuilder;
use node::*;
use proptest::prelude::*;

fn udp_v4() -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(FAR_MAC, NODE_MAC).ipv4([203, 0, 113, 5], [172, 30, 0, 41], 9);
    builder.udp(1, 2).write(&mut frame, b"content").unwrap();
    frame
}

fn echo_v6() -> Vec<u8> {
    let mut frame = Vec::new();
    let addresses: [std::net::Ipv6Addr; 2] = ["2001:db8:5::5".parse().unwrap(), "fd00:30::41".parse().unwrap()];
    let builder = PacketBuilder::ethernet2(FAR_MAC, NODE_MAC).ipv6(addresses[0].octets(), addresses[1].octets(), 9);
    builder.icmpv6_echo_request(1, 2).write(&mut frame, b"content").unwrap();
    frame
}

fn tcp_v4() -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(FAR_MAC, NODE_MAC).ipv4([203, 0, 113, 5], [172, 30, 0, 41], 9);
    builder.tcp(1, 2, 3, 4).syn().write(&mut frame, b"").unwrap();
    frame
}

#[test]
fn answers_are_limited_in_rate_and_the_rest_is_dropped_by_name() {
    let mut node = TestNode::with(Limits { answers_per_s: 100, answers_burst: 10, ..Limits::default() }, 1);
    let frame = udp_v4();
    let mut answered = 0;
    for packet in 0..2000 {
        // 1,000 packets a second for two seconds.
        let buffer = node.punt(packet, PuntReason::NoEndpoint, UPLINK, 0, &frame).unwrap();
        match buffer.task {
            Task::Reply => answered += 1,
            task => assert_eq!(task, Task::Drop(DropReason::PuntRateLimited)),
        }
    }
    assert_eq!(answered, 10 + 199, "the burst, then a token every 10 ms");
    let books = node.slow.counters().books();
    assert_eq!(books.dropped[DropReason::PuntRateLimited as usize], 2000 - 209);
    assert_eq!(books.answered[PuntReason::NoEndpoint as usize], 209);
}

/// A frame from a pod, or from outside, to a Service address.
fn from(src: &str) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(FAR_MAC, NODE_MAC);
    let mut frame = Vec::new();
    match ip(src) {
        IpAddr::V4(src) => ethernet.ipv4(src.octets(), [172, 30, 0, 41], 9).udp(1, 2).write(&mut frame, b"").unwrap(),
        IpAddr::V6(src) => {
            let vip: std::net::Ipv6Addr = "fd00:30::41".parse().unwrap();
            ethernet.ipv6(src.octets(), vip.octets(), 9).udp(1, 2).write(&mut frame, b"").unwrap();
        }
    }
    frame
}

#[test]
fn one_sender_does_not_silence_the_others() {
    let limits = Limits { answers_to_sender_per_s: 10, answers_to_sender_burst: 5, ..Limits::default() };
    for (flood, others) in
        [("203.0.113.5", ["203.0.113.6", "198.51.100.7"]), ("2001:db8:5::5", ["2001:db8:6::5", "2001:db8:5:1::5"])]
    {
        let mut node = TestNode::with(limits, 1);
        let mut answered = 0;
        for packet in 0..2000 {
            match node.punt(packet, PuntReason::NoEndpoint, UPLINK, 0, &from(flood)).unwrap().task {
                Task::Reply => answered += 1,
                task => assert_eq!(task, Task::Drop(DropReason::SenderRateLimited)),
            }
        }
        assert_eq!(answered, 5 + 19, "{flood}");
        for other in others {
            let task = node.punt(2000, PuntReason::NoEndpoint, UPLINK, 0, &from(other)).unwrap().task;
            assert_eq!(task, Task::Reply, "{other}");
        }
    }
    // Addresses of one /64 are one host outside; of pods, each port is.
    let mut node = TestNode::with(limits, 1);
    let mut tasks = |ingress| {
        let punt =
            |host| node.punt(0, PuntReason::NoEndpoint, ingress, 0, &from(&format!("fd00:244::{host}"))).unwrap().task;
        [1, 2, 3, 4, 5, 6].map(punt).iter().filter(|task| **task == Task::Reply).count()
    };
    assert_eq!(tasks(UPLINK), 5);
    assert_eq!(tasks(POD_PORT), 5);
}

#[test]
fn packets_that_get_no_answer_cost_no_token() {
    let mut node = TestNode::with(Limits { answers_per_s: 0, answers_burst: 1, ..Limits::default() }, 1);
    for _ in 0..5 {
        let buffer = node.punt(0, PuntReason::NoEndpoint, UPLINK, 0, &[0; 60]).unwrap();
        assert_eq!(buffer.task, Task::Drop(DropReason::SlowPathMalformed));
    }
    assert_eq!(node.punt(0, PuntReason::NoEndpoint, UPLINK, 0, &udp_v4()).unwrap().task, Task::Reply);
}

#[test]
fn a_task_that_is_no_punt_is_given_back_as_a_drop() {
    let mut node = TestNode::new();
    for task in [Task::Resume, Task::Reply, Task::Drop(DropReason::TooBig)] {
        let mut buffer = punt(PuntReason::NoEndpoint, None, UPLINK, 0, &udp_v4());
        buffer.task = task;
        let (_, returned) = node.handle(0, 0, buffer).pop().unwrap();
        assert_eq!(returned.task, Task::Drop(DropReason::SlowPathMalformed));
    }
    let unnamed = node.punt(0, PuntReason::NeighbourUnresolved, UPLINK, 0, &udp_v4()).unwrap();
    assert_eq!(unnamed.task, Task::Drop(DropReason::SlowPathMalformed), "a wait for nobody");
    let mut lying = punt(PuntReason::NoEndpoint, None, UPLINK, 0, &udp_v4());
    lying.len = usize::MAX;
    assert_eq!(node.handle(0, 0, lying).len(), 1);
    let foreign = punt(PuntReason::NeighbourUnresolved, Some(ip(NEIGHBOUR)), UPLINK, 0, &udp_v4());
    assert_eq!(node.handle(0, 7, foreign).len(), 1, "a worker that does not exist");
}

/// A first fragment of the echo, or a later one by a flip of one bit.
fn fragment_v6() -> Vec<u8> {
    let mut frame = echo_v6();
    let next = std::mem::replace(&mut frame[20], 44);
    frame.splice(54..54, [next, 0, 0, 1, 0, 0, 0, 7]);
    frame.truncate(54 + 8 + (frame.len() - 62) / 8 * 8);
    let len = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame
}

/// Whole junk, or a good packet with a few bytes changed and its end cut off.
fn junk() -> impl Strategy<Value = Vec<u8>> {
    let changed = (0..4usize, proptest::collection::vec((0..120usize, any::<u8>()), 0..6), 0..120usize);
    let damaged = changed.prop_map(|(which, changes, keep)| {
        let mut frame = match which {
            3 => fragment_v6(),
            which => [udp_v4, echo_v6, tcp_v4][which](),
        };
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(keep);
        frame
    });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..300), damaged]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn junk_never_panics_and_the_books_stay_even(frame in junk(), port in 0..4usize, mtu in any::<u16>()) {
        let mut node = TestNode::new();
        let ingress = [UPLINK, NODE_PORT, POD_PORT, 1][port];
        for reason in PuntReason::ALL {
            let Some(buffer) = node.punt(0, *reason, ingress, mtu, &frame) else {
                prop_assert_eq!(*reason, PuntReason::Fragment, "nothing else waits without an address");
                continue;
            };
            let goes_on = buffer.task == Task::Resume && *reason == PuntReason::Fragment;
            prop_assert!(matches!(buffer.task, Task::Reply | Task::Drop(_)) || goes_on);
            prop_assert!(buffer.len <= buffer.frame.len());
        }
    }
}

#[test]
fn the_thread_answers_resumes_wakes_and_ends() {
    let node = TestNode::with(Limits::default(), 2);
    let (queues, woken, counters, bell) =
        (node.queues.clone(), node.woken.clone(), node.slow.counters(), node.slow.bell());
    let (stop, next_hops) = (flag(), node.next_hops);
    let stop_read = stop.clone();
    let slow = node.slow;
    let thread = std::thread::spawn(move || slow.run(&stop_read));

    let push = |worker: usize, reason, address| {
        let mut buffer = queues[worker].free.pop().unwrap();
        let frame = udp_v4();
        buffer.task = Task::Punt { reason, next_hop_address: address, mtu: 0 };
        buffer.ingress = UPLINK;
        buffer.len = frame.len();
        buffer.frame[..frame.len()].copy_from_slice(&frame);
        assert!(queues[worker].punts.push(buffer).is_ok());
        bell.ring();
    };
    let returned = |worker: usize| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(buffer) = queues[worker].returns.pop() {
                return buffer.task;
            }
            assert!(Instant::now() < deadline, "nothing came back");
            std::thread::sleep(Duration::from_millis(1));
        }
    };

    queues[1].asleep.store(true, Ordering::SeqCst);
    for _ in 0..50 {
        // It sleeps without a timeout between these, so a lost ring would hang.
        push(1, PuntReason::NoEndpoint, None);
        assert_eq!(returned(1), Task::Reply);
    }
    assert!(woken.load(Ordering::Relaxed) >= 50);
    push(0, PuntReason::NeighbourUnresolved, Some(ip(NEIGHBOUR)));
    std::thread::sleep(Duration::from_millis(50));
    assert!(queues[0].returns.is_empty());
    let hop = next_hops.get(NEIGHBOUR_INDEX).unwrap();
    next_hops.set(NEIGHBOUR_INDEX, &NextHop { destination: Some(FAR_MAC), ..hop });
    assert_eq!(returned(0), Task::Resume, "seen without a ring");

    stop.store(true, Ordering::SeqCst);
    bell.ring();
    thread.join().unwrap();
    let books = counters.books();
    assert!(books.is_even() && books.punted == 51 && books.resumed == 1, "{books:?}");
}
