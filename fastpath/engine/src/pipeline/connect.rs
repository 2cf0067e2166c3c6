//! What an admitted packet's connection is to be, and how it gets into the table: with a source port of its own if it is
//! masqueraded.

use atalho_layout::hop;

use super::EngineParts;
use super::slot::Detour;
use super::way_out::route;
use crate::admit::{Decision, Egress};
use crate::affinity::Affinity;
use crate::conntrack::{InsertError, Mirrored, Probe, Room};
use crate::flow::FlowKey;
use crate::snat::{Candidates, PortDraw};
use crate::tables::Tables;
use crate::verdict::DropReason;
use crate::wire::Packet;

/// A connection that was decided about and is not in the table yet.
pub(super) struct Plan<'t> {
    connection: Mirrored,
    /// Where it can stand, as far as somebody has looked.
    pub(super) rooms: [Option<Room>; 2],
    /// Source ports that are left to try, once one had to be drawn.
    drawn: Option<Candidates<'t>>,
    /// The Service's session affinity, which has to remember the destination.
    pub(super) binds: Option<&'t Affinity>,
}

/// What the table made of a plan.
pub(super) enum Connected {
    /// The slot of the original direction.
    New(u32),
    /// Another worker, or an earlier packet of the same batch, was first with the same flow.
    Existed,
}

impl<'t> Plan<'t> {
    /// A packet that cannot leave makes no flow. `original`: its key, hashed.
    #[inline]
    pub(super) fn new<P>(
        parts: &EngineParts<P>,
        draw: &mut PortDraw,
        tables: &'t Tables,
        arrival: Arrival<'_>,
        decision: &Decision<'t>,
    ) -> Result<Self, Detour> {
        let Arrival { packet, original, ingress, from_node } = arrival;
        let next_hop = next_hop_of(decision.egress)?;
        let back = next_hop_of(decision.back)?;
        let destination = decision.destination;
        let way_out = route(&parts.next_hops, tables, packet, next_hop, destination.0, from_node)?;
        let key = &packet.key;
        // Who keeps his address keeps his port too, unless another flow looks like his then. But an endpoint that is its own
        // client must tell what it sent from what it gets.
        let is_to_itself = destination.0 == key.src;
        let is_moved = decision.source.is_some_and(|source| source != key.src || is_to_itself);
        let mut drawn = is_moved.then(|| draw.candidates(&tables.settings.snat_ports, key, destination));
        let source_port = match &mut drawn {
            Some(ports) => ports.next().ok_or(Detour::Drop(DropReason::SnatPortsExhausted))?,
            None => key.src_port,
        };
        let answers = FlowKey {
            src: destination.0,
            dst: decision.source.unwrap_or(key.src),
            src_port: destination.1,
            dst_port: source_port,
            protocol: key.protocol,
        };
        let connection = Mirrored {
            original,
            reply: parts.table.probe(&answers).ok_or(Detour::Drop(DropReason::Martian))?,
            way: [next_hop, ingress],
            back: [back, way_out.next_hop.ifindex],
            is_service: decision.vip.is_some(),
            first: packet.segment(),
        };
        Ok(Self { connection, rooms: [None; 2], drawn, binds: decision.binds() })
    }

    /// The key of the first packet.
    pub(super) fn original(&self) -> &Probe {
        &self.connection.original
    }

    /// The key of what comes back.
    pub(super) fn reply(&self) -> &Probe {
        &self.connection.reply
    }

    /// Puts it into the table: both directions as a whole, or nothing.
    #[inline]
    pub(super) fn connect<P>(
        &mut self,
        parts: &EngineParts<P>,
        draw: &mut PortDraw,
        tables: &'t Tables,
        now_s: u32,
    ) -> Result<Connected, Detour> {
        loop {
            let Self { connection, rooms, .. } = self;
            // Cheaper than an insert that fails, and where many ports are taken most do.
            let is_taken = self.drawn.is_some() && parts.table.find_probe(&connection.reply).is_some();
            if !is_taken {
                match parts.table.connect(parts.worker, &parts.epochs, connection, *rooms, now_s) {
                    Ok(slot) => return Ok(Connected::New(slot)),
                    Err(InsertError::Exists { is_reply: false, .. }) => return Ok(Connected::Existed),
                    // The answers' tuple is another flow's, unless the two ends have just begun to talk at once.
                    Err(InsertError::Exists { is_reply: true, .. }) => {
                        if parts.table.find_probe(&connection.original).is_some() {
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
            self.draw_port(parts, draw, tables)?;
        }
    }

    /// Another source port.
    #[cold]
    fn draw_port<P>(&mut self, parts: &EngineParts<P>, draw: &mut PortDraw, tables: &'t Tables) -> Result<(), Detour> {
        const NONE: Detour = Detour::Drop(DropReason::SnatPortsExhausted);
        let (key, answers) = self.connection.original.key().zip(self.connection.reply.key()).ok_or(NONE)?;
        let ports = &tables.settings.snat_ports;
        let destination = (answers.src, answers.src_port);
        let drawn = self.drawn.get_or_insert_with(|| draw.candidates(ports, &key, destination));
        let answers = FlowKey { dst_port: drawn.next().ok_or(NONE)?, ..answers };
        self.connection.reply = parts.table.probe(&answers).ok_or(NONE)?;
        self.rooms[1] = None;
        Ok(())
    }
}

/// A first packet, and how it came.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'p> {
    pub packet: &'p Packet,
    /// Its key, hashed.
    pub original: Probe,
    /// Kernel interface index of the port by which it came in.
    pub ingress: u32,
    /// That is the node's own.
    pub from_node: bool,
}

#[inline]
fn next_hop_of(egress: Option<Egress>) -> Result<u32, Detour> {
    match egress {
        Some(Egress::Node) => Ok(hop::NODE),
        Some(Egress::Pod(index) | Egress::Uplink(index)) => Ok(index),
        Some(Egress::UplinkUnresolved(neighbour)) => Err(Detour::Unresolved(neighbour)),
        None => Err(Detour::Drop(DropReason::NoRoute)),
    }
}
