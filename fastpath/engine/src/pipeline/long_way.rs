//! The long way: every kind of packet, step by step. What stands between two steps is all that is known of the packet.

use atalho_layout::hop;

use super::EngineParts;
use super::icmp_error::check_error;
use super::slot::Slot;
use super::straight::{First, Head};
use super::way_out::route;
use crate::admit;
use crate::conntrack::{ConnTable, Flow, Followed, Probe, Rewrite};
use crate::counters::Counters;
use crate::flow::Protocol;
use crate::fragments;
use crate::next_hops::NextHops;
use crate::processor::Processor;
use crate::rewrite;
use crate::tables::{Port, Tables};
use crate::verdict::{DropReason, Verdict};
use crate::wire::{self, Content, Packet};

/// What is known of one packet between two steps.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub packet: Packet,
    pub probe: Option<Probe>,
    pub way: Way,
}

/// How far a packet has come.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// The verdict stands.
    Ended,
    /// No flow: to be admitted.
    Unknown,
    /// No flow, and nothing read yet but what is in here: to be admitted.
    First(First),
    Found(Flow),
    /// Translated without a flow.
    Stateless {
        rewrite: Rewrite,
        next_hop: u32,
    },
    /// The node's own affair: to its stack as it is.
    Unchanged,
}

impl Work {
    /// Nothing, to be overwritten.
    pub(super) const BLANK: Self = Self { packet: Packet::BLANK, probe: None, way: Way::Ended };

    /// Step 1: headers, hash, and the first line of the table on its way.
    #[inline(never)]
    pub(super) fn parse(&mut self, slot: &mut Slot<'_>, table: &ConnTable, processor: impl Processor) {
        let parsed = match wire::parse(slot.frame, slot.frame_bytes) {
            Err(DropReason::Fragment) => fragments::follow(slot.frame, slot.frame_bytes, slot.fragment),
            Err(reason) => Err(Verdict::Drop(reason)),
            Ok(packet) => Ok(packet),
        };
        match parsed {
            Ok(packet) => {
                self.probe = table.probe(&packet.key);
                if let Some(probe) = &self.probe {
                    table.prefetch_tags(probe, processor);
                }
                self.packet = packet;
                self.way = Way::Unknown;
            }
            Err(verdict) => {
                slot.verdict = verdict;
                self.way = Way::Ended;
            }
        }
    }

    /// Step 2, first half: a packet comes over from the straight way, for its flow is not there.
    #[inline(never)]
    pub(super) fn miss(&mut self, head: &mut Head, slot: &mut Slot<'_>, table: &ConnTable, processor: impl Processor) {
        match head.leave() {
            Some(first) => self.way = Way::First(first),
            None => self.parse(slot, table, processor),
        }
    }

    /// Step 2, first half: the entry on its way.
    #[inline(never)]
    pub(super) fn prefetch_entry(&self, table: &ConnTable, processor: impl Processor) {
        if let (Way::Unknown, Some(probe)) = (&self.way, &self.probe) {
            table.prefetch_entry(probe, processor);
        }
    }

    /// Step 2, second half.
    #[inline(never)]
    pub(super) fn find(&mut self, slot: &mut Slot<'_>, table: &ConnTable, tables: &Tables, processor: impl Processor) {
        if matches!(self.way, Way::Ended | Way::First(_)) {
            return;
        }
        self.look_up(slot, table, tables);
        // TCP and SCTP are judged by both directions.
        if let Way::Found(flow) = &self.way
            && matches!(flow.protocol, Protocol::Tcp | Protocol::Sctp)
        {
            table.prefetch_peer(flow, processor);
        }
    }

    /// The whole view of a packet that came over and was not parsed.
    #[inline]
    pub(super) fn first_packet(&self, slot: &Slot<'_>) -> Option<Packet> {
        match &self.way {
            Way::First(first) => first.packet(slot),
            _ => None,
        }
    }

    /// Does again what was done for a packet that turned out not to go straight on.
    #[inline(never)]
    pub(super) fn take_over<P: Processor>(
        &mut self,
        head: &mut Head,
        slot: &mut Slot<'_>,
        parts: &EngineParts<P>,
        tables: &Tables,
    ) {
        if !head.is_long() || matches!(self.way, Way::First(_)) {
            *head = Head::LONG;
            self.parse(slot, &parts.table, parts.processor);
            self.find(slot, &parts.table, tables, parts.processor);
        }
    }

