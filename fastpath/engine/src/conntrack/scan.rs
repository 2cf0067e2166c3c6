//! Reading all connections: whole, for `atalho flows` and status; and what control has to look at to find flows that a
//! change concerns. The latter reads each entry by itself, in the order in which they stand in memory: the other
//! direction stands anywhere, and to go there cost more than all the rest.

use std::net::IpAddr;
use std::ops::Range;

use atalho_layout::Phase;
use atalho_layout::state::{KIND_REPLY, KIND_SERVICE};

use super::family::{CTL, Family, KEY};
use super::find::slots_of;
use super::half::Half;
use super::state::ConnectionState;
use super::{ConnTable, Direction, FlowRef};
use crate::atomic::{AtomicU32, Ordering};
use crate::flow::Protocol;
use crate::service::VipKey;
use crate::tables::{FastMap, Port};

/// A live connection as it was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Its original direction.
    pub at: FlowRef,
    pub original: Direction,
    pub reply: Direction,
    pub protocol: Protocol,
    /// Admitted through a Service.
    pub is_service: bool,
    pub state: ConnectionState,
    /// Kernel coarse seconds of the last packet of each direction; of the reply, the admission if it has sent none.
    pub original_seen_s: u32,
    pub reply_seen_s: u32,
}

/// A live connection that tables may not bear out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    /// Its original direction.
    pub at: FlowRef,
    pub why: Suspicion,
}

/// What may be wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// The port of one of its directions is none of those that there are.
    Portless,
    /// It was admitted through a Service: where to, and which endpoint it was given.
    Chosen { vip: VipKey, endpoint: (IpAddr, u16) },
}

impl ConnTable {
    /// Calls `see` with what may not be borne out by tables with these ports, in some of the buckets. Who lives all the time
    /// and loses the port of either direction is met where that direction stands; who came through a Service, where its
    /// original stands.
    pub fn suspects_in(&self, buckets: Range<u64>, ports: &FastMap<u32, Port>, see: &mut dyn FnMut(Suspect)) {
        let [v4, v6] = self.parts(buckets);
        self.v4.suspects_in(v4, ports, see);
        self.v6.suspects_in(v6, ports, see);
    }
}

impl<F: Family> Half<F> {
    fn suspects_in(&self, buckets: Range<u32>, ports: &FastMap<u32, Port>, see: &mut dyn FnMut(Suspect)) {
        for slot in buckets.flat_map(|bucket| slots_of(bucket, self.tagged(bucket))) {
            if let Some(suspect) = self.suspect(slot, ports) {
                see(suspect);
            }
        }
    }

    fn suspect(&self, slot: u32, ports: &FastMap<u32, Port>) -> Option<Suspect> {
        let entry = self.entry(slot);
        let ctl = entry[CTL].load(Ordering::Acquire);
        if Phase::of(ctl) != Phase::Live {
            return None;
        }
        let kind = entry[F::KIND].load(Ordering::Relaxed);
        let suspect = if !ports.contains_key(&entry[F::INGRESS].load(Ordering::Relaxed)) {
            Suspect { at: self.judge(slot)?.original, why: Suspicion::Portless }
        } else if kind & (KIND_SERVICE | KIND_REPLY) == KIND_SERVICE {
            let Direction { key, rewrite, .. } = Self::direction(entry)?;
            let vip = VipKey { address: key.dst, protocol: key.protocol, port: key.dst_port };
            let why = Suspicion::Chosen { vip, endpoint: (rewrite.dst, rewrite.dst_port) };
            Suspect { at: FlowRef { is_ipv6: F::IS_IPV6, slot, sequence: ctl >> 8 }, why }
        } else {
            return None;
        };
        Self::is_unchanged(entry, ctl).then_some(suspect)
    }

    pub(super) fn connections_in(self, buckets: Range<u32>) -> impl Iterator<Item = Connection> {
        buckets
            .flat_map(move |bucket| slots_of(bucket, self.tagged(bucket)))
            .filter_map(move |slot| self.connection(slot))
    }

    /// The connection whose original entry stands in `slot`.
    fn connection(&self, slot: u32) -> Option<Connection> {
        let entry = self.entry(slot);
        let ctl = entry[CTL].load(Ordering::Acquire);
        let kind = entry[F::KIND].load(Ordering::Relaxed);
        if Phase::of(ctl) != Phase::Live || kind & KIND_REPLY != 0 {
            return None;
        }
        let judged = self.judge(slot)?;
        let reply_entry = self.entry(judged.reply_slot);
        let reply_ctl = reply_entry[CTL].load(Ordering::Acquire);
        let connection = Connection {
            at: judged.original,
            original: Self::direction(entry)?,
            reply: Self::direction(reply_entry)?,
            protocol: judged.protocol,
            is_service: kind & KIND_SERVICE != 0,
            state: judged.state(),
            original_seen_s: judged.original_side.seen_s,
            reply_seen_s: judged.reply_side.seen_s,
        };
        // An original that stood all the time had this reply all the time.
        (judged.original.sequence == ctl >> 8
            && Self::is_unchanged(entry, ctl)
            && Self::is_unchanged(reply_entry, reply_ctl))
        .then_some(connection)
    }

    /// Reads one direction; the caller checks `CTL` afterwards.
    fn direction(entry: &[AtomicU32]) -> Option<Direction> {
        let mut words = [0; 32];
        for (value, word) in words.iter_mut().zip(entry) {
            *value = word.load(Ordering::Relaxed);
        }
        Some(Direction {
            key: F::flow_key(&words[KEY..])?,
            rewrite: F::rewrite(&words[F::NEW..]),
            next_hop: words[F::NEXT_HOP],
            ingress: words[F::INGRESS],
        })
    }
}
