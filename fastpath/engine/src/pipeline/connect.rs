//! What an admitted packet's connection is to be, and how it gets into the table: with a source port of its own if it is
//! masqueraded.

use std::net::IpAddr;

use atalho_layout::hop;

use super::EngineParts;
use super::slot::Detour;
use super::way_out::route;
use crate::admit::{Decision, Egress};
use crate::affinity::Affinity;
use crate::conntrack::{Direction, Flow, InsertError, NewConnection, Probe, Rewrite, Segment};
use crate::flow::{FlowKey, Protocol};
use crate::snat::{Candidates, PortDraw};
use crate::tables::Tables;
use crate::verdict::DropReason;
use crate::wire::Packet;

/// A connection that was decided about and is not in the table yet.
pub(super) struct Plan<'t> {
    pub(super) key: FlowKey,
    first: Segment,
    source: IpAddr,
    source_port: u16,
    pub(super) destination: (IpAddr, u16),
    next_hop: u32,
    /// Next hop of the answers.
    back: u32,
    /// Kernel interface index of the port by which it leaves and answers come in.
    egress: u32,
    is_service: bool,
    /// Source ports that are left to try, once one had to be drawn.
    drawn: Option<Candidates<'t>>,
    /// The answers' key. `None` where it is of two families.
    pub(super) reply: Option<Probe>,
    /// The Service's session affinity, which has to remember the destination.
    pub(super) binds: Option<&'t Affinity>,
}

/// What the table made of a plan.
pub(super) enum Connected {
    New(Flow),
    /// Another worker, or an earlier packet of the same batch, was first with the same flow.
    Existed,
}

impl<'t> Plan<'t> {
    /// A packet that cannot leave makes no flow.
    pub(super) fn new<P>(
        parts: &EngineParts<P>,
        draw: &mut PortDraw,
        tables: &'t Tables,
        ingress: u32,
        node: Option<u32>,
        packet: &Packet,
        decision: &Decision<'t>,
    ) -> Result<Self, Detour> {
        let next_hop = next_hop_of(decision.egress)?;
        let back = next_hop_of(decision.back)?;
        let from_node = node == Some(ingress);
        let way_out = route(&parts.next_hops, tables, packet, next_hop, decision.destination.0, from_node)?;
        let key = &packet.key;
        // Who keeps his address keeps his port too, unless another flow looks like his then. But an endpoint that is its own
        // client must tell what it sent from what it gets.
        let is_to_itself = decision.destination.0 == key.src;
        let is_moved = decision.source.is_some_and(|source| source != key.src || is_to_itself);
        let mut drawn = is_moved.then(|| draw.candidates(&tables.settings.snat_ports, key, decision.destination));
        let source_port = match &mut drawn {
            Some(ports) => ports.next().ok_or(Detour::Drop(DropReason::SnatPortsExhausted))?,
            None => key.src_port,
        };
        let source = decision.source.unwrap_or(key.src);
        let destination = decision.destination;
        let answers = answers(source, source_port, destination, key.protocol);
        Ok(Self {
            key: *key,
            first: packet.segment(),
            source,
            source_port,
            destination,
            next_hop,
            back,
            egress: way_out.next_hop.ifindex,
            is_service: decision.vip.is_some(),
            drawn,
            reply: parts.table.probe(&answers),
            binds: decision.binds(),
        })
    }

    /// Puts it into the table: both directions as a whole, or nothing.
    pub(super) fn connect<P>(
        &mut self,
        parts: &EngineParts<P>,
        draw: &mut PortDraw,
        tables: &'t Tables,
        ingress: u32,
        now_s: u32,
    ) -> Result<Connected, Detour> {
        let key = self.key;
        loop {
            let answers = answers(self.source, self.source_port, self.destination, key.protocol);
            // Cheaper than an insert that fails, and where many ports are taken most do.
            let is_taken = self.drawn.is_some() && parts.table.find(&answers).is_some();
            if !is_taken {
                let new = NewConnection {
                    original: Direction { key, rewrite: self.rewrite(), next_hop: self.next_hop, ingress },
                    reply: Direction {
                        key: answers,
                        rewrite: Rewrite { src: key.dst, dst: key.src, src_port: key.dst_port, dst_port: key.src_port },
                        next_hop: self.back,
                        ingress: self.egress,
                    },
                    is_service: self.is_service,
                    first: self.first,
                };
                match parts.table.insert(parts.worker, &parts.epochs, &new, now_s) {
                    Ok(inserted) => return Ok(Connected::New(inserted.flow)),
                    Err(InsertError::Exists { is_reply: false, .. }) => return Ok(Connected::Existed),
                    // The answers' tuple is another flow's, unless the two ends have just begun to talk at once.
                    Err(InsertError::Exists { is_reply: true, .. }) => {
                        if parts.table.find(&key).is_some() {
                            return Ok(Connected::Existed);
                        }
                    }
                    Err(InsertError::Contention) => return Err(Detour::Drop(DropReason::InsertContention)),
                    Err(InsertError::TableFull) => return Err(Detour::Drop(DropReason::TableFull)),
                    Err(InsertError::MixedFamilies | InsertError::SameKey) => {
                        return Err(Detour::Drop(DropReason::Martian));
                    }
                }
            }
            let ports = &tables.settings.snat_ports;
            let drawn = self.drawn.get_or_insert_with(|| draw.candidates(ports, &key, self.destination));
            self.source_port = drawn.next().ok_or(Detour::Drop(DropReason::SnatPortsExhausted))?;
        }
    }

    fn rewrite(&self) -> Rewrite {
        let (dst, dst_port) = self.destination;
        Rewrite { src: self.source, dst, src_port: self.source_port, dst_port }
    }
}

/// The key of what comes back.
#[inline]
fn answers(source: IpAddr, source_port: u16, destination: (IpAddr, u16), protocol: Protocol) -> FlowKey {
    let (src, src_port) = destination;
    FlowKey { src, dst: source, src_port, dst_port: source_port, protocol }
}

fn next_hop_of(egress: Option<Egress>) -> Result<u32, Detour> {
    match egress {
        Some(Egress::Node) => Ok(hop::NODE),
        Some(Egress::Pod(index) | Egress::Uplink(index)) => Ok(index),
        Some(Egress::UplinkUnresolved(neighbour)) => Err(Detour::Unresolved(neighbour)),
        None => Err(Detour::Drop(DropReason::NoRoute)),
    }
}