    /// What the table says about the packet: its flow, none, or that it may not use the one it has.
    pub(super) fn look_up(&mut self, slot: &mut Slot<'_>, table: &ConnTable, tables: &Tables) {
        if is_land(tables, slot, &self.packet) {
            slot.drops(DropReason::Land);
            self.way = Way::Ended;
            return;
        }
        self.way = match self.probe.as_ref().and_then(|probe| table.find_probe(probe)) {
            None => Way::Unknown,
            Some(flow) => match may_use(tables, slot, &self.packet, &flow) {
                Ok(()) => Way::Found(flow),
                Err(reason) => {
                    slot.drops(reason);
                    Way::Ended
                }
            },
        };
    }

    /// Step 3: a packet of a flow moves its connection's state, or is refused, or finds that it is over: then the flow
    /// ends, which is said, and the packet is of no flow. An ICMP error is about a flow and not of it.
    pub(super) fn follow<P>(
        &mut self,
        slot: &mut Slot<'_>,
        parts: &EngineParts<P>,
        tables: &Tables,
        now_s: u32,
    ) -> bool {
        if let Way::Found(flow) = &self.way
            && !self.packet.is_error()
        {
            match parts.table.follow(flow, &self.packet.segment(), now_s, &tables.settings) {
                Followed::Belongs => {}
                Followed::Over => {
                    parts.table.end(&parts.epochs, flow.at);
                    self.way = Way::Unknown;
                    return true;
                }
                Followed::Refused(reason) => {
                    slot.drops(reason);
                    self.way = Way::Ended;
                }
            }
        }
        false
    }

    /// Steps 4 and 5: the way out, and what the packet looks like there. `node`: the kernel interface index of the node
    /// itself.
    #[inline(never)]
    pub(super) fn route_and_rewrite(
        &self,
        slot: &mut Slot<'_>,
        next_hops: &NextHops,
        counters: &Counters,
        tables: &Tables,
        node: Option<u32>,
    ) {
        let packet = &self.packet;
        let (next_hop, rewrite) = match &self.way {
            Way::Found(flow) => (flow.next_hop, Some(&flow.rewrite)),
            Way::Stateless { rewrite, next_hop } => (*next_hop, Some(rewrite)),
            Way::Unchanged => (hop::NODE, None),
            Way::Ended => return count_drop(counters, slot.verdict),
            // Admission leaves none.
            Way::Unknown | Way::First(_) => return,
        };
        let from_node = node == Some(slot.ingress);
        let destination = rewrite.map_or(packet.key.dst, |rewrite| rewrite.dst);
        match route(next_hops, tables, packet, next_hop, destination, from_node) {
            Ok(way_out) => {
                if let Some(rewrite) = rewrite {
                    if packet.is_fragment()
                        && let Err(reason) = fragments::check_rewrite(packet, rewrite)
                    {
                        slot.drops(reason);
                        return counters.dropped(reason);
                    }
                    rewrite::apply(slot.frame, packet, rewrite, way_out.hop);
                }
                way_out.address(slot.frame);
                slot.verdict = Verdict::Forward { next_hop };
                slot.via = way_out.next_hop.kind;
                slot.send_len = usize::from(packet.end);
                if !way_out.next_hop.fits(packet) {
                    slot.is_to_be_cut(&way_out.next_hop);
                }
            }
            Err(detour) => {
                slot.ends(detour);
                count_drop(counters, slot.verdict);
            }
        }
    }
}

/// The LAND attack, and what comes near it: a host that takes it answers itself for ever. What a process of the node sends to
/// its own node port, and is answered by another one, is none.
#[inline]
fn is_land(tables: &Tables, slot: &Slot<'_>, packet: &Packet) -> bool {
    let is_to_itself = match packet.content {
        // Its key is that of another packet.
        Content::Error(_) => wire::destination(slot.frame) == Some(packet.src),
        _ => packet.key.src == packet.key.dst,
    };
    is_to_itself && !matches!(tables.ports.get(&slot.ingress), Some(Port::Node))
}

fn count_drop(counters: &Counters, verdict: Verdict) {
    if let Verdict::Drop(reason) = verdict {
        counters.dropped(reason);
    }
}

/// Whether a packet with the key of `flow` may use it: one that comes by another port than the flow's (a pod that was
/// made anew, a way that changed, a forger) has to have a source that belongs there.
#[inline]
fn may_use(tables: &Tables, slot: &Slot<'_>, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
    if let Content::Error(quoted) = &packet.content {
        return check_error(tables, slot, packet, quoted);
    }
    if flow.ingress == slot.ingress {
        return Ok(());
    }
    let port = tables.ports.get(&slot.ingress).ok_or(DropReason::UnknownPort)?;
    admit::check_source(tables, port, packet.src)
}
