//! Step 3 for packets of no flow: decide about all of them, bring the memory near where their connections will stand,
//! then put the connections into the table, in the order of the packets.
//!
//! A batch may hold several packets of one new connection. That a later one meets what an earlier one made, it learns
//! where the table refuses to take the same connection again, or by a second look-up if it would begin none.

use arrayvec::ArrayVec;
use atalho_layout::hop;

use super::connect::{Arrival, Connected, Plan};
use super::icmp_error::stray_error;
use super::long_way::{Way, Work};
use super::slot::{Detour, Slot};
use super::straight::{First, Head};
use super::{BATCH, Engine, EngineParts, Random, Rest};
use crate::admit::{self, Ahead, Decision, FirstPacket, Outcome};
use crate::conntrack::{Probe, Room};
use crate::processor::Processor;
use crate::snat::PortDraw;
use crate::tables::{Port, Tables};
use crate::verdict::DropReason;
use crate::wire::{Content, Packet};

/// What is to become of a first packet, before the table has its say.
type Planned<'t> = Result<Plan<'t>, Ending>;

/// One for each newcomer of a batch, in their order.
type Plans<'t> = ArrayVec<Planned<'t>, BATCH>;

/// Ends that need no connection.
#[derive(Clone, Copy)]
enum Ending {
    Goes(Way),
    Leaves(Detour),
}

/// Admission of the newcomers of one batch.
struct Admission<'e, 't, P> {
    parts: &'e EngineParts<P>,
    random: &'e mut Random,
    draw: &'e mut PortDraw,
    tables: &'t Tables,
    now_s: u32,
    /// Kernel interface index of the node itself.
    node: Option<u32>,
    /// The port of the packet before, with its interface index: mostly that of the next one too.
    port: Option<(u32, &'t Port)>,
    /// What the packets of the batch have done to the table so far.
    has_admitted: bool,
    has_ended: bool,
    has_bound: bool,
}

impl<P: Processor> Engine<P> {
    /// The rest of a batch. Not inlined: the plans stand on the stack, and packets of flows alone pay nothing for them.
    #[inline(never)]
    pub(super) fn admit(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>], rest: Rest) {
        let Self { parts, random, draw, heads, works } = self;
        let Rest { first, has_ended } = rest;
        let (heads, works, batch) =
            (&mut heads[first..batch.len()], &mut works[first..batch.len()], &mut batch[first..]);
        let node = parts.next_hops.get(hop::NODE).map(|node| node.ifindex);
        let mut admission = Admission {
            parts,
            random,
            draw,
            tables,
            now_s,
            node,
            port: None,
            has_admitted: false,
            has_ended,
            has_bound: false,
        };
        let mut plans = Plans::new();
        let packets = batch.iter().zip(&*heads).zip(&*works);
        let newcomers = packets.filter(|((_, head), work)| is_newcomer(head, work));
        admission.plan(newcomers.map(|((slot, _), work)| (slot, work)), &mut plans);
        let mut plans = plans.iter_mut();
        for ((slot, head), work) in batch.iter_mut().zip(heads).zip(works) {
            let mut plan = if is_newcomer(head, work) { plans.next() } else { None };
            if let Way::First(first) = work.way
                && head.is_long()
            {
                admission.begin(slot, head, work, &first, plan.as_deref_mut());
            }
            if head.forward(parts, &tables.settings, now_s, node, slot) {
                continue;
            }
            work.take_over(head, slot, parts, tables);
            admission.follow(slot, work);
            if matches!(work.way, Way::Unknown) {
                admission.connect(slot, work, plan);
            }
        }
    }
}

fn is_newcomer(head: &Head, work: &Work) -> bool {
    head.is_long() && matches!(work.way, Way::Unknown | Way::First(_))
}

