//! Step 3 for packets of no flow: decide about all of them, bring the memory near where their connections will stand,
//! then put the connections into the table, in the order of the packets.
//!
//! A batch may hold several packets of one new connection. That a later one meets what an earlier one made, it learns
//! where the table refuses to take the same connection again, or by a second look-up if it would begin none.

use atalho_layout::hop;

use super::connect::{Connected, Plan};
use super::icmp_error::stray_error;
use super::long_way::{Way, Work};
use super::slot::{Detour, Slot};
use super::straight::Head;
use super::{BATCH, Engine, EngineParts, Prefetch, Random, Rest};
use crate::admit::{self, Ahead, FirstPacket, Outcome};
use crate::snat::PortDraw;
use crate::tables::Tables;
use crate::verdict::DropReason;
use crate::wire::{Content, Packet};

/// What is to become of a first packet, before the table has its say.
type Planned<'t> = Result<Plan<'t>, Ending>;

/// One for each newcomer of a batch, in their order.
type Plans<'t> = [Option<Planned<'t>>; BATCH];

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
    /// What the packets of the batch have done to the table so far.
    has_admitted: bool,
    has_ended: bool,
    has_bound: bool,
}

impl<P: Prefetch> Engine<P> {
    /// The rest of a batch. Not inlined: the plans stand on the stack, and packets of flows alone pay nothing for them.
    #[inline(never)]
    pub(super) fn admit(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>], rest: Rest) {
        let Self { parts, random, draw, heads, works } = self;
        let Rest { first, has_ended } = rest;
        let (heads, works, batch) =
            (&mut heads[first..batch.len()], &mut works[first..batch.len()], &mut batch[first..]);
        let (has_admitted, has_bound) = (false, false);
        let mut admission = Admission { parts, random, draw, tables, now_s, has_admitted, has_ended, has_bound };
        let mut plans = [const { None }; BATCH];
        let newcomers = batch.iter().zip(&*heads).zip(&*works).filter(|((_, head), work)| is_newcomer(head, work));
        admission.plan(newcomers.map(|((slot, _), work)| (slot, work)), &mut plans);
        let mut plans = plans.iter_mut().flatten();
        let node = parts.next_hops.get(hop::NODE).map(|node| node.ifindex);
        for ((slot, head), work) in batch.iter_mut().zip(heads).zip(works) {
            let plan = if is_newcomer(head, work) { plans.next() } else { None };
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
    head.is_long() && matches!(work.way, Way::Unknown)
}

impl<'t, P: Prefetch> Admission<'_, 't, P> {
    /// Decides about all newcomers and asks for the memory of their connections.
    fn plan<'w>(&mut self, newcomers: impl Iterator<Item = (&'w Slot<'w>, &'w Work)> + Clone, plans: &mut Plans<'t>) {
        let Self { parts, tables, .. } = *self;
        let prefetch = |line| parts.prefetch.line(line);
        let mut ahead = [const { None }; BATCH];
        let mut count = 0;
        for ((slot, work), ahead) in newcomers.clone().zip(&mut ahead) {
            *ahead = Some(Ahead::new(tables, first_packet(slot, &work.packet), prefetch));
            count += 1;
            // Hardly any newcomer is turned away, and what memory can bring meanwhile nobody waits for later.
            if let Some(original) = &work.probe {
                parts.table.prefetch_room(original, prefetch);
            }
        }
        for _ in 0..Ahead::STEPS {
            ahead[..count].iter_mut().flatten().for_each(|ahead| ahead.step(tables, prefetch));
        }
        for ((slot, work), plan) in newcomers.zip(&mut *plans) {
            if let Ok(Plan { reply: Some(reply), .. }) = plan.insert(self.decide(slot, &work.packet)) {
                parts.table.prefetch_tags(reply, prefetch);
            }
        }
        for plan in plans[..count].iter().flatten() {
            if let Ok(Plan { reply: Some(reply), .. }) = plan {
                parts.table.prefetch_room(reply, prefetch);
            }
        }
    }

    /// Asks admission about a first packet.
    fn decide(&mut self, slot: &Slot<'_>, packet: &Packet) -> Planned<'t> {
        let Self { parts, tables, now_s, .. } = *self;
        if let Content::Error(quoted) = &packet.content {
            let way = stray_error(&parts.table, tables, slot, packet, quoted);
            return Err(way.map_or_else(Ending::Leaves, Ending::Goes));
        }
        let first = first_packet(slot, packet);
        let last_endpoint = |affinity: &_| parts.affinity.endpoint(first.key.src, affinity, now_s);
        let decision = admit::decide(tables, &first, self.random.next(), last_endpoint);
        match decision.outcome {
            Outcome::Forward => {
                Plan::new(parts, self.draw, tables, slot.ingress, packet, &decision).map_err(Ending::Leaves)
            }
            // The kernel side passes a pod's packets to its node itself; this one came before it knew the address.
            Outcome::Pass if tables.local_pods.contains_key(&packet.src) => Err(Ending::Goes(Way::Unchanged)),
            Outcome::Pass => Err(Ending::Leaves(Detour::Drop(DropReason::NotForUs))),
            Outcome::Punt(reason) => Err(Ending::Leaves(Detour::Punt(reason))),
            Outcome::Drop(reason) => Err(Ending::Leaves(Detour::Drop(reason))),
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
                late = self.decide(slot, &work.packet);
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
                Ok(plan) => {
                    match plan.connect(self.parts, self.draw, self.tables, slot.ingress, &work.packet, self.now_s) {
                        Ok(Connected::New(flow)) => {
                            self.note_new(plan, &work.packet);
                            Way::Found(flow)
                        }
                        Ok(Connected::Existed) => {
                            self.meet(slot, work);
                            continue;
                        }
                        Err(detour) => slot.leaves(detour),
                    }
                }
                Err(Ending::Goes(way)) => *way,
                Err(Ending::Leaves(detour)) => slot.leaves(*detour),
            };
        }
        if matches!(work.way, Way::Unknown) {
            work.way = slot.leaves(Detour::Drop(DropReason::InsertContention));
        }
    }

    fn note_new(&mut self, plan: &Plan<'_>, packet: &Packet) {
        self.parts.counters.admitted();
        self.has_admitted = true;
        if let Some(affinity) = plan.binds {
            self.parts.affinity.remember(packet.src, affinity, plan.destination.0, self.now_s);
            self.has_bound = true;
        }
    }
}

fn first_packet(slot: &Slot<'_>, packet: &Packet) -> FirstPacket {
    FirstPacket { key: packet.key, ingress: slot.ingress, opening: packet.opening }
}
