//! A scene: one conversation or two that get in each other's way, drawn from a seed of its own, so that it plays the same
//! alone as among others.

use std::net::IpAddr;

use super::cluster::{
    Family, Host, Link, SERVICES, Service, ServicePort, UNKNOWN_PORT, node_address, unallocated_address,
};
use super::conversation::{Conversation, Speech};

/// Ports that clients take, one after the other, outside what masquerading takes.
const CLIENT_PORTS: std::ops::Range<u64> = 1024..60_000;

/// The conversations of scene `number`.
pub fn conversations(seed: u64, number: u64) -> Vec<Conversation> {
    let mut random = rng(seed, number, 0);
    // Clients and ports never meet those of another scene.
    let port = CLIENT_PORTS.start + number % (CLIENT_PORTS.end - CLIENT_PORTS.start);
    let family = if random.bool() { Family::V4 } else { Family::V6 };
    let speech = match random.u8(..10) {
        0 => Speech::Echo,
        1..=3 => Speech::Udp,
        _ => Speech::Tcp,
    };
    let client = Host::ASKING[(number / (CLIENT_PORTS.end - CLIENT_PORTS.start)) as usize % 2..][random.usize(..5)];
    let client = (client, port as u16);
    let first = draw(family, speech, client, &mut random);
    let mut conversations = vec![first];
    // The same client port toward the same endpoint by another way.
    if speech != Speech::Echo && random.u8(..6) == 0 {
        let [first] = &conversations[..] else { return conversations };
        if let Some((Host::Web, _)) = first.server {
            let service = SERVICES.iter().find(|service| service.name == "near-twin").expect("the twin");
            let port = port_of(service, speech);
            let asked = (service.address(family), port.port);
            if asked != first.asked {
                conversations.push(Conversation::new(family, speech, client, asked, Some((Host::Web, port.target))));
            }
        }
    }
    conversations
}

/// Randomness of event `event` of a scene; 0 is its making.
pub fn rng(seed: u64, scene: u64, event: u64) -> fastrand::Rng {
    let mut seeds = fastrand::Rng::with_seed(seed ^ scene.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let scene = seeds.u64(..);
    fastrand::Rng::with_seed(scene ^ event.wrapping_mul(0xd134_2543_de82_ef95))
}

fn draw(family: Family, speech: Speech, client: (Host, u16), random: &mut fastrand::Rng) -> Conversation {
    loop {
        let (asked, server) = target(family, speech, client, random);
        let asks_itself = asked.0 == client.0.address(family);
        // What crosses the uplink alone is none of a node's business.
        let is_transit = client.0.link() == Link::Uplink
            && server.is_some_and(|(host, _)| host.link() == Link::Uplink && host.address(family) == asked.0);
        if !asks_itself && !is_transit {
            return Conversation::new(family, speech, client, asked, server);
        }
    }
}

type Target = ((IpAddr, u16), Option<(Host, u16)>);

/// Whom a client asks, and who gets it.
fn target(family: Family, speech: Speech, client: (Host, u16), random: &mut fastrand::Rng) -> Target {
    let service = &SERVICES[random.usize(..SERVICES.len())];
    let kind = random.u8(..20);
    if speech == Speech::Echo {
        return match kind {
            0..=1 => ((service.address(family), 0), None),
            2 => ((unallocated_address(family), 0), None),
            _ => direct(family, 0, random),
        };
    }
    let port = port_of(service, speech);
    let served = service.endpoint.map(|host| (host, port.target));
    match kind {
        0..=9 => {
            let is_here = service.endpoint.is_some_and(|host| Host::PODS.contains(&host));
            let server = served.filter(|_| !service.internal_local || is_here);
            ((service.address(family), port.port), server)
        }
        10..=13 => match port.node_port {
            Some(number) => ((node_address(family), number), served),
            None => ((service.address(family), UNKNOWN_PORT), None),
        },
        14 => ((service.address(family), UNKNOWN_PORT), None),
        15 => ((unallocated_address(family), 80), None),
        _ => direct(family, if client.0 == Host::Client { 8080 } else { 9090 }, random),
    }
}

fn direct(family: Family, port: u16, random: &mut fastrand::Rng) -> Target {
    let host = Host::ASKING[random.usize(..Host::ASKING.len())];
    ((host.address(family), port), Some((host, port)))
}

fn port_of(service: &Service, speech: Speech) -> &ServicePort {
    let protocol = if speech == Speech::Tcp { "TCP" } else { "UDP" };
    service.ports.iter().find(|port| port.protocol == protocol).expect("both protocols")
}
