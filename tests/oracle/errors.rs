//! ICMP errors about packets that arrived, from whoever got them or from a router on the way.

use super::cluster::{Host, Link};
use super::conversation::{Conversation, End, Speech};
use super::frame::{ETHERNET_BYTES, Outline};
use super::packet::{Layer4, Packet};
use super::stimulus::Stimulus;

/// An error about a packet that arrived lately; `None` where nothing did.
pub fn next(conversation: &Conversation, random: &mut fastrand::Rng) -> Option<Stimulus> {
    let from = if random.bool() { End::Server } else { End::Client };
    let host = conversation.host(from)?;
    let arrived = &conversation.arrived[from as usize];
    if arrived.is_empty() {
        return None;
    }
    let about = &arrived[random.usize(..arrived.len())];
    let is_ipv4 = host.address(conversation.family).is_ipv4();
    let (kind, code) = kind(is_ipv4, random);
    // The narrow link's own, or a smaller one.
    let rest = if is_ipv4 { [0, 0, 4, 0xd2] } else { [0, 0, 5, 0x78] };
    let router = (host.link() == Link::Uplink && random.bool()).then_some(Host::Gateway);
    let (cut, change) = (cut(random), random.u8(..10) == 0);
    let source = router.unwrap_or(host);
    let frames = about.each_ref().map(|frame| {
        let outline = Outline::of(frame)?;
        let mut quoted = frame.get(ETHERNET_BYTES..outline.end.min(frame.len()))?.to_vec();
        let transport = outline.transport - ETHERNET_BYTES;
        if change {
            // About a packet that nobody sent: port (or identifier) 1 is nobody's.
            let at = if conversation.speech == Speech::Echo { transport + 4 } else { transport + 2 };
            quoted.get_mut(at..at + 2)?.copy_from_slice(&[0, 1]);
        }
        quoted.truncate(cut.map_or(quoted.len(), |bytes| transport + bytes).min(if is_ipv4 { 548 } else { 1232 }));
        let layer4 = Layer4::Icmp { kind, code, rest, body: quoted };
        let packet = Packet::new(source.address(conversation.family), outline.src, layer4);
        Some(packet.build(host.link().mac(), host.mac()))
    });
    let [Some(netfilter), Some(ours)] = frames else { return None };
    let what = format!(
        "{from:?}'s {} says ICMP {kind}/{code}{}{}",
        source.name(),
        cut.map_or(String::new(), |bytes| format!(", quoting {bytes} bytes of transport")),
        if change { ", about nothing" } else { "" }
    );
    Some(Stimulus {
        link: host.link(),
        from,
        frames: [netfilter, ours],
        fragments: Vec::new(),
        is_cut_oddly: false,
        what,
        is_first: false,
        is_disturbance: false,
    })
}

fn kind(is_ipv4: bool, random: &mut fastrand::Rng) -> (u8, u8) {
    let kinds: &[(u8, u8)] = match is_ipv4 {
        true => &[(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0), (4, 0), (5, 1)],
        false => &[(1, 0), (1, 1), (1, 4), (2, 0), (3, 0), (3, 1), (4, 0), (137, 0)],
    };
    kinds[random.usize(..kinds.len())]
}

/// Bytes of the quoted packet's transport that are quoted; `None`: all that fits.
fn cut(random: &mut fastrand::Rng) -> Option<usize> {
    match random.u8(..4) {
        0 => Some(8),
        1 => Some(random.usize(..40)),
        _ => None,
    }
}