impl<'t, P: Processor> Admission<'_, 't, P> {
    /// Decides about all newcomers and asks for the memory of their connections.
    fn plan<'w>(&mut self, newcomers: impl Iterator<Item = (&'w Slot<'w>, &'w Work)> + Clone, plans: &mut Plans<'t>) {
        let Self { parts, tables, .. } = *self;
        let processor = parts.processor;
        let mut aheads = ArrayVec::<(Ahead<'t>, Option<Room>), BATCH>::new();
        for (slot, work) in newcomers.clone() {
            let packet = work.first_packet(slot);
            let first = first_packet(slot, packet.as_ref().unwrap_or(&work.packet));
            let ahead = Ahead::new(tables, self.port(slot.ingress), first, processor);
            // Hardly any newcomer is turned away, and what memory can bring meanwhile nobody waits for later.
            let room = match (&work.way, &work.probe) {
                (Way::First(first), _) => first.prefetch_room(&parts.table, processor),
                (_, Some(original)) => parts.table.prefetch_room(original, processor),
                (_, None) => None,
            };
            aheads.push((ahead, room));
        }
        for _ in 0..Ahead::STEPS {
            aheads.iter_mut().for_each(|(ahead, _)| ahead.step(tables, processor));
        }
        for ((slot, work), (ahead, room)) in newcomers.zip(&aheads) {
            let (packet, original) = match &work.way {
                Way::First(first) => (first.packet(slot), first.probe(slot)),
                _ => (None, work.probe),
            };
            let mut planned = self.decide_ahead(slot, packet.as_ref().unwrap_or(&work.packet), original, ahead);
            if let Ok(plan) = &mut planned {
                plan.rooms[0] = *room;
                parts.table.prefetch_tags(plan.reply(), processor);
            }
            plans.push(planned);
        }
        for plan in plans.iter_mut().flatten() {
            plan.rooms[1] = parts.table.prefetch_room(plan.reply(), processor);
        }
    }

    fn port(&mut self, ingress: u32) -> Option<&'t Port> {
        if self.port.is_none_or(|(of, _)| of != ingress) {
            self.port = self.tables.ports.get(&ingress).map(|port| (ingress, port));
        }
        self.port.map(|(_, port)| port)
    }

    /// Asks admission about a first packet, of which what has been looked up ahead is known.
    #[inline]
    fn decide_ahead(
        &mut self,
        slot: &Slot<'_>,
        packet: &Packet,
        original: Option<Probe>,
        ahead: &Ahead<'t>,
    ) -> Planned<'t> {
        if packet.is_error() {
            return self.decide(slot, packet, original);
        }
        let Self { parts, tables, now_s, .. } = *self;
        let (first, known) = ahead.found();
        let last_endpoint = |affinity: &_| parts.affinity.endpoint(first.key.src, affinity, now_s);
        let decision = admit::decide_by(tables, first, known, self.random.next(), last_endpoint);
        self.plan_for(slot, packet, original, &decision)
    }

    /// Asks admission about a first packet.
    #[cold]
    fn decide(&mut self, slot: &Slot<'_>, packet: &Packet, original: Option<Probe>) -> Planned<'t> {
        let Self { parts, tables, now_s, .. } = *self;
        if let Content::Error(quoted) = &packet.content {
            let way = stray_error(&parts.table, tables, slot, packet, quoted);
            return Err(way.map_or_else(Ending::Leaves, Ending::Goes));
        }
        let first = first_packet(slot, packet);
        let last_endpoint = |affinity: &_| parts.affinity.endpoint(first.key.src, affinity, now_s);
        let decision = admit::decide(tables, &first, self.random.next(), last_endpoint);
        self.plan_for(slot, packet, original, &decision)
    }

    #[inline]
    fn plan_for(
        &mut self,
        slot: &Slot<'_>,
        packet: &Packet,
        original: Option<Probe>,
        decision: &Decision<'t>,
    ) -> Planned<'t> {
        let Self { parts, tables, node, .. } = *self;
        match decision.outcome {
            Outcome::Forward => {
                let original = original.ok_or(Ending::Leaves(Detour::Drop(DropReason::Martian)))?;
                let ingress = slot.ingress;
                let arrival = Arrival { packet, original, ingress, from_node: node == Some(ingress) };
                Plan::new(parts, self.draw, tables, arrival, decision).map_err(Ending::Leaves)
            }
            // The kernel side passes a pod's packets to its node itself; this one came before it knew the address.
            Outcome::Pass if tables.local_pods.contains_key(&packet.src) => Err(Ending::Goes(Way::Unchanged)),
            Outcome::Pass => Err(Ending::Leaves(Detour::Drop(DropReason::NotForUs))),
            Outcome::Punt(reason) => Err(Ending::Leaves(Detour::Punt(reason))),
            Outcome::Drop(reason) => Err(Ending::Leaves(Detour::Drop(reason))),
        }
    }

    /// Carries out the plan for a datagram of no flow that can go straight on behind it.
    #[inline]
    fn begin(
        &mut self,
        slot: &mut Slot<'_>,
        head: &mut Head,
        work: &mut Work,
        first: &First,
        planned: Option<&mut Planned<'t>>,
    ) {
        let Some(Ok(plan)) = planned else { return };
        // What an earlier packet of the same client was bound to may count: the long way knows.
        if plan.binds.is_some() {
            return;
        }
        match plan.connect(self.parts, self.draw, self.tables, self.now_s) {
            Ok(Connected::New(entry)) => {
                self.note_new(plan);
                head.stands_in(entry, first);
            }
            Ok(Connected::Existed) => {}
            Err(detour) => {
                work.way = slot.leaves(detour);
            }
        }
    }

    /// A packet of a flow among them, which may have ended in this very batch.
    fn follow(&mut self, slot: &mut Slot<'_>, work: &mut Work) {
        if matches!(work.way, Way::Found(_)) {
            if self.has_ended {
                work.look_up(slot, &self.parts.table, self.tables);
            }
            self.has_ended |= work.follow(slot, self.parts, self.tables, self.now_s);
        }
    }

    /// Looks for the flow again, which may have begun in the meantime. If it is over already it ends.
    fn meet(&mut self, slot: &mut Slot<'_>, work: &mut Work) {
        work.look_up(slot, &self.parts.table, self.tables);
        self.has_ended |= work.follow(slot, self.parts, self.tables, self.now_s);
    }

    /// Carries out the plan for a packet of no flow.
    fn connect(&mut self, slot: &mut Slot<'_>, work: &mut Work, plan: Option<&mut Planned<'t>>) {
        let mut late;
        let planned = match plan {
            Some(planned) if !(self.has_bound && matches!(planned, Ok(Plan { binds: Some(_), .. }))) => planned,
            // Its flow ended only now, or what an earlier packet of the same client was bound to counts.
            _ => {
                late = self.decide(slot, &work.packet, work.probe);
                &mut late
            }
        };
        if planned.is_err() && self.has_admitted {
            self.meet(slot, work);
        }
        // A second time where the flow that it meets is over.
        for _ in 0..2 {
            if !matches!(work.way, Way::Unknown) {
                return;
            }
            work.way = match planned {
                Ok(plan) => match plan.connect(self.parts, self.draw, self.tables, self.now_s) {
                    Ok(Connected::New(entry)) => {
                        self.note_new(plan);
                        match self.parts.table.find_at(plan.original(), entry) {
                            Some(flow) => Way::Found(flow),
                            // Another worker has ended it already, to make room.
                            None => slot.leaves(Detour::Drop(DropReason::InsertContention)),
                        }
                    }
                    Ok(Connected::Existed) => {
                        self.meet(slot, work);
                        continue;
                    }
                    Err(detour) => slot.leaves(detour),
                },
                Err(Ending::Goes(way)) => *way,
                Err(Ending::Leaves(detour)) => slot.leaves(*detour),
            };
        }
        if matches!(work.way, Way::Unknown) {
            work.way = slot.leaves(Detour::Drop(DropReason::InsertContention));
        }
    }

    fn note_new(&mut self, plan: &Plan<'_>) {
        self.parts.counters.admitted();
        self.has_admitted = true;
        if let Some(affinity) = plan.binds
            && let (Some(request), Some(answer)) = (plan.original().key(), plan.reply().key())
        {
            self.parts.affinity.remember(request.src, affinity, answer.src, self.now_s);
            self.has_bound = true;
        }
    }
}

fn first_packet(slot: &Slot<'_>, packet: &Packet) -> FirstPacket {
    FirstPacket { key: packet.key, ingress: slot.ingress, opening: packet.opening }
}
