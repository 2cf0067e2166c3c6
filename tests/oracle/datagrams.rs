//! What UDP and echo conversations say.

use super::conversation::{Conversation, End};
use super::packet::Layer4;
use super::stimulus::Drawn;

/// Longest payload that makes a packet which fits every link but the narrow one.
const PAYLOAD_BYTES_MAX: usize = 1452;

/// Mostly short, now and then as long as a link carries.
pub fn payload(random: &mut fastrand::Rng) -> Vec<u8> {
    let len = match random.u8(..10) {
        0 => 0,
        1 => random.usize(1300..PAYLOAD_BYTES_MAX),
        _ => random.usize(1..120),
    };
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

pub fn next_udp(conversation: &mut Conversation, random: &mut fastrand::Rng) -> Option<Drawn> {
    let from = speaker(conversation, random);
    let (body, has_checksum) = (payload(random), random.u8(..10) != 0);
    // IPv6 has none without.
    let has_checksum = has_checksum || conversation.client.0.address(conversation.family).is_ipv6();
    let packets = conversation.packets(from, |src_port, dst_port| Layer4::Udp {
        src_port,
        dst_port,
        has_checksum,
        payload: body.clone(),
    });
    Some(Drawn {
        from,
        packets,
        what: format!("{from:?} datagram of {} bytes", body.len()),
        is_first: false,
        is_disturbance: false,
    })
}

pub fn next_echo(conversation: &mut Conversation, random: &mut fastrand::Rng) -> Option<Drawn> {
    let from = speaker(conversation, random);
    // Now and then an answer to nothing.
    let is_request = from == End::Client && random.u8(..16) != 0;
    let (body, sequence) = (payload(random), random.u16(..8));
    let is_ipv4 = conversation.client.0.address(conversation.family).is_ipv4();
    let packets = conversation.packets(from, |src_port, dst_port| {
        let identifier = if from == End::Client { src_port } else { dst_port };
        Layer4::echo(is_ipv4, is_request, identifier, sequence, body.clone())
    });
    let what = format!("{from:?} echo {}", if is_request { "request" } else { "reply" });
    Some(Drawn { from, packets, what, is_first: false, is_disturbance: false })
}

fn speaker(conversation: &Conversation, random: &mut fastrand::Rng) -> End {
    if conversation.can_send(End::Server) && random.bool() { End::Server } else { End::Client }
}
