//! The connection table: one, shared by all workers, control and the kernel programs, fixed in size.
//!
//! One entry per direction. A key has two buckets of 32 slots and goes into the first while that has much room, then into the
//! emptier one. Tags of 16 bits stand in an array of their own, one line a bucket, which stays in the cache longest: a look-up
//! nearly always reads one line of tags and one of memory ([`find`](ConnTable::find)).
//! An answer may arrive at another worker than the request, therefore no part of the table belongs to a worker, and
//! nothing here locks:
//!
//! - a slot's life and the order of its stores: `half.rs`;
//! - insert-if-absent of both directions at once: `insert.rs`, with what they hold then: `side.rs`;
//! - removal as a whole, by one winner: `end.rs`; idle ones: `expire.rs`; for want of room: `evict.rs`; when slots are used
//!   again: `epochs.rs`;
//! - what a packet is to its connection: `follow.rs`, with the rules of `tcp.rs` and `sctp.rs`; `state.rs`;
//! - what a cut-off writer may leave behind, and its repair: `repair.rs`.
//!
//! Owners: key, translation, next hop, ingress and peer are written once, before publication. `TICK`, `STATE` and the
//! window words of a direction belong to the worker that handles that direction's packets. `CTL` moves by
//! compare-and-swap. Control and the slow path read, and ask workers to end flows.
//!
//! Cost on the way of a packet, dearest last: prefetched look-up, look-up (a miss of the cache each for tags and entry),
//! insert (two claims, two scans), eviction. Nothing allocates after [`ConnTable::new`].
//!
//! What it does not do: it chooses nothing (admission does), wakes nobody, and reads no clock: `now_s` is the kernel's
//! coarse seconds.

mod counts;
mod end;
mod epochs;
mod evict;
mod expire;
mod family;
mod find;
mod follow;
mod half;
mod insert;
mod memory;
mod repair;
mod scan;
mod sctp;
mod side;
mod state;
mod tcp;

#[cfg(all(test, loom))]
mod loom_model;
#[cfg(all(test, not(loom)))]
mod tests;

use std::net::IpAddr;
use std::ops::Range;

use atalho_layout::SECRET_WORDS;

use self::counts::Counts;
pub(crate) use self::family::SLOTS;
use self::find::ProbeKey;
pub use self::half::Half;
pub(crate) use self::half::Room;
use self::insert::Placed;
pub(crate) use self::side::Mirrored;
use self::side::Side;
use crate::flow::{FlowKey, Protocol};
use crate::processor::Processor;
use crate::tables::{Settings, Timeouts};

pub use epochs::Epochs;
pub use expire::{Expired, ExpiryScan};
pub use family::{Family, V4, V6};
pub use find::{Hit, Probe};
pub use follow::{Followed, Segment};
pub use insert::{InsertError, Inserted};
pub use memory::{Geometry, TableMemory};
pub use repair::TableCheck;
pub use scan::{Connection, Suspect, Suspicion};
pub use sctp::SctpState;
pub use state::{ConnectionState, Evictable};
pub use tcp::{TcpSegment, TcpState};

/// A slot and the sequence under which it was read: still the same flow if the sequence still stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowRef {
    pub is_ipv6: bool,
    pub slot: u32,
    pub sequence: u32,
}

/// The translation of one direction; equal to the key's own values where nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub src_port: u16,
    pub dst_port: u16,
}

/// One direction of a connection to be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direction {
    pub key: FlowKey,
    pub rewrite: Rewrite,
    /// Index into the next hops for packets of this direction.
    pub next_hop: u32,
    /// Kernel interface index of the port by which packets of this direction come in.
    pub ingress: u32,
}

/// A connection to be inserted, as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewConnection {
    /// The direction of the first packet.
    pub original: Direction,
    /// Its key is that of the answers as they come in, before they are translated back.
    pub reply: Direction,
    /// Admitted through a Service.
    pub is_service: bool,
    /// The first packet.
    pub first: Segment,
}

/// A found direction of a live connection: all that a packet of it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub at: FlowRef,
    pub rewrite: Rewrite,
    pub next_hop: u32,
    /// Kernel interface index of the port by which packets of this direction come in.
    pub ingress: u32,
    pub protocol: Protocol,
    pub is_reply: bool,
    /// Source address or port is rewritten.
    pub is_snat: bool,
    /// Destination address or port is rewritten.
    pub is_dnat: bool,
    /// Admitted through a Service.
    pub is_service: bool,
    /// Slot of the other direction.
    pub peer: u32,
}

