//! Real packets over real veths: from a pod into the funnel, and out of it into pods and into the node's stack.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use atalho_layout::{ClaimKind, KernelCounter, tag_mac};

use super::claims::{Entry, LIVE, insert, key};
use super::frames::{Frame, UDP, checksum};
use super::lab::{Lab, counted, in_namespace, sh, skipped};
use crate::bpf::{Kernel, XskPort};
use crate::check;
use crate::xsk::{self, OpenOptions, Opened, QueueOf};

/// Sends a frame out of an interface, below the queueing layer's users but above its driver.
fn transmit(interface: &str, frame: &[u8]) {
    // SAFETY: socket takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_ll is plain integers, for which zeroes are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = check::by_name(interface).expect("the lab made it").ifindex as i32;
    // SAFETY: frame and address are alive and of the lengths passed.
    let sent = unsafe {
        let len = size_of_val(&address) as u32;
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const address).cast(), len)
    };
    assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
}

/// UDP datagram without a checksum (0 means none, RFC 768; IPv4 only).
fn datagram(src: &str, dst: &str, port: u16, text: &[u8]) -> Frame {
    let len = (8 + text.len()) as u16;
    let header = [4000u16.to_be_bytes(), port.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    Frame::new(src, dst, UDP, [&header, text].concat())
}

fn listen(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    socket
}

/// What moved, less what a pod's own stack says to its link whenever it likes.
fn apart_from_hellos(moved: Vec<(KernelCounter, u64)>) -> Vec<(KernelCounter, u64)> {
    moved.into_iter().filter(|(counter, _)| *counter != KernelCounter::PodPass).collect()
}

/// Waits until a counter has moved to `value` more than in `before`.
fn settled(kernel: &Kernel, counter: KernelCounter, value: u64) -> bool {
    let deadline = std::time::Instant::now() + Duration::from_secs(2);
    while kernel.counters().expect("counters")[counter as usize] < value {
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

#[test]
fn what_a_pod_sends_arrives_at_the_funnel() {
    if skipped("what_a_pod_sends_arrives_at_the_funnel") {
        return;
    }
    let mut lab = Lab::new();
    let pod = lab.add_pod(1);
    let (mut kernel, _) = lab.open();
    kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
    in_namespace(&pod.namespace, || {
        for (own, service) in [("10.244.0.11:4000", "10.96.0.10:53"), ("[fd00:244::b]:4000", "[fd00:96::a]:53")] {
            let socket = listen(own);
            for _ in 0..20 {
                socket.send_to(b"question", service.parse::<SocketAddr>().unwrap()).unwrap();
            }
        }
    });
    assert!(settled(&kernel, KernelCounter::FunnelNoWorker, 40));
    let counters = kernel.counters().unwrap();
    let of = |counter: KernelCounter| counters[counter as usize];
    assert_eq!((of(KernelCounter::PodClaim), of(KernelCounter::FunnelNoWorker)), (40, 40));
    assert_eq!((of(KernelCounter::FunnelClaim), of(KernelCounter::RedirectFailed)), (0, 0));
}

#[test]
fn a_joined_packet_counts_as_its_segments() {
    if skipped("a_joined_packet_counts_as_its_segments") {
        return;
    }
    let mut lab = Lab::new();
    let pod = lab.add_pod(1);
    let (kernel, _) = lab.open();
    crate::ethtool::prepare_funnel("f1").unwrap();
    let mut kernel = kernel;
    kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
    in_namespace(&pod.namespace, || {
        let socket = listen("10.244.0.11:4000");
        let segment: libc::c_int = 1000;
        // SAFETY: the value is alive and of the length passed. 103 is UDP_SEGMENT, include/uapi/linux/udp.h.
        let set =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_UDP, 103, (&raw const segment).cast(), 4) };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        socket.send_to(&[7; 7500], "10.96.0.10:53").unwrap();
    });
    assert!(settled(&kernel, KernelCounter::FunnelNoWorker, 8));
    let counters = kernel.counters().unwrap();
    assert_eq!(counters[KernelCounter::PodClaim as usize], 8, "7,500 bytes in segments of 1,000");
    assert_eq!(counters[KernelCounter::FunnelNoWorker as usize], 8);
}

#[test]
fn what_a_worker_sends_reaches_pod_and_node() {
    if skipped("what_a_worker_sends_reaches_pod_and_node") {
        return;
    }
    let mut lab = Lab::new();
    let (one, two) = (lab.add_pod(1), lab.add_pod(2));
    let (mut kernel, _) = lab.open();
    kernel.attach_pod(one.ifindex, &one.record).unwrap();
    kernel.attach_pod(two.ifindex, &two.record).unwrap();

    for (pod, address) in [(&one, "10.244.0.11"), (&two, "10.244.0.12")] {
        let socket = in_namespace(&pod.namespace, || listen("0.0.0.0:5300"));
        let frame = datagram("198.51.100.7", address, 5300, address.as_bytes()).with_mac(tag_mac(pod.ifindex)).bytes();
        let ((), moved) = counted(&mut kernel, |_| {
            transmit("f0", &frame);
            let mut got = [0; 100];
            let (len, from) = socket.recv_from(&mut got).expect("it arrives in the pod");
            assert_eq!((&got[..len], from.to_string().as_str()), (address.as_bytes(), "198.51.100.7:4000"));
        });
        assert_eq!(apart_from_hellos(moved), [(KernelCounter::DeliverPod, 1)]);
    }

    let f1 = check::by_name("f1").unwrap();
    sh("ip addr add 192.0.2.2/32 dev f1");
    sh("ip route add 198.51.100.0/24 dev f1"); // so that the source is believed
    let socket = listen("192.0.2.2:5300");
    let ((), moved) = counted(&mut kernel, |_| {
        transmit("f0", &datagram("198.51.100.7", "192.0.2.2", 5300, b"up").with_mac(f1.mac).bytes());
        let mut got = [0; 100];
        assert_eq!(socket.recv(&mut got).expect("it arrives at the node"), 2);
    });
    assert_eq!(apart_from_hellos(moved), [(KernelCounter::DeliverNode, 1)]);
}

#[test]
fn frames_for_ports_that_are_gone_are_counted() {
    if skipped("frames_for_ports_that_are_gone_are_counted") {
        return;
    }
    let mut lab = Lab::new();
    let pod = lab.add_pod(1);
    let (mut kernel, _) = lab.open();
    kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
    let frame = |mac| datagram("198.51.100.7", "10.244.0.11", 5300, b"late").with_mac(mac).bytes();
    let expect_dead = |what: &str, kernel: &mut Kernel, mac| {
        let (settled, moved) = counted(kernel, |kernel| {
            let so_far = kernel.counters().unwrap()[KernelCounter::DeliverDeadPort as usize];
            transmit("f0", &frame(mac));
            settled(kernel, KernelCounter::DeliverDeadPort, so_far + 1)
        });
        let moved = apart_from_hellos(moved);
        assert!(settled && moved == [(KernelCounter::DeliverDeadPort, 1)], "{what}: {moved:?}");
    };
    expect_dead("a port that never was", &mut kernel, tag_mac(4_000_000));
    expect_dead("no tag at all", &mut kernel, [2, 0, 0, 0, 0, 5]);
    sh("ip link del pod1");
    expect_dead("its interface is gone, its record not yet", &mut kernel, tag_mac(pod.ifindex));
    kernel.detach_pod(pod.ifindex).unwrap();
    expect_dead("its record is gone too", &mut kernel, tag_mac(pod.ifindex));
}

/// Sockets of both ports on two queues, as two workers have them.
fn open_sockets(kernel: &mut Kernel) -> Vec<Opened> {
    let open = |queue| {
        let of = |interface: &str| QueueOf { interface: interface.into(), queue };
        let mut options = OpenOptions::new(of("uplink"), of("f0"), 1500);
        (options.frames, options.ring_entries) = (1024, 256);
        xsk::open(&options).unwrap_or_else(|e| panic!("{e}"))
    };
    let opened: Vec<_> = (0..2).map(open).collect();
    for (queue, one) in (0..).zip(&opened) {
        kernel.set_xsk(XskPort::Uplink, queue, one.uplink.as_fd()).unwrap();
        kernel.set_xsk(XskPort::Funnel, queue, one.funnel.as_fd()).unwrap();
    }
    opened
}

/// Everything that waits at one port, as bytes.
fn received(opened: &mut Opened, port: XskPort) -> Vec<Vec<u8>> {
    let mut frames = Vec::with_capacity(256);
    let queue = match port {
        XskPort::Uplink => &mut opened.uplink,
        XskPort::Funnel => &mut opened.funnel,
    };
    queue.receive(&mut opened.pool, &mut frames, 256);
    frames
        .into_iter()
        .map(|frame| {
            let bytes = opened.pool.bytes(&frame).to_vec();
            opened.pool.give_back(frame);
            bytes
        })
        .collect()
}

/// Sum over an IPv4 UDP datagram with its pseudo header (RFC 768): 0 where the checksum is right.
fn udp_checksum_error(frame: &[u8]) -> u16 {
    let udp = &frame[34..];
    let pseudo = [&frame[26..34], &[0, UDP], &(udp.len() as u16).to_be_bytes(), udp].concat();
    checksum(&pseudo)
}

#[test]
fn a_flow_has_one_worker_which_sees_finished_packets_with_their_port() {
    if skipped("a_flow_has_one_worker_which_sees_finished_packets_with_their_port") {
        return;
    }
    let mut lab = Lab::new();
    let pod = lab.add_pod(1);
    let (mut kernel, _) = lab.open();
    crate::ethtool::prepare_funnel("f1").unwrap();
    let mut opened = open_sockets(&mut kernel);
    kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
    in_namespace(&pod.namespace, || {
        for port in 4000..4032 {
            let socket = listen(&format!("10.244.0.11:{port}"));
            for _ in 0..3 {
                socket.send_to(b"question", "10.96.0.10:53").unwrap();
            }
        }
    });
    assert!(settled(&kernel, KernelCounter::FunnelClaim, 96));
    let mut flows = [Vec::new(), Vec::new()];
    for (opened, flows) in opened.iter_mut().zip(&mut flows) {
        for frame in received(opened, XskPort::Funnel) {
            assert_eq!(frame[..6], tag_mac(pod.ifindex), "the tag of its port");
            assert_eq!(udp_checksum_error(&frame), 0, "a finished checksum");
            flows.push(u16::from_be_bytes([frame[34], frame[35]]));
        }
    }
    let [one, other] = flows;
    assert_eq!(one.len() + other.len(), 96);
    assert!(one.iter().all(|port| !other.contains(port)), "a flow at two workers: {one:?} {other:?}");
    assert!(one.len() > 15 && other.len() > 15, "spread: {} and {}", one.len(), other.len());
}

#[test]
fn claimed_packets_of_the_uplink_reach_the_socket_of_their_queue() {
    if skipped("claimed_packets_of_the_uplink_reach_the_socket_of_their_queue") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    let mut opened = open_sockets(&mut kernel);
    kernel.claim(&key("10.96.0.10", 0, 0), ClaimKind::Vip).unwrap();
    let mac = check::by_name("uplink").unwrap().mac;
    let ours = datagram("198.51.100.7", "10.96.0.10", 53, b"for a Service").with_mac(mac).bytes();
    let ((), moved) = counted(&mut kernel, |kernel| {
        for _ in 0..10 {
            transmit("far", &ours);
            transmit("far", &datagram("198.51.100.7", "192.0.2.2", 53, b"for the node").with_mac(mac).bytes());
        }
        assert!(settled(kernel, KernelCounter::UplinkClaim, 10) && settled(kernel, KernelCounter::UplinkPass, 10));
    });
    assert_eq!(moved, [(KernelCounter::UplinkPass, 10), (KernelCounter::UplinkClaim, 10)]);
    let frames: Vec<_> = opened.iter_mut().flat_map(|opened| received(opened, XskPort::Uplink)).collect();
    assert_eq!(frames, vec![ours.clone(); 10], "unchanged");

    // The workers end: closed, not past us. A socket closes a moment late where another test's child process, between
    // fork and exec, holds its descriptor too.
    drop(opened);
    let passed = kernel.counters().unwrap()[KernelCounter::UplinkPass as usize];
    let closed = (0..100).any(|_| {
        transmit("far", &ours);
        std::thread::sleep(Duration::from_millis(20));
        kernel.counters().unwrap()[KernelCounter::UplinkNoWorker as usize] > 0
    });
    assert!(closed, "packets without a worker are dropped and counted");
    assert_eq!(kernel.counters().unwrap()[KernelCounter::UplinkPass as usize], passed, "none passes");
}

#[test]
fn the_nodes_answer_as_an_endpoint_goes_into_the_funnel_on_every_way_out() {
    if skipped("the_nodes_answer_as_an_endpoint_goes_into_the_funnel_on_every_way_out") {
        return;
    }
    let mut lab = Lab::new();
    let pod = lab.add_pod(1);
    let (mut kernel, _) = lab.open();
    crate::ethtool::prepare_funnel("f1").unwrap();
    let mut opened = open_sockets(&mut kernel);
    kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
    let f1 = check::by_name("f1").unwrap().ifindex;
    sh("ip addr add 192.0.2.2/24 dev uplink");
    for (device, client) in [("pod1", "10.244.0.11"), ("uplink", "198.51.100.7")] {
        sh(&format!("ip route add {client}/32 dev {device}"));
        sh(&format!("ip neigh replace {client} lladdr 02:00:00:00:00:07 dev {device} nud permanent"));
        insert(&kernel, "192.0.2.2", client, UDP, (53, 4000), Entry { ingress: f1, ..LIVE });
        let socket = listen("192.0.2.2:53");
        let ((), moved) = counted(&mut kernel, |kernel| {
            let so_far = kernel.counters().unwrap()[KernelCounter::FunnelClaim as usize];
            socket.send_to(b"answer", format!("{client}:4000")).unwrap(); // tracked
            socket.send_to(b"other", format!("{client}:4001")).unwrap(); // the node's own
            assert!(settled(kernel, KernelCounter::FunnelClaim, so_far + 1), "{device}");
        });
        let expected =
            [(KernelCounter::FunnelClaim, 1), (KernelCounter::EgressClaim, 1), (KernelCounter::EgressPass, 1)];
        assert_eq!(apart_from_hellos(moved), expected, "{device}");
        let frames: Vec<_> = opened.iter_mut().flat_map(|opened| received(opened, XskPort::Funnel)).collect();
        assert_eq!(frames.len(), 1);
        assert_eq!((&frames[0][..6], udp_checksum_error(&frames[0])), (&tag_mac(f1)[..], 0), "{device}");
    }
}
