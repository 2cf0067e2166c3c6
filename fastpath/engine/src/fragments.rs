//! Fragments: never joined, passed on as they came, by the flow that their datagram's first one shows.
//!
//! A datagram's fragments may come in at several workers, in any order, and only the first has ports. So a worker gives
//! each of them to the slow path, the one place that knows all of a datagram. It answers what the fragment is, a [`Packet`]
//! of a flow, as soon as the first one has come, and the fragment runs through the pipeline with that
//! ([`crate::handoff::Handoff::fragment`]). Whoever comes first admits the flow, a later fragment too: its key is known.
//!
//! Whole packets pay nothing for this: the parser's error is where it begins.

use crate::conntrack::Rewrite;
use crate::flow::Protocol;
use crate::verdict::{DropReason, PuntReason, Verdict};
use crate::wire::{Packet, fragment};

/// What a frame that is no whole packet is: what the slow path `known` it for, or a case for the slow path.
#[cold]
pub(crate) fn follow(frame: &[u8], frame_bytes: usize, known: Option<&Packet>) -> Result<Packet, Verdict> {
    if let Some(packet) = known {
        return Ok(*packet);
    }
    Err(fragment::read(frame, frame_bytes).map_or_else(Verdict::Drop, |_| Verdict::Punt(PuntReason::Fragment)))
}

/// Whether a fragment may be rewritten so. TCP's, UDP's and ICMP's checksums are made anew from the difference, wherever the
/// rest of the datagram is; SCTP's is none that knows differences, but covers no address (RFC 9260 section 6.8).
#[cold]
pub(crate) fn check_rewrite(packet: &Packet, rewrite: &Rewrite) -> Result<(), DropReason> {
    let key = &packet.key;
    let keeps_ports = (key.src_port, key.dst_port) == (rewrite.src_port, rewrite.dst_port);
    if key.protocol == Protocol::Sctp && !keeps_ports { Err(DropReason::FragmentSctp) } else { Ok(()) }
}