/// A view of the table, cheap to copy and shared by everybody.
#[derive(Clone, Copy)]
pub struct ConnTable {
    v4: Half<V4>,
    v6: Half<V6>,
    secret: [u64; SECRET_WORDS],
    geometry: Geometry,
    counts: &'static Counts,
}

/// Calls the same function on the half of a family.
macro_rules! on_half {
    ($table:expr, $is_ipv6:expr, $half:ident => $call:expr) => {
        if $is_ipv6 {
            let $half = &$table.v6;
            $call
        } else {
            let $half = &$table.v4;
            $call
        }
    };
}

impl ConnTable {
    /// A view of `memory`, which is zero or a table of the same geometry and secret. Reads it once to count what lives
    /// in it. Panics if the memory is shorter than the geometry says. For start-up only: it allocates.
    pub fn new(memory: TableMemory, geometry: Geometry, secret: &[u64; SECRET_WORDS]) -> Self {
        let table = Self {
            v4: Half::new(memory.tags4, memory.entries4, geometry.buckets()),
            v6: Half::new(memory.tags6, memory.entries6, geometry.buckets()),
            secret: *secret,
            geometry,
            counts: Counts::leak(),
        };
        table.counts.set_live(table.connections().count() as u64);
        table
    }

    /// A table in plain memory that is never given back, for tests and offline use.
    pub fn in_memory(max_flows: usize, secret: &[u64; SECRET_WORDS]) -> Self {
        let geometry = Geometry::for_max_flows(max_flows);
        Self::new(TableMemory::in_memory(geometry), geometry, secret)
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    #[inline]
    pub fn hash<F: Family>(&self, key: &F::Key) -> u32 {
        F::hash(&self.secret, key)
    }

    /// The live flow with this key.
    #[inline]
    pub fn find(&self, key: &FlowKey) -> Option<Flow> {
        self.find_probe(&self.probe(key)?)
    }

    /// Inserts both directions of a connection, or none. `worker` only spreads the count.
    pub fn insert(
        &self,
        worker: u8,
        epochs: &Epochs,
        new: &NewConnection,
        now_s: u32,
    ) -> Result<Inserted, InsertError> {
        on_half!(self, !new.original.key.is_ipv4(), half => {
            let sides = Side::both(&self.secret, new, now_s)?;
            let placed = self.put(half, worker, epochs, &sides, [None; 2], now_s)?;
            Ok(Inserted::new(new, &sides, &placed))
        })
    }

    /// The same, for one that was hashed before; returns the slot of its original direction. `rooms`: what
    /// [`Self::prefetch_room`] said of its keys.
    #[inline]
    pub(crate) fn connect(
        &self,
        worker: u8,
        epochs: &Epochs,
        new: &Mirrored,
        rooms: [Option<Room>; 2],
        now_s: u32,
    ) -> Result<u32, InsertError> {
        let placed = match (&new.original.key, &new.reply.key) {
            (ProbeKey::V4(key), ProbeKey::V4(reply)) => {
                self.put(&self.v4, worker, epochs, &new.sides(key, reply, now_s), rooms, now_s)
            }
            (ProbeKey::V6(key), ProbeKey::V6(reply)) => {
                self.put(&self.v6, worker, epochs, &new.sides(key, reply, now_s), rooms, now_s)
            }
            _ => Err(InsertError::MixedFamilies),
        };
        placed.map(|placed| placed.slots()[0])
    }

    /// Inserts, makes room where it becomes scarce, and counts.
    #[inline]
    fn put<F: Family>(
        &self,
        half: &Half<F>,
        worker: u8,
        epochs: &Epochs,
        sides: &[Side<F>; 2],
        rooms: [Option<Room>; 2],
        now_s: u32,
    ) -> Result<Placed, InsertError> {
        let worker = usize::from(worker);
        let result = half.insert(epochs, sides, rooms, now_s);
        if matches!(result, Ok(Placed { is_tight: true, .. }) | Err(InsertError::TableFull)) {
            let hashes = sides.each_ref().map(|side| side.hash);
            let evicted = half.make_room(epochs, hashes, result.as_ref().ok(), now_s);
            evicted.into_iter().flatten().for_each(|kind| self.counts.count_eviction(worker, kind));
        }
        if result.is_ok() {
            self.counts.add_live(worker);
        }
        result
    }

    /// Names the line of the other direction, for a flow that is going to be [followed](Self::follow).
    #[inline]
    pub fn prefetch_peer(&self, flow: &Flow, processor: impl Processor) {
        on_half!(self, flow.at.is_ipv6, half => half.prefetch_peer(flow.at.slot, processor));
    }

    /// A packet of this flow comes: whether it belongs, and if so, what it leaves in the entry. Only the worker whose
    /// batch found the flow may call it: the slot must not have been reused since.
    #[inline]
    pub fn follow(&self, flow: &Flow, segment: &Segment, now_s: u32, settings: &Settings) -> Followed {
        on_half!(self, flow.at.is_ipv6, half => {
            half.follow(flow.at.slot, flow.peer, flow.is_reply, segment, now_s, settings)
        })
    }

    /// The state of the flow's connection; `None` if it has ended.
    pub fn state(&self, flow: &Flow) -> Option<ConnectionState> {
        on_half!(self, flow.at.is_ipv6, half => half.state(flow.at))
    }

    /// Ends a connection as a whole, given either of its directions. Of several callers one gets `true`; `false` if it
    /// was no longer there.
    pub fn end(&self, epochs: &Epochs, at: FlowRef) -> bool {
        let is_won = on_half!(self, at.is_ipv6, half => half.end(epochs, at));
        if is_won {
            self.counts.sub_live(at.slot as usize);
        }
        is_won
    }

    /// Looks at the next `budget_slots` slots of a worker's share and ends what has been idle for too long.
    pub fn expire(
        &self,
        scan: &mut ExpiryScan,
        budget_slots: u32,
        now_s: u32,
        timeouts: &Timeouts,
        epochs: &Epochs,
    ) -> Expired {
        expire::expire(self, scan, budget_slots, now_s, timeouts, epochs)
    }

    /// Every live connection, by its original direction. Others go on writing meanwhile: each is read as a whole, but
    /// what comes and goes during the walk may be missing.
    pub fn connections(&self) -> impl Iterator<Item = Connection> + use<> {
        self.connections_in(0..self.buckets())
    }

    /// Those in some of the buckets, IPv4's counted first. A connection stays where it is, so a walk in parts meets each
    /// that lives all the time once.
    pub fn connections_in(&self, buckets: Range<u64>) -> impl Iterator<Item = Connection> + use<> {
        let [v4, v6] = self.parts(buckets);
        self.v4.connections_in(v4).chain(self.v6.connections_in(v6))
    }

    /// What is IPv4's of these buckets, and what is IPv6's.
    fn parts(&self, buckets: Range<u64>) -> [Range<u32>; 2] {
        let part = |first: u64, count: u32| {
            let within = |bucket: u64| bucket.clamp(first, first + u64::from(count)).abs_diff(first) as u32;
            within(buckets.start)..within(buckets.end)
        };
        [part(0, self.v4.buckets), part(u64::from(self.v4.buckets), self.v6.buckets)]
    }

    /// Buckets of both families.
    pub fn buckets(&self) -> u64 {
        u64::from(self.v4.buckets) + u64::from(self.v6.buckets)
    }

    /// Number of live connections.
    pub fn count(&self) -> u64 {
        self.counts.live()
    }

    /// Connections that were ended early because their buckets were full.
    pub fn evicted(&self) -> u64 {
        Evictable::ALL.into_iter().map(|kind| self.evicted_as(kind)).sum()
    }

    /// Those of one kind.
    pub fn evicted_as(&self, kind: Evictable) -> u64 {
        self.counts.evicted(kind)
    }

    /// Looks for what a cut-off writer leaves behind. While workers run, it also finds what they are just about.
    pub fn check(&self) -> TableCheck {
        let mut check = TableCheck::default();
        self.v4.check(&self.secret, &mut check);
        self.v6.check(&self.secret, &mut check);
        check
    }

    /// As [`Self::check`], and takes away what is broken; says what it found. For adoption, before any worker runs and
    /// after the kernel has passed a grace period: dying slots become free at once.
    pub fn repair(&self) -> TableCheck {
        let mut check = TableCheck::default();
        self.v4.repair(&self.secret, &mut check);
        self.v6.repair(&self.secret, &mut check);
        self.counts.set_live(check.connections);
        check
    }
}
