//! An input as a story: frames come in by ports, time passes, neighbours come and go.

use super::node::{Node, Sent};
use super::shape;
use crate::bytes::Bytes;
use crate::lab::{CLIENT, FUNNEL, HOP_CLIENT, HOP_NODE, HOP_WEB, UPLINK, WEB};

/// How long time stands between two events, milliseconds: about the bounds of the slow path and each side of timeouts.
const PAUSES_MS: [u64; 16] = [
    1,
    20,
    500,
    1000,
    3000,
    9000,
    11_000,
    31_000,
    59_000,
    121_000,
    181_000,
    301_000,
    601_000,
    3_601_000,
    431_999_000,
    432_001_000,
];
/// Frames that wait for one batch: more than one batch of the engine.
const WAITING_MAX: usize = 80;

/// Plays an input and checks everything that can be checked.
pub fn run(input: &[u8]) {
    let (mut node, mut bytes, mut waiting) = (Node::new(), Bytes::new(input), 0);
    while let Some(what) = bytes.byte() {
        if event(&mut node, what & 0x0f, &mut bytes).is_none() {
            break;
        }
        waiting += 1;
        // The others come together with what follows.
        if what & 0x80 == 0 || waiting == WAITING_MAX {
            node.serve();
            waiting = 0;
        }
    }
    node.ends();
}

/// `None`: the input ended within the event.
fn event(node: &mut Node, what: u8, bytes: &mut Bytes<'_>) -> Option<()> {
    match what {
        0 => node.passes(PAUSES_MS[usize::from(bytes.byte()? & 15)]),
        1 => node.changes(bytes.byte()?, bytes.byte()?),
        2 => {
            let (ingress, frame) = shape::raw(bytes)?;
            node.arrives(ingress, frame);
        }
        3..=8 => {
            let (ingress, frame) = shape::built(bytes)?;
            node.arrives(ingress, frame);
        }
        9..=12 => about_sent(node, bytes, shape::answer)?,
        _ => about_sent(node, bytes, shape::error)?,
    }
    Some(())
}

fn about_sent(
    node: &mut Node,
    bytes: &mut Bytes<'_>,
    make: impl Fn(&[u8], &mut Bytes<'_>) -> Option<Vec<u8>>,
) -> Option<()> {
    let which = bytes.byte()?;
    if let Some(Sent { next_hop, frame }) = node.sent(which) {
        let frame = make(&frame, bytes)?;
        let ingress = if which & 0x80 == 0 { port_behind(next_hop) } else { shape::some_port(which) };
        node.arrives(ingress, frame);
    }
    Some(())
}

/// Where the answer of somebody comes in who is reached by this next hop.
fn port_behind(next_hop: u32) -> u32 {
    match next_hop {
        HOP_NODE => FUNNEL,
        HOP_WEB => WEB,
        HOP_CLIENT => CLIENT,
        _ => UPLINK,
    }
}
