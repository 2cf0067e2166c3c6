//! The straight way: a [straight packet](crate::wire::straight) of a flow that stands in the table and asks for nothing
//! else. It takes the same steps as every other, but all that is kept of it between two of them is a [`Head`], and the
//! words of its entry go straight into its frame.
//!
//! A packet that turns out not to be one (its flow is not there, came by another port, has ended or may not go on so;
//! its next hop is not resolved; no hops are left; it is too long) has changed nothing yet and takes the long way.

use super::{EngineParts, Slot};
use crate::conntrack::{ConnTable, Family, Followed, Half, Hit, Probe, Room, Segment, V4, V6};
use crate::next_hops::NextHops;
use crate::processor::Processor;
use crate::rewrite::Hop;
use crate::tables::Settings;
use crate::verdict::Verdict;
use crate::wire::straight::Straight;
use crate::wire::{Packet, ethernet};

/// What is known of a straight packet between two steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    hash: u32,
    /// Where its flow seems to stand; before step 2, the first bucket of its hash.
    entry: u32,
    /// Where the packet ends in its frame.
    end: u16,
    way: Way,
    is_tcp: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    V4,
    V6,
    Long,
}

impl Head {
    /// A packet that takes the long way.
    pub(super) const LONG: Self = Self { hash: 0, entry: 0, end: 0, way: Way::Long, is_tcp: false };

    #[inline]
    pub(super) fn is_long(&self) -> bool {
        self.way == Way::Long
    }

    /// Step 1: headers, hash, and the first line of the table on its way.
    #[inline(always)]
    pub(super) fn read(slot: &mut Slot<'_>, table: &ConnTable, processor: impl Processor) -> Self {
        if let Some(end) = V4::end(slot.frame, slot.frame_bytes) {
            Self::hashed::<V4>(slot, end, Way::V4, table, processor)
        } else {
            Self::read_v6(slot, table, processor)
        }
    }

    #[inline(never)]
    fn read_v6(slot: &mut Slot<'_>, table: &ConnTable, processor: impl Processor) -> Self {
        match V6::end(slot.frame, slot.frame_bytes) {
            Some(end) => Self::hashed::<V6>(slot, end, Way::V6, table, processor),
            None => Self::LONG,
        }
    }

    #[inline(always)]
    fn hashed<F: Straight>(
        slot: &mut Slot<'_>,
        end: u16,
        way: Way,
        table: &ConnTable,
        processor: impl Processor,
    ) -> Self {
        let Some(head) = F::head(slot.frame) else { return Self::LONG };
        let is_tcp = F::is_tcp(head);
        let hash = table.hash::<F>(&F::key_words(head));
        let entry = F::half(table).prefetch_first_tags(hash, processor);
        Self { hash, entry, end, way, is_tcp }
    }

    /// Step 2, first half: the entry on its way, if there seems to be one in the first bucket. If not,
    /// [`Self::prefetch_second_tags`] and [`Self::look_on`] are to follow.
    #[inline(always)]
    pub(super) fn look(&mut self, table: &ConnTable, processor: impl Processor) -> bool {
        let entry = match self.way {
            Way::V4 => V4::half(table).look(self.entry, self.hash, processor),
            Way::V6 => V6::half(table).look(self.entry, self.hash, processor),
            Way::Long => None,
        };
        self.entry = entry.unwrap_or_default();
        entry.is_some()
    }

    #[inline(always)]
    pub(super) fn prefetch_second_tags(&self, table: &ConnTable, processor: impl Processor) {
        match self.way {
            Way::V4 => V4::half(table).prefetch_second_tags(self.hash, processor),
            Way::V6 => V6::half(table).prefetch_second_tags(self.hash, processor),
            Way::Long => {}
        }
    }

    /// The same in the second bucket, where the first had none. If there is none either, [`Self::leave`] has to follow.
    #[inline(always)]
    pub(super) fn look_on(&mut self, table: &ConnTable, processor: impl Processor) -> bool {
        let entry = match self.way {
            Way::V4 => V4::half(table).look_on(self.hash, processor),
            Way::V6 => V6::half(table).look_on(self.hash, processor),
            Way::Long => None,
        };
        if let Some(entry) = entry {
            self.entry = entry;
        }
        entry.is_some()
    }

    /// Leaves the straight way: of a flow that is not there. Says what is to [come back](Self::stands_in), if it is UDP.
    pub(super) fn leave(&mut self) -> Option<First> {
        let way = std::mem::replace(&mut self.way, Way::Long);
        (!self.is_tcp && way != Way::Long).then_some(First { hash: self.hash, end: self.end, is_ipv6: way == Way::V6 })
    }

    /// Takes the straight way again, along the flow in `entry`.
    #[inline]
    pub(super) fn stands_in(&mut self, entry: u32, first: &First) {
        self.entry = entry;
        self.way = if first.is_ipv6 { Way::V6 } else { Way::V4 };
    }

