//! What tcx does on a pod's port and on the way out of the node.

use atalho_layout::{ClaimKind, KernelCounter, tag_mac};

use super::claims::{Entry, LIVE, insert, key};
use super::frames::{Frame, TCP, UDP};
use super::lab::{Lab, Pod, counted, run_tcx, sh, skipped};
use crate::bpf::Kernel;
use crate::check;

pub(super) const NEXT: i32 = -1;
pub(super) const DROP: i32 = 2;
pub(super) const REDIRECT: i32 = 7;

#[track_caller]
pub(super) fn expect(
    kernel: &mut Kernel,
    what: &str,
    (program, ifindex): (&str, u32),
    frame: &[u8],
    (action, counter): (i32, KernelCounter),
) -> Vec<u8> {
    let ((ran, out), moved) = counted(kernel, |kernel| run_tcx(kernel, program, ifindex, frame));
    assert_eq!((ran, moved), (action, vec![(counter, 1)]), "{what}");
    out
}

/// A pod whose own stack sends nothing, so that every counted packet is the test's.
fn silent_pod(lab: &mut Lab) -> Pod {
    let pod = lab.add_pod(1);
    sh("ip link set pod1 down");
    pod
}

#[test]
fn a_pods_packets_are_checked_and_sent_into_the_funnel() {
    if skipped("a_pods_packets_are_checked_and_sent_into_the_funnel") {
        return;
    }
    let mut lab = Lab::new();
    let pod = silent_pod(&mut lab);
    let (mut kernel, _) = lab.open();
    kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
    let port = ("pod_ingress", pod.ifindex);
    let gateway = pod.record.host_mac;
    for (own, other_pod, node, peer) in [
        ("10.244.0.11", "10.244.0.12", "192.0.2.2", "198.51.100.7"),
        ("fd00:244::b", "fd00:244::c", "2001:db8::2", "2001:db8:7::7"),
    ] {
        kernel.claim(&key(node, 0, 0), ClaimKind::Node).unwrap();
        kernel.claim(&key(node, TCP, 30080), ClaimKind::NodePort).unwrap();
        let claim = (REDIRECT, KernelCounter::PodClaim);
        let send = |src: &str, dst: &str, port| Frame::ports(src, dst, TCP, 4000, port).with_mac(gateway);

        let frame = send(own, peer, 80);
        let out = expect(&mut kernel, "to anywhere", port, &frame.bytes(), claim);
        let tagged = frame.clone().with_mac(tag_mac(pod.ifindex)).bytes();
        assert_eq!(out, tagged, "only the destination MAC changes, to the port's tag");
        expect(&mut kernel, "to a node port of its node", port, &send(own, node, 30080).bytes(), claim);
        expect(&mut kernel, "to its node", port, &send(own, node, 10250).bytes(), (NEXT, KernelCounter::PodPass));
        let spoof = (DROP, KernelCounter::PodSpoof);
        expect(&mut kernel, "another pod's source", port, &send(other_pod, peer, 80).bytes(), spoof);
        expect(&mut kernel, "another pod's source to the node", port, &send(other_pod, node, 10250).bytes(), spoof);
        let elsewhere = send(own, peer, 80).with_mac([2, 0, 0, 0, 0, 3]).bytes();
        expect(&mut kernel, "not to the gateway", port, &elsewhere, (DROP, KernelCounter::PodNotGateway));
        let unknown = ("pod_ingress", check::by_name("far").unwrap().ifindex);
        expect(&mut kernel, "a port without record", unknown, &frame.bytes(), (DROP, KernelCounter::PodUnknownPort));
        let whole = frame.bytes();
        let vlan = [&whole[..12], &[0x81, 0, 0, 5], &whole[12..]].concat();
        expect(&mut kernel, "a VLAN tag", port, &vlan, (DROP, KernelCounter::PodVlan));

        // The node asked a Service, the pod answers: to a node address, known by the table alone.
        insert(&kernel, own, node, TCP, (8080, 5000), Entry { ingress: pod.ifindex, ..LIVE });
        let answer = Frame::ports(own, node, TCP, 8080, 5000).with_mac(gateway);
        expect(&mut kernel, "an answer to the node's Service flow", port, &answer.bytes(), claim);
        let part =
            |id, offset| Frame::ports(own, node, UDP, 8080, 5000).with_mac(gateway).fragment(id, offset, true).bytes();
        insert(&kernel, own, node, UDP, (8080, 5000), Entry { ingress: pod.ifindex, at: 9, ..LIVE });
        expect(&mut kernel, "a later fragment alone", port, &part(4, 100), (NEXT, KernelCounter::PodPass));
        expect(&mut kernel, "the first fragment of an answer", port, &part(4, 0), claim);
        expect(&mut kernel, "its later one", port, &part(4, 100), claim);
    }
}

