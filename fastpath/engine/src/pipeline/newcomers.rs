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
use super::{BATCH, Engine, EngineParts, Prefetch, Random, Rest};
use crate::admit::{self, FirstPacket, Outcome};
use crate::snat::PortDraw;
use crate::tables::Tables;
use crate::verdict::DropReason;
use crate::wire::Content;

/// What is to become of a first packet, before the table has its say.
type Planned<'t> = Result<Plan<'t>, Ending>;

/// Ends that need no connection.
#[derive(Clone, Copy)]
enum Ending {
    Goes(Way),
    Leaves(Detour),
}

impl<P: Prefetch> Engine<P> {
    /// The rest of a batch. Not inlined: the plans stand on the stack, and packets of flows alone pay nothing for them.
    #[inline(never)]
    pub(super) fn admit(&mut self, tables: &Tables, now_s: u32, batch: &mut [Slot<'_>], rest: Rest) {
        let Self { parts, random, draw, heads, works } = self;
        let (heads, works) = (&mut heads[rest.first..batch.len()], &mut works[rest.first..batch.len()]);
        let batch = &mut batch[rest.first..];
        let node = parts.next_hops.get(hop::NODE).map(|node| node.ifindex);
        let mut plans: [Option<Planned<'_>>; BATCH] = [const { None }; BATCH];
        for (((slot, head), work), plan) in batch.iter().zip(&*heads).zip(&*works).zip(&mut plans) {
            if head.is_long() && matches!(work.way, Way::Unknown) {
                let planned = plan.insert(decide(parts, random, draw, tables, slot, work, now_s));
                if let Ok(Plan { reply: Some(reply), .. }) = planned {
                    parts.table.prefetch_tags(reply, |line| parts.prefetch.line(line));
                }
            }
        }
        for (work, plan) in works.iter().zip(&plans) {
            if let (Some(Ok(Plan { reply: Some(reply), .. })), Some(original)) = (plan, &work.probe) {
                parts.table.prefetch_room(original, |line| parts.prefetch.line(line));
                parts.table.prefetch_room(reply, |line| parts.prefetch.line(line));
            }
        }
        let mut done = Done { has_ended: rest.has_ended, ..Done::default() };
        for (((slot, head), work), plan) in batch.iter_mut().zip(heads).zip(works).zip(plans) {
            if head.forward(parts, &tables.settings, now_s, node, slot) {
                continue;
            }
            work.take_over(head, slot, parts, tables);
            // The flow may have ended in this very batch.
            if matches!(work.way, Way::Found(_)) {
                if done.has_ended {
                    work.look_up(slot, &parts.table, tables);
                }
                done.has_ended |= work.follow(slot, parts, tables, now_s);
            }
            if !matches!(work.way, Way::Unknown) {
                continue;
            }
            let mut planned = match plan {
                // What an earlier packet of the same client was bound to counts.
                Some(Ok(Plan { binds: Some(_), .. })) if done.has_bound => None,
                plan => plan,
            }
            .unwrap_or_else(|| decide(parts, random, draw, tables, slot, work, now_s));
            if planned.is_err() && done.has_admitted {
                done.has_ended |= meet(parts, tables, slot, work, now_s);
            }
            // A second time where the flow that it meets is over.
            for _ in 0..2 {
                if matches!(work.way, Way::Unknown) {
                    work.way = match &mut planned {
                        Ok(plan) => match plan.connect(parts, draw, tables, slot.ingress, &work.packet, now_s) {
                            Ok(Connected::New(flow)) => {
                                parts.counters.admitted();
                                done.has_admitted = true;
                                if let Some((affinity, endpoint)) = plan.binds {
                                    parts.affinity.remember(work.packet.src, affinity, endpoint, now_s);
                                    done.has_bound = true;
                                }
                                Way::Found(flow)
                            }
                            Ok(Connected::Existed) => {
                                done.has_ended |= meet(parts, tables, slot, work, now_s);
                                work.way
                            }
                            Err(detour) => slot.leaves(detour),
                        },
                        Err(Ending::Goes(way)) => *way,
                        Err(Ending::Leaves(detour)) => slot.leaves(*detour),
                    };
                }
            }
            if matches!(work.way, Way::Unknown) {
                work.way = slot.leaves(Detour::Drop(DropReason::InsertContention));
            }
        }
    }
}

/// What the packets of a batch have done to the table so far.
#[derive(Default)]
struct Done {
    has_admitted: bool,
    has_ended: bool,
    has_bound: bool,
}

/// Asks admission about a first packet.
fn decide<'t, P>(
    parts: &EngineParts<P>,
    random: &mut Random,
    draw: &mut PortDraw,
    tables: &'t Tables,
    slot: &Slot<'_>,
    work: &Work,
    now_s: u32,
) -> Planned<'t> {
    let packet = &work.packet;
    if let Content::Error(quoted) = &packet.content {
        return Err(stray_error(&parts.table, tables, slot, packet, quoted).map_or_else(Ending::Leaves, Ending::Goes));
    }
    let key = packet.key;
    let first = FirstPacket { key, ingress: slot.ingress, opening: packet.opening };
    let decision =
        admit::decide(tables, &first, random.next(), |affinity| parts.affinity.endpoint(key.src, affinity, now_s));
    match decision.outcome {
        Outcome::Forward => Plan::new(parts, draw, tables, slot.ingress, packet, &decision).map_err(Ending::Leaves),
        // The kernel side passes a pod's packets to its node itself; this one came before it knew the address.
        Outcome::Pass if tables.local_pods.contains_key(&packet.src) => Err(Ending::Goes(Way::Unchanged)),
        Outcome::Pass => Err(Ending::Leaves(Detour::Drop(DropReason::NotForUs))),
        Outcome::Punt(reason) => Err(Ending::Leaves(Detour::Punt(reason))),
        Outcome::Drop(reason) => Err(Ending::Leaves(Detour::Drop(reason))),
    }
}

/// Looks for the flow again, which may have begun in the meantime. If it is over already it ends, which is said.
fn meet<P>(parts: &EngineParts<P>, tables: &Tables, slot: &mut Slot<'_>, work: &mut Work, now_s: u32) -> bool {
    work.look_up(slot, &parts.table, tables);
    work.follow(slot, parts, tables, now_s)
}
