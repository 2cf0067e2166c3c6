//! Reading all connections: for `atalho flows`, status, and control, which looks for flows that a change concerns.

use std::ops::Range;

use atalho_layout::Phase;
use atalho_layout::state::{KIND_REPLY, KIND_SERVICE};

use super::family::{CTL, Family, KEY};
use super::find::slots_of;
use super::half::Half;
use super::state::ConnectionState;
use super::{Direction, FlowRef};
use crate::atomic::{AtomicU32, Ordering};
use crate::flow::Protocol;

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

impl<F: Family> Half<F> {
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