#[test]
fn a_pod_speaks_to_its_link_only_as_itself() {
    if skipped("a_pod_speaks_to_its_link_only_as_itself") {
        return;
    }
    let mut lab = Lab::new();
    let pod = silent_pod(&mut lab);
    let (mut kernel, _) = lab.open();
    kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
    let port = ("pod_ingress", pod.ifindex);
    let (pass, spoof) = ((NEXT, KernelCounter::PodPass), (DROP, KernelCounter::PodSpoof));
    let multicast = [0x33, 0x33, 0xff, 0, 0, 1];
    let message = |src: &str, dst: &str, kind: u8| {
        Frame::new(src, dst, 58, vec![kind, 0, 0, 0, 0, 0, 0, 0]).with_mac(multicast).bytes()
    };
    expect(&mut kernel, "solicitation", port, &message("fd00:244::b", "ff02::1:ff00:1", 135), pass);
    expect(&mut kernel, "duplicate address detection", port, &message("::", "ff02::1:ff00:1", 135), pass);
    expect(&mut kernel, "link-local", port, &message("fe80::9", "fe80::1", 136), pass);
    expect(&mut kernel, "router solicitation", port, &message("fe80::9", "ff02::2", 133), pass);
    expect(&mut kernel, "another pod's solicitation", port, &message("fd00:244::c", "ff02::1:ff00:1", 135), spoof);
    expect(&mut kernel, "router advertisement", port, &message("fe80::9", "ff02::1", 134), spoof);
    expect(&mut kernel, "redirect", port, &message("fe80::9", "fd00:244::c", 137), spoof);

    let arp = |sender: [u8; 4]| {
        let mut frame = vec![0xff; 6];
        frame.extend(pod.record.pod_mac);
        frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(pod.record.pod_mac);
        frame.extend(sender);
        frame.extend([0; 6]);
        frame.extend([169, 254, 1, 1]);
        frame
    };
    expect(&mut kernel, "ARP", port, &arp(pod.record.addr4), pass);
    expect(&mut kernel, "an ARP probe", port, &arp([0; 4]), pass);
    expect(&mut kernel, "another pod's ARP", port, &arp([10, 244, 0, 12]), spoof);
}

#[test]
fn of_the_nodes_own_packets_only_answers_of_endpoints_are_ours() {
    if skipped("of_the_nodes_own_packets_only_answers_of_endpoints_are_ours") {
        return;
    }
    let mut lab = Lab::new();
    let pod = silent_pod(&mut lab);
    let (mut kernel, _) = lab.open();
    kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
    let f1 = check::by_name("f1").unwrap().ifindex;
    let out = ("node_egress", pod.ifindex);
    let (claim, pass) = ((REDIRECT, KernelCounter::EgressClaim), (NEXT, KernelCounter::EgressPass));
    for (own, node) in [("10.244.0.11", "192.0.2.2"), ("fd00:244::b", "2001:db8::2")] {
        let answer = Frame::ports(node, own, TCP, 6443, 4000).with_mac(pod.record.pod_mac);
        expect(&mut kernel, "a plain flow of the node", out, &answer.bytes(), pass);
        insert(&kernel, node, own, TCP, (6443, 4000), Entry { ingress: pod.ifindex, ..LIVE });
        expect(&mut kernel, "an entry of another ingress port", out, &answer.bytes(), pass);
        insert(&kernel, node, own, TCP, (6443, 4000), Entry { ingress: f1, ..LIVE });
        let sent = expect(&mut kernel, "an answer of an endpoint of this node", out, &answer.bytes(), claim);
        assert_eq!(sent, answer.clone().with_mac(tag_mac(f1)).bytes(), "tagged as the node's port");
        let quote = Frame::ports(own, node, TCP, 4000, 6443);
        let kind = if node.contains(':') { 1 } else { 3 };
        let error = Frame::icmp_error(node, own, kind, &quote).with_mac(pod.record.pod_mac);
        expect(&mut kernel, "its ICMP error", out, &error.bytes(), claim);
        let part = |id, offset, more| answer.clone().fragment(id, offset, more).bytes();
        expect(&mut kernel, "a later fragment of nobody's", out, &part(5, 3, true), pass);
        expect(&mut kernel, "the first fragment of an answer", out, &part(5, 0, true), claim);
        expect(&mut kernel, "a later one", out, &part(5, 3, false), claim);
    }
}
