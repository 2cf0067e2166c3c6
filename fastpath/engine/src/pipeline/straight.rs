//! The straight way: a [straight packet](crate::wire::straight) of a flow that stands in the table and asks for nothing
//! else. It takes the same steps as every other, but all that is kept of it between two of them is a [`Head`], and the
//! words of its entry go straight into its frame.
//!
//! A packet that turns out not to be one (its flow is not there, came by another port, has ended or may not go on so;
//! its next hop is not resolved; no hops are left; it is too long) has changed nothing yet and takes the long way.

use super::{EngineParts, Prefetch, Slot};
use crate::conntrack::{ConnTable, Family, Followed, Half, Hit, Segment, V4, V6};
use crate::next_hops::NextHops;
use crate::rewrite::Hop;
use crate::tables::Settings;
use crate::verdict::Verdict;
use crate::wire::straight::Straight;
use crate::wire::{Packet, ethernet};

/// What is known of a straight packet between two steps. Of the first one of a flow, if it is UDP: all that is known, until
/// the flow stands in the table, and then it goes on like any other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    hash: u32,
    /// Where its flow seems to stand.
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
    FirstV4,
    FirstV6,
    Long,
}

impl Head {
    /// A packet that takes the long way.
    pub(super) const LONG: Self = Self { hash: 0, entry: 0, end: 0, way: Way::Long, is_tcp: false };

    #[inline]
    pub(super) fn is_long(&self) -> bool {
        self.way == Way::Long
    }

    /// Whether it is a datagram of no flow.
    #[inline]
    pub(super) fn is_first(&self) -> bool {
        matches!(self.way, Way::FirstV4 | Way::FirstV6)
    }

    /// The whole view of a packet that [is one](Self::is_first).
    #[inline]
    pub(super) fn first_packet(&self, slot: &Slot<'_>) -> Option<Packet> {
        match self.way {
            Way::FirstV4 => Some(V4::datagram(V4::view(slot.frame)?, self.end)),
            Way::FirstV6 => Some(V6::datagram(V6::view(slot.frame)?, self.end)),
            Way::V4 | Way::V6 | Way::Long => None,
        }
    }

    /// Names the line in which the flow of a packet that is the first one is going to stand.
    #[inline]
    pub(super) fn prefetch_room(&self, table: &ConnTable, prefetch: impl Prefetch) {
        match self.way {
            Way::FirstV4 => V4::half(table).prefetch_room(self.hash, |line| prefetch.line(line)),
            Way::FirstV6 => V6::half(table).prefetch_room(self.hash, |line| prefetch.line(line)),
            Way::V4 | Way::V6 | Way::Long => {}
        }
    }

    /// The flow of a packet that was the first one stands in `entry` now.
    #[inline]
    pub(super) fn stands_in(&mut self, entry: u32) {
        self.entry = entry;
        self.way = match self.way {
            Way::FirstV4 => Way::V4,
            Way::FirstV6 => Way::V6,
            other => other,
        };
    }

    /// Step 1: headers, hash, and the first line of the table on its way.
    #[inline(always)]
    pub(super) fn read(slot: &mut Slot<'_>, table: &ConnTable, prefetch: impl Prefetch) -> Self {
        if let Some(end) = V4::end(slot.frame, slot.frame_bytes) {
            Self::hashed::<V4>(slot, end, Way::V4, table, prefetch)
        } else {
            Self::read_v6(slot, table, prefetch)
        }
    }

    #[inline(never)]
    fn read_v6(slot: &mut Slot<'_>, table: &ConnTable, prefetch: impl Prefetch) -> Self {
        match V6::end(slot.frame, slot.frame_bytes) {
            Some(end) => Self::hashed::<V6>(slot, end, Way::V6, table, prefetch),
            None => Self::LONG,
        }
    }

    #[inline(always)]
    fn hashed<F: Straight>(
        slot: &mut Slot<'_>,
        end: u16,
        way: Way,
        table: &ConnTable,
        prefetch: impl Prefetch,
    ) -> Self {
        let Some(head) = F::head(slot.frame) else { return Self::LONG };
        let is_tcp = F::is_tcp(head);
        let hash = table.hash::<F>(&F::key_words(head));
        F::half(table).prefetch_tags(hash, |line| prefetch.line(line));
        Self { hash, entry: 0, end, way, is_tcp }
    }

    /// Step 2, first half: the entry on its way, if there seems to be one. If not, it is the first packet of a flow, or
    /// has to take the long way.
    #[inline(always)]
    pub(super) fn look(&mut self, table: &ConnTable, prefetch: impl Prefetch) {
        let entry = match self.way {
            Way::V4 => V4::half(table).look(self.hash, |line| prefetch.line(line)),
            Way::V6 => V6::half(table).look(self.hash, |line| prefetch.line(line)),
            Way::FirstV4 | Way::FirstV6 | Way::Long => None,
        };
        match entry {
            Some(entry) => self.entry = entry,
            None => {
                self.way = match self.way {
                    Way::V4 if !self.is_tcp => Way::FirstV4,
                    Way::V6 if !self.is_tcp => Way::FirstV6,
                    _ => Way::Long,
                }
            }
        }
    }

    /// Step 2, second half: TCP is judged by both directions.
    #[inline(always)]
    pub(super) fn look_at_peer(&self, table: &ConnTable, prefetch: impl Prefetch) {
        if self.is_tcp {
            match self.way {
                Way::V4 => V4::half(table).prefetch_peer(self.entry, |line| prefetch.line(line)),
                Way::V6 => V6::half(table).prefetch_peer(self.entry, |line| prefetch.line(line)),
                Way::FirstV4 | Way::FirstV6 | Way::Long => {}
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
            Way::FirstV4 | Way::FirstV6 | Way::Long => None,
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

/// Out of line: what a datagram asks of its connection is a word or two, and the loop over a batch is short without this.
#[inline(never)]
fn follow_tcp<F: Family>(half: &Half<F>, hit: &Hit<F>, segment: &Segment, now_s: u32, settings: &Settings) -> Followed {
    half.follow(hit.slot, hit.peer, hit.is_reply(), segment, now_s, settings)
}
