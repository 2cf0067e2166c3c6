//! One packet on its way through the steps, and how it may leave them early.

use std::net::IpAddr;

use atalho_layout::NextHopKind;

use super::Way;
use crate::handoff::Handoff;
use crate::next_hops::NextHop;
use crate::verdict::{DropReason, PuntReason, Verdict};
use crate::wire::Packet;

/// One packet of a batch: a frame in, a verdict out.
#[derive(Debug)]
pub struct Slot<'a> {
    /// From the Ethernet header, with whatever padding the port delivered.
    pub frame: &'a mut [u8],
    /// Bytes of the whole frame: more than `frame` has where a port delivers long ones in pieces, of which this is the first.
    pub frame_bytes: usize,
    /// Kernel interface index of the port by which it came in: the uplink, the funnel's kernel end for the node itself,
    /// a pod's host end. After `Punt(ToCut)` the port by which it leaves.
    pub ingress: u32,
    /// A fragment that the slow path followed to its flow.
    pub fragment: Option<&'a Packet>,
    pub verdict: Verdict,
    /// `Forward`: bytes of the frame to send, without padding.
    pub send_len: usize,
    /// `Forward`: what the next hop is; pods and the node are behind the funnel.
    pub via: NextHopKind,
    /// `Punt(NeighbourUnresolved)`: whom to ask for.
    pub neighbour: Option<IpAddr>,
    /// `Punt(TooBig)`, `Punt(ToCut)`: the next hop's MTU, bytes of an IP packet; else 0.
    pub mtu: u16,
}

impl<'a> Slot<'a> {
    /// A frame in one piece.
    pub fn new(frame: &'a mut [u8], ingress: u32) -> Self {
        let frame_bytes = frame.len();
        Self {
            frame,
            frame_bytes,
            ingress,
            fragment: None,
            verdict: Verdict::Drop(DropReason::TooShort),
            send_len: 0,
            via: NextHopKind::Unused,
            neighbour: None,
            mtu: 0,
        }
    }

    /// A packet that the slow path gives back, for [`Engine::resume`].
    pub fn resumed(buffer: &'a mut Handoff) -> Self {
        let Handoff { frame, len, ingress, fragment, .. } = buffer;
        Self { fragment: fragment.as_ref(), ..Self::new(&mut frame[..*len], *ingress) }
    }

    pub(super) fn drops(&mut self, reason: DropReason) {
        self.verdict = Verdict::Drop(reason);
    }

    /// Ready to be sent, but for its length (RFC 1812 section 4.2.2.7).
    #[cold]
    pub(super) fn is_to_be_cut(&mut self, next_hop: &NextHop) {
        self.verdict = Verdict::Punt(PuntReason::ToCut);
        (self.mtu, self.ingress) = (next_hop.mtu, next_hop.ifindex);
    }

    /// As [`Self::ends`], for a packet whose way is being found.
    pub(super) fn leaves(&mut self, detour: Detour) -> Way {
        self.ends(detour);
        Way::Ended
    }

    pub(super) fn ends(&mut self, detour: Detour) {
        match detour {
            Detour::Drop(reason) => self.drops(reason),
            Detour::Punt(reason) => self.verdict = Verdict::Punt(reason),
            Detour::TooBig { mtu } => {
                self.verdict = Verdict::Punt(PuntReason::TooBig);
                self.mtu = mtu;
            }
            Detour::Unresolved(neighbour) => {
                self.verdict = Verdict::Punt(PuntReason::NeighbourUnresolved);
                self.neighbour = Some(neighbour);
            }
        }
    }
}

/// An empty frame, for arrays that are filled later.
impl Default for Slot<'_> {
    fn default() -> Self {
        Slot::new(&mut [], 0)
    }
}

/// Why a packet does not go on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Detour {
    Drop(DropReason),
    Punt(PuntReason),
    TooBig { mtu: u16 },
    Unresolved(IpAddr),
}
