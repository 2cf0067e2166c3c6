//! Masquerading: whose address, and which port.

use atalho_engine::snat::{SnatPorts, ports_left};
use atalho_engine::verdict::DropReason;

use crate::lab::packet::{Layer4, Packet, SYN, SYN_ACK};
use crate::lab::*;
use crate::{Vector, vector};

pub const VECTORS: &[Vector] = &[
    vector(
        "RFC 3022 section 2.2",
        "a pod leaves the cluster with the address of its node",
        a_pods_way_out_is_masqueraded_and_its_answers_return,
    ),
    vector(
        "RFC 4787 section 4.2.1",
        "flows to one destination get ports of their own",
        many_flows_to_one_destination_get_ports_of_their_own,
    ),
    vector(
        "RFC 4787 section 4.2.1",
        "ports run out for one destination and not for another",
        source_ports_run_out_by_name,
    ),
    vector(
        "RFC 4787 section 4.2.1",
        "two flows that meet on one translated tuple are kept apart",
        two_flows_that_meet_on_one_translated_tuple_are_kept_apart,
    ),
];

fn a_pods_way_out_is_masqueraded_and_its_answers_return() {
    for f in FAMILIES {
        for protocol in [SYN, Layer4::Udp] {
            let mut lab = Lab::new();
            let asked = Packet::new((f.client(), 40_000), protocol, (f.far(), 443));
            let seen = lab.forwarded("pod to far host", CLIENT, &asked, HOP_GATEWAY);
            assert_eq!((seen.src.0, seen.dst), (f.node(), (f.far(), 443)));
            assert!(seen.src.1 >= 61_000);
            let back = if protocol == SYN { SYN_ACK } else { Layer4::Udp };
            let expected = Packet::new((f.far(), 443), back, (f.client(), 40_000)).ttl(63);
            lab.forwards("its answer", UPLINK, &Packet::new((f.far(), 443), back, seen.src), HOP_CLIENT, &expected);
        }
        let mut lab = Lab::new();
        lab.tables.cluster = Default::default();
        let asked = Packet::new((f.client(), 40_000), SYN, (f.far(), 443));
        let seen = lab.forwarded("nobody says what a pod is", CLIENT, &asked, HOP_GATEWAY);
        assert_eq!(seen.src, (f.client(), 40_000), "not masqueraded");
    }
}

fn many_flows_to_one_destination_get_ports_of_their_own() {
    for f in FAMILIES {
        let mut lab = Lab::new();
        let mut taken = std::collections::HashSet::new();
        for port in 1000..1500 {
            let asked = Packet::new((f.client(), port), SYN, (f.far(), 443));
            let seen = lab.forwarded("pod to far host", CLIENT, &asked, HOP_GATEWAY);
            assert!(taken.insert(seen.src.1), "port {} twice", seen.src.1);
        }
    }
}

fn source_ports_run_out_by_name() {
    let f = Family::V4;
    let mut lab = Lab::new();
    lab.tables.settings = atalho_engine::tables::Settings {
        snat_ports: SnatPorts::new(61_000..=61_003, |_| false),
        ..Default::default()
    }
    .into();
    for port in 1..=4 {
        let asked = Packet::new((f.client(), port), SYN, (f.far(), 443));
        assert_eq!(ports_left(&lab.tables.settings.snat_ports, &lab.table), 5 - usize::from(port));
        lab.forwarded("within the range", CLIENT, &asked, HOP_GATEWAY);
    }
    assert_eq!(ports_left(&lab.tables.settings.snat_ports, &lab.table), 0);
    let fifth = Packet::new((f.client(), 5), SYN, (f.far(), 443));
    lab.drops("beyond the range", CLIENT, &fifth.build(), DropReason::SnatPortsExhausted);
    let elsewhere = Packet::new((f.client(), 5), SYN, (f.far(), 444));
    lab.forwarded("another destination has its own ports", CLIENT, &elsewhere, HOP_GATEWAY);
}

fn two_flows_that_meet_on_one_translated_tuple_are_kept_apart() {
    for f in FAMILIES {
        for (ingress, client, hop_back) in [(CLIENT, f.client(), HOP_CLIENT), (FUNNEL, f.node(), HOP_NODE)] {
            let mut lab = Lab::new();
            let first = Packet::new((client, 40_000), SYN, (f.vip_remote(), 80));
            let second = Packet::new((client, 40_000), SYN, (f.vip_remote_twin(), 80));
            let one = lab.forwarded("first", ingress, &first, HOP_OTHER_NODE);
            let two = lab.forwarded("second", ingress, &second, HOP_OTHER_NODE);
            assert_eq!(one.src, (client, 40_000));
            assert_eq!(two.src.0, client);
            assert_ne!(two.src.1, 40_000);
            let ttl = if ingress == FUNNEL { 64 } else { 63 };
            for (seen, vip) in [(one, f.vip_remote()), (two, f.vip_remote_twin())] {
                let answer = Packet::new(seen.dst, SYN_ACK, seen.src);
                let expected = Packet::new((vip, 80), SYN_ACK, (client, 40_000)).ttl(ttl);
                lab.forwards("each answer finds its own", UPLINK, &answer, hop_back, &expected);
            }
        }
    }
}