    /// Step 2, second half: TCP is judged by both directions.
    #[inline(always)]
    pub(super) fn look_at_peer(&self, table: &ConnTable, processor: impl Processor) {
        if self.is_tcp {
            match self.way {
                Way::V4 => V4::half(table).prefetch_peer(self.entry, processor),
                Way::V6 => V6::half(table).prefetch_peer(self.entry, processor),
                Way::Long => {}
            }
        }
    }

    /// Steps 3 to 5: whether the packet is on its way out. `node`: the kernel interface index of the node itself.
    #[inline(always)]
    pub(super) fn forward<P>(
        &self,
        parts: &EngineParts<P>,
        settings: &Settings,
        now_s: u32,
        node: Option<u32>,
        slot: &mut Slot<'_>,
    ) -> bool {
        let from_node = node == Some(slot.ingress);
        let forwarded = match self.way {
            Way::V4 => self.forward_in(V4::half(&parts.table), &parts.next_hops, settings, now_s, from_node, slot),
            Way::V6 => self.forward_v6(V6::half(&parts.table), &parts.next_hops, settings, now_s, from_node, slot),
            Way::Long => None,
        };
        forwarded.is_some()
    }

    #[inline(never)]
    fn forward_v6(
        &self,
        half: &Half<V6>,
        next_hops: &NextHops,
        settings: &Settings,
        now_s: u32,
        from_node: bool,
        slot: &mut Slot<'_>,
    ) -> Option<()> {
        self.forward_in(half, next_hops, settings, now_s, from_node, slot)
    }

    #[inline(always)]
    fn forward_in<F: Straight>(
        &self,
        half: &Half<F>,
        next_hops: &NextHops,
        settings: &Settings,
        now_s: u32,
        from_node: bool,
        slot: &mut Slot<'_>,
    ) -> Option<()> {
        let head = F::head(slot.frame)?;
        let (key, hops_left) = (F::key_words(head), F::hops(head));
        let hit = half.hit(self.entry, &key)?;
        let next_hop = next_hops.get(hit.next_hop)?;
        let destination = next_hop.destination?;
        let hops = u8::from(next_hop.hop(from_node) == Hop::Counted);
        let fits = usize::from(self.end) - ethernet::HEADER_BYTES <= usize::from(next_hop.mtu);
        if hit.ingress != slot.ingress || hops_left <= hops || !fits {
            return None;
        }
        let followed = if self.is_tcp {
            follow_tcp(half, &hit, &F::segment(slot.frame, self.end)?, now_s, settings)
        } else {
            half.follow(hit.slot, hit.peer, hit.is_reply(), &Segment::Other, now_s, settings)
        };
        if followed != Followed::Belongs {
            return None;
        }
        F::translate(slot.frame, &key, &hit.new, hops)?;
        next_hop.address(slot.frame, destination);
        slot.verdict = Verdict::Forward { next_hop: hit.next_hop };
        slot.via = next_hop.kind;
        slot.send_len = usize::from(self.end);
        Some(())
    }
}

/// A straight datagram of no flow. Admission needs to know no more of it; and when its flow stands in the table it goes straight on.
#[derive(Debug, Clone, Copy)]
pub(super) struct First {
    hash: u32,
    end: u16,
    is_ipv6: bool,
}

impl First {
    /// The whole view of it.
    #[inline]
    pub(super) fn packet(&self, slot: &Slot<'_>) -> Option<Packet> {
        Some(if self.is_ipv6 {
            V6::datagram(V6::view(slot.frame)?, self.end)
        } else {
            V4::datagram(V4::view(slot.frame)?, self.end)
        })
    }

    /// Its key, hashed.
    #[inline]
    pub(super) fn probe(&self, slot: &Slot<'_>) -> Option<Probe> {
        Some(if self.is_ipv6 {
            Probe::v6(V6::key_words(V6::view(slot.frame)?), self.hash)
        } else {
            Probe::v4(V4::key_words(V4::view(slot.frame)?), self.hash)
        })
    }

    /// Names the line in which its flow is going to stand.
    #[inline]
    pub(super) fn prefetch_room(&self, table: &ConnTable, processor: impl Processor) -> Option<Room> {
        if self.is_ipv6 {
            V6::half(table).prefetch_room(self.hash, processor)
        } else {
            V4::half(table).prefetch_room(self.hash, processor)
        }
    }
}

/// Out of line: what a datagram asks of its connection is a word or two, and the loop over a batch is short without this.
#[inline(never)]
fn follow_tcp<F: Family>(half: &Half<F>, hit: &Hit<F>, segment: &Segment, now_s: u32, settings: &Settings) -> Followed {
    half.follow(hit.slot, hit.peer, hit.is_reply(), segment, now_s, settings)
}
