//! A connection to be inserted, in the words of its two entries: what they hold when it begins.

use atalho_layout::SECRET_WORDS;
use atalho_layout::state::{KIND_DNAT, KIND_REPLY, KIND_SERVICE, KIND_SNAT};

use super::family::Family;
use super::insert::{InsertError, Inserted, Placed};
use super::tcp::Track;
use super::{Direction, Flow, FlowRef, NewConnection, Probe, Segment};

/// One direction.
pub(super) struct Side<F: Family> {
    pub key: F::Key,
    /// The translation: a key without protocol.
    pub new: F::Key,
    pub hash: u32,
    /// Of `KIND`.
    pub flags: u32,
    pub next_hop: u32,
    pub ingress: u32,
    pub track: Track,
}

impl<F: Family> Side<F> {
    /// Both directions, the original one first.
    pub(super) fn both(
        secret: &[u64; SECRET_WORDS],
        new: &NewConnection,
        now_s: u32,
    ) -> Result<[Self; 2], InsertError> {
        let kind = if new.is_service { KIND_SERVICE } else { 0 };
        let side = |direction: &Direction, kind, track| {
            let key = F::key(&direction.key).ok_or(InsertError::MixedFamilies)?;
            let to = F::new_words(&direction.rewrite).ok_or(InsertError::MixedFamilies)?;
            Ok(Self::new(key, to, F::hash(secret, &key), kind, [direction.next_hop, direction.ingress], track))
        };
        let track = Track::beginning(&new.first, now_s);
        Ok([side(&new.original, kind, track)?, side(&new.reply, kind | KIND_REPLY, Track::default())?])
    }

    /// `way`: next hop and port of ingress.
    #[inline]
    pub(super) fn new(key: F::Key, new: F::Key, hash: u32, kind: u32, way: [u32; 2], track: Track) -> Self {
        let (from, to, ports) = (key.as_ref(), new.as_ref(), 2 * F::ADDRESS);
        let other_ports = from[ports] ^ to[ports];
        let flag = |flag, is_set| if is_set { flag } else { 0 };
        // The source port is the lower half of its word.
        let is_snat = from[..F::ADDRESS] != to[..F::ADDRESS] || other_ports as u16 != 0;
        let is_dnat = from[F::ADDRESS..ports] != to[F::ADDRESS..ports] || other_ports >> 16 != 0;
        let flags = kind | flag(KIND_SNAT, is_snat) | flag(KIND_DNAT, is_dnat);
        Self { key, new, hash, flags, next_hop: way[0], ingress: way[1], track }
    }
}

/// A connection whose directions differ by translation alone: what becomes of a packet of one is the other's key, turned
/// round. All of admission's are. Both keys are hashed already.
#[derive(Clone, Copy)]
pub(crate) struct Mirrored {
    pub original: Probe,
    pub reply: Probe,
    /// Next hop of the original direction, and the port by which its packets come in.
    pub way: [u32; 2],
    /// The same of the reply.
    pub back: [u32; 2],
    pub is_service: bool,
    /// The first packet.
    pub first: Segment,
}

impl Mirrored {
    #[inline]
    pub(super) fn sides<F: Family>(&self, original: &F::Key, reply: &F::Key, now_s: u32) -> [Side<F>; 2] {
        let kind = if self.is_service { KIND_SERVICE } else { 0 };
        let track = Track::beginning(&self.first, now_s);
        let (hash, reply_hash) = (self.original.hash, self.reply.hash);
        [
            Side::new(*original, F::turned(reply), hash, kind, self.way, track),
            Side::new(*reply, F::turned(original), reply_hash, kind | KIND_REPLY, self.back, Track::default()),
        ]
    }
}

impl Inserted {
    pub(super) fn new<F: Family>(new: &NewConnection, sides: &[Side<F>; 2], placed: &Placed) -> Self {
        let [at, reply] = placed.at.map(|(slot, sequence)| FlowRef { is_ipv6: F::IS_IPV6, slot, sequence });
        let flags = sides[0].flags;
        let Direction { key, rewrite, next_hop, ingress } = new.original;
        let flow = Flow {
            at,
            rewrite,
            next_hop,
            ingress,
            protocol: key.protocol,
            is_reply: false,
            is_snat: flags & KIND_SNAT != 0,
            is_dnat: flags & KIND_DNAT != 0,
            is_service: new.is_service,
            peer: reply.slot,
        };
        Self { flow, reply }
    }
}
