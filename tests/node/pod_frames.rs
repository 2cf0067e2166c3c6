//! Frames that a pod sends past its stack: to another station than its gateway, tagged, or in another's name. Each is dropped
//! by name and counted for that pod, and nobody learns anything from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atalho_benches::lab::command::run;
use atalho_benches::lab::network::mac;
use atalho_benches::lab::paths::Place;
use atalho_benches::lab::plan::{Family, Plan, pod_address};
use etherparse::icmpv6::{NeighborAdvertisementHeader, RouterAdvertisementHeader};
use etherparse::{Icmpv6Type, PacketBuilder};

use crate::support::{assert_all_paths_work, assert_even_and_right, parse_mac, ready, skipped, turn};

const COPIES: u64 = 20;
const POD: usize = 1;
const VICTIM: usize = 2;
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

fn udp(to_mac: [u8; 6], from_mac: [u8; 6], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(from_mac, to_mac);
    let ip = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let mut frame = Vec::new();
    ip.udp(4000, 9).write(&mut frame, &[0; 18]).unwrap();
    frame
}

fn tagged(mut frame: Vec<u8>, kind: [u8; 2]) -> Vec<u8> {
    frame.splice(12..12, [kind[0], kind[1], 0, 5]);
    frame
}

/// RFC 826: a request or a reply that says of `sender` that it lives at `from_mac`.
fn arp(operation: u8, from_mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [BROADCAST, from_mac].concat();
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(from_mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// Neighbour discovery from an address (RFC 4861).
fn discovery(from_mac: [u8; 6], from: Ipv6Addr, message: Icmpv6Type, options: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from_mac, ALL_NODES)
        .ipv6(from.octets(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets(), 255)
        .icmpv6(message);
    let mut frame = Vec::new();
    builder.write(&mut frame, options).unwrap();
    frame
}

#[test]
fn what_a_pod_must_not_send_is_dropped_by_name_and_counted_for_it() {
    if skipped("what_a_pod_must_not_send_is_dropped_by_name_and_counted_for_it") {
        return;
    }
    let _turn = turn();
    let plan = Plan::new("at-t-frames");
    let mut session = ready(&plan);
    let gateway = parse_mac(&mac(&plan.node(), "pod1").unwrap());
    let own = parse_mac(&mac(&plan.pod(POD), "eth0").unwrap());
    let [own4, own6] = Family::BOTH.map(|family| pod_address(POD, family));
    let [victim4, victim6] = Family::BOTH.map(|family| pod_address(VICTIM, family));
    let [other4, other6] = Family::BOTH.map(|family| pod_address(3, family));
    let (IpAddr::V4(victim_v4), IpAddr::V6(victim_v6), IpAddr::V4(gateway_v4)) =
        (victim4, victim6, IpAddr::from([10, 244, 1, 1]))
    else {
        panic!("one of each family")
    };
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);
    // The target, and the link address of whoever claims it.
    let claims_victim = [&victim_v6.octets()[..], &[2, 1], &own].concat();
    let advertisement = Icmpv6Type::NeighborAdvertisement(NeighborAdvertisementHeader {
        router: false,
        solicited: false,
        r#override: true,
    });
    let router = Icmpv6Type::RouterAdvertisement(RouterAdvertisementHeader {
        cur_hop_limit: 64,
        managed_address_config: false,
        other_config: false,
        router_lifetime: 1800,
    });
    let redirect = Icmpv6Type::Unknown { type_u8: 137, code_u8: 0, bytes5to8: [0; 4] };

    let cases: Vec<(&str, &str, Vec<Vec<u8>>)> = vec![
        (
            "another station",
            "pod_not_gateway",
            vec![udp(STRANGER, own, own4, victim4), udp(STRANGER, own, own6, victim6)],
        ),
        ("broadcast", "pod_not_gateway", vec![udp(BROADCAST, own, own4, victim4)]),
        (
            "multicast",
            "pod_not_gateway",
            vec![
                udp([1, 0, 0x5e, 0, 0, 1], own, own4, IpAddr::from([224, 0, 0, 1])),
                udp(ALL_NODES, own, own4, victim4),
            ],
        ),
        (
            "a VLAN tag, or two",
            "pod_vlan",
            vec![
                tagged(udp(gateway, own, own4, victim4), [0x81, 0]),
                tagged(udp(gateway, own, own6, victim6), [0x88, 0xa8]),
                tagged(tagged(udp(gateway, own, own4, victim4), [0x81, 0]), [0x88, 0xa8]),
            ],
        ),
        (
            "another's address",
            "pod_spoof",
            vec![
                udp(gateway, own, victim4, other4),
                udp(gateway, own, victim6, other6),
                udp(gateway, own, IpAddr::from([8, 8, 8, 8]), other4),
            ],
        ),
        (
            "ARP in another's name",
            "pod_spoof",
            vec![
                arp(2, own, victim_v4, gateway_v4),
                arp(1, own, victim_v4, gateway_v4),
                arp(2, own, gateway_v4, victim_v4),
            ],
        ),
        (
            "neighbour discovery in another's name",
            "pod_spoof",
            vec![
                discovery(own, victim_v6, advertisement, &claims_victim),
                discovery(own, link_local, router, &[]),
                discovery(own, link_local, redirect, &[0; 32]),
            ],
        ),
    ];
    for (what, name, frames) in cases {
        let before = session.daemon().unwrap().settled_status().unwrap();
        let taken = session.send_frames(Place::Pod(POD), "eth0", &frames, COPIES).unwrap();
        assert_eq!(taken, COPIES * frames.len() as u64, "{what}");
        let after = session.daemon().unwrap().settled_status().unwrap();
        let of_pod = |status: &atalho_benches::lab::daemon::Status| {
            status.pod_drops.get("default/pod-1").and_then(|drops| drops.get(name)).copied().unwrap_or_default()
        };
        assert_eq!(of_pod(&after) - of_pod(&before), taken, "{what}: {after:?}");
        assert_eq!(after.kernel[name] - before.kernel[name], taken, "{what}: counted for this pod alone");
        assert_eq!(after.received, before.received, "{what}: a worker got something");
        assert_eq!(after.pod_drops.keys().collect::<Vec<_>>(), ["default/pod-1"], "{what}");
    }

    // Nobody has learnt that the victim lives at this pod's port.
    let learnt = run("ip", ["-n", &plan.node(), "neigh", "show", "dev", "pod1"]).unwrap();
    for address in [victim4.to_string(), victim6.to_string()] {
        assert!(!learnt.split_whitespace().any(|word| word == address), "{learnt}");
    }
    assert_all_paths_work(&mut session, 1.5);
    assert_even_and_right(&session);
}
