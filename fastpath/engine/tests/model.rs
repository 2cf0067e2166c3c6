//! A naive model of translation beside the engine, driven by random conversations. The model knows three things: a
//! conversation keeps what its server sees of it, no two conversations look alike to a server, and an answer to what
//! the server saw comes out as the answer to what the client asked.

mod lab;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use lab::packet::{ACK, Layer4, Packet, SYN, SYN_ACK, Seen};
use lab::*;
use proptest::prelude::*;

type End = (IpAddr, u16);

/// Who asks whom: everything that makes a conversation one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Conversation {
    ingress: u32,
    client: End,
    asked: End,
    is_tcp: bool,
}

/// What its server sees of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct View {
    hop: u32,
    client: End,
    server: End,
    is_tcp: bool,
}

fn conversation() -> impl Strategy<Value = Conversation> {
    // Few ports, so that tuples meet.
    (prop_oneof![Just(Family::V4), Just(Family::V6)], 0..5usize, 1..4u16, 0..9usize, any::<bool>()).prop_map(
        |(f, who, port, asked, is_tcp)| {
            let (ingress, client) =
                [(CLIENT, f.client()), (WEB, f.web()), (FUNNEL, f.node()), (UPLINK, f.far()), (UPLINK, f.remote_pod())]
                    [who];
            let service_port = if is_tcp { 80 } else { 53 };
            let target_port = if is_tcp { 8080 } else { 5353 };
            let asked = [
                (f.vip_local(), service_port),
                (f.vip_remote(), service_port),
                (f.vip_remote_twin(), service_port),
                (f.node(), NODE_PORT_WEB),
                (f.node(), NODE_PORT_REMOTE),
                (f.web(), target_port),
                (f.client(), target_port),
                (f.far(), 9),
                (f.remote_pod(), target_port),
            ][asked];
            Conversation { ingress, client: (client, port), asked, is_tcp }
        },
    )
}

/// Where the answer of a server comes in that is reached by next hop `hop`.
fn port_behind(hop: u32) -> u32 {
    match hop {
        HOP_NODE => FUNNEL,
        HOP_WEB => WEB,
        HOP_CLIENT => CLIENT,
        _ => UPLINK,
    }
}

/// Where an answer must leave to reach the client.
fn hop_to(conversation: &Conversation) -> u32 {
    let far = [Family::V4.far(), Family::V6.far()];
    match conversation.ingress {
        CLIENT => HOP_CLIENT,
        WEB => HOP_WEB,
        FUNNEL => HOP_NODE,
        _ if far.contains(&conversation.client.0) => HOP_GATEWAY,
        _ => HOP_OTHER_NODE,
    }
}

/// Whether the engine is to forward it at all: a pod does not ask itself but through a Service, and what only passes the
/// uplink is not ours.
fn is_ours(c: &Conversation) -> bool {
    let is_to_itself = c.client.0 == c.asked.0;
    let pods = FAMILIES.map(|f| [f.web(), f.client()]).concat();
    let outside = FAMILIES.map(|f| [f.far(), f.remote_pod()]).concat();
    let is_transit = c.ingress == UPLINK && outside.contains(&c.asked.0);
    let node_to_far = c.ingress == FUNNEL && FAMILIES.map(Family::far).contains(&c.asked.0);
    // The node reaches its own pods and node ports without us.
    let node_at_home = c.ingress == FUNNEL && (pods.contains(&c.asked.0) || is_to_itself);
    !is_to_itself && !is_transit && !node_to_far && !node_at_home
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    #[test]
    fn conversations_keep_apart_and_answers_come_home(
        events in prop::collection::vec((conversation(), any::<bool>()), 1..150)
    ) {
        let mut lab = Lab::new();
        let mut views: HashMap<Conversation, View> = HashMap::new();
        let mut owners: HashMap<View, Conversation> = HashMap::new();
        let mut answered: HashSet<Conversation> = HashSet::new();
        for (c, wants_answer) in events.into_iter().filter(|(c, _)| is_ours(c)) {
            // Who was asked directly and asks back on the same ports goes on with that conversation.
            let opposite = |other: &Conversation| other.is_tcp == c.is_tcp && other.asked == c.client && other.client == c.asked;
            if views.keys().any(opposite) {
                continue;
            }
            let flags = match (c.is_tcp, answered.contains(&c)) {
                (false, _) => Layer4::Udp,
                (true, false) => SYN,
                (true, true) => ACK,
            };
            let request = Packet::new(c.client, flags, c.asked);
            let sent = lab.send(c.ingress, &request.build());
            let atalho_engine::verdict::Verdict::Forward { next_hop } = sent.verdict else {
                panic!("{c:?}: {:?}", sent.verdict);
            };
            let seen = lab::packet::verify(&sent.frame);
            let view = View { hop: next_hop, client: seen.src, server: seen.dst, is_tcp: c.is_tcp };
            prop_assert_eq!(*views.entry(c).or_insert(view), view, "a conversation looks as before: {:?}", c);
            prop_assert_eq!(*owners.entry(view).or_insert(c), c, "two conversations look alike: {:?}", view);
            if wants_answer {
                answered.insert(c);
                let back = if c.is_tcp { SYN_ACK } else { Layer4::Udp };
                let answer = Packet::new(view.server, back, view.client);
                let uncounted = c.ingress == FUNNEL || view.hop == HOP_NODE;
                let expected = Packet::new(c.asked, back, c.client).ttl(if uncounted { 64 } else { 63 });
                let got = lab.forwarded(&format!("{c:?}"), port_behind(view.hop), &answer, hop_to(&c));
                prop_assert_eq!(got, Seen::of(&expected));
            }
        }
        prop_assert_eq!(lab.table.count(), views.len() as u64);
    }
}
