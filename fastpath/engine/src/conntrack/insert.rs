//! Insert-if-absent of a connection, both directions or none, among workers that share no lock.
//!
//! 1. Claim a slot for each direction and fill both; nobody else reads them.
//! 2. Announce both: phase tentative, tag set. Then a full fence, then look for the same keys in all slots where they
//!    may stand. Two inserters of one key both fence between announcing and looking, so at least one sees the other.
//! 3. A live one found: take both back, the key exists. A tentative one found: the lower slot waits for the other to
//!    give way or to go live, the higher one gives way, waits in its turn and starts anew. Both waits are bounded, and
//!    what does not resolve is [`InsertError::Contention`], a dropped packet that will be sent again.
//! 4. Nothing found: publish the reply direction, then the original. So wherever an original is live, its reply is too.
//!
//! Why one wins: of two inserters that see each other, the higher slot never publishes before the lower one settled. If
//! only one sees the other, it waits or gives way, and the other publishes.
//!
//! It does not make room: `evict.rs`.

use atalho_layout::state::{KIND_DNAT, KIND_REPLY, KIND_SERVICE, KIND_SNAT};
use atalho_layout::{Phase, SECRET_WORDS};

use super::epochs::Epochs;
use super::evict::RESERVE;
use super::family::{CTL, Family, KEY, TICK};
use super::half::{Claim, Half};
use super::tcp::Track;
use super::{Direction, Flow, FlowRef, NewConnection};
use crate::atomic::{Ordering, fence, spin_loop};

/// How often a waiting inserter looks again: some tens of microseconds, longer than any insert that is not preempted.
const SPINS: u32 = if cfg!(loom) { 2 } else { 2000 };

/// How often an inserter that gave way starts anew.
const ATTEMPTS: u32 = if cfg!(loom) { 2 } else { 4 };

/// What an insert made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inserted {
    /// The original direction.
    pub flow: Flow,
    pub reply: FlowRef,
    /// Its buckets are nearly full: room has to be made.
    pub(super) is_tight: bool,
}

/// Why nothing was inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertError {
    /// A live flow has the key of the original direction or, if `is_reply`, of the reply direction.
    Exists { is_reply: bool, flow: Flow },
    /// Another inserter of the same key did not finish in time.
    Contention,
    /// Both buckets of a direction are full. Room was made for the repetition if there was anybody to go.
    TableFull,
    /// Key or translation has addresses of two families.
    MixedFamilies,
    /// Both directions have the same key, so answers could not be told from requests.
    SameKey,
}

/// One direction in words.
struct Side<F: Family> {
    key: F::Key,
    new: F::Key,
    hash: u32,
    flags: u32,
    direction: Direction,
    track: Track,
}

/// What stands in the way of an announced direction.
enum Obstacle {
    Exists(Flow),
    /// Give way to the inserter in this slot, whose `CTL` is this.
    GiveWay(u32, u32),
    /// It neither gave way nor finished.
    Stuck,
}

impl<F: Family> Half<F> {
    pub(super) fn insert(
        &self,
        secret: &[u64; SECRET_WORDS],
        epochs: &Epochs,
        new: &NewConnection,
        now_s: u32,
    ) -> Result<Inserted, InsertError> {
        let original = Side::<F>::new(secret, &new.original, new.is_service, Track::beginning(&new.first, now_s))?;
        let mut reply = Side::<F>::new(secret, &new.reply, new.is_service, Track::default())?;
        reply.flags |= KIND_REPLY;
        if original.key == reply.key {
            return Err(InsertError::SameKey);
        }
        for _ in 0..ATTEMPTS {
            let (to, back) = self.claim_both(&original, &reply, epochs)?;
            self.fill(&to, &original, back.slot, now_s);
            self.fill(&back, &reply, to.slot, now_s);
            self.announce(&back);
            self.announce(&to);
            fence(Ordering::SeqCst);
            let obstacle = match self.settle(&reply, back.slot) {
                Ok(()) => self.settle(&original, to.slot).map_err(|obstacle| (false, obstacle)),
                Err(obstacle) => Err((true, obstacle)),
            };
            let Err((is_reply, obstacle)) = obstacle else {
                let reply_sequence = self.publish(&back);
                let sequence = self.publish(&to);
                return Ok(Inserted {
                    flow: original.flow(to.slot, sequence, back.slot),
                    reply: FlowRef { is_ipv6: F::IS_IPV6, slot: back.slot, sequence: reply_sequence },
                    is_tight: to.left.min(back.left) <= RESERVE,
                });
            };
            self.retract(&to);
            self.retract(&back);
            match obstacle {
                Obstacle::Exists(flow) => return Err(InsertError::Exists { is_reply, flow }),
                Obstacle::Stuck => return Err(InsertError::Contention),
                Obstacle::GiveWay(slot, ctl) => {
                    self.wait_for_change(slot, ctl);
                }
            }
        }
        Err(InsertError::Contention)
    }

    fn claim_both(&self, original: &Side<F>, reply: &Side<F>, epochs: &Epochs) -> Result<(Claim, Claim), InsertError> {
        let Some(to) = self.claim(original.hash, epochs) else {
            return Err(InsertError::TableFull);
        };
        let Some(back) = self.claim(reply.hash, epochs) else {
            self.retract(&to);
            return Err(InsertError::TableFull);
        };
        Ok((to, back))
    }

    fn fill(&self, claim: &Claim, side: &Side<F>, peer: u32, now_s: u32) {
        let entry = self.entry(claim.slot);
        let key = side.key.as_ref();
        let tuple = key.len() - 1;
        for (word, value) in entry[KEY..].iter().zip(&key[..tuple]) {
            word.store(*value, Ordering::Relaxed);
        }
        for (word, value) in entry[F::NEW..].iter().zip(&side.new.as_ref()[..tuple]) {
            word.store(*value, Ordering::Relaxed);
        }
        entry[F::KIND].store(key[tuple] | side.flags, Ordering::Relaxed);
        entry[F::NEXT_HOP].store(side.direction.next_hop, Ordering::Relaxed);
        entry[F::INGRESS].store(side.direction.ingress, Ordering::Relaxed);
        entry[F::PEER].store(peer, Ordering::Relaxed);
        entry[TICK].store(now_s, Ordering::Relaxed);
        // Words of the slot's last connection have to go, so everything is stored, whatever it was.
        let all_differ =
            Track { state: !side.track.state, end: !side.track.end, ack: !side.track.ack, window: !side.track.window };
        side.track.store(&all_differ, entry);
    }

    /// Waits until nobody else has or is about to have this key, or says what stands in the way.
    fn settle(&self, side: &Side<F>, own: u32) -> Result<(), Obstacle> {
        loop {
            match self.rival(side, own) {
                None => return Ok(()),
                Some(Rival::Live(flow)) => return Err(Obstacle::Exists(flow)),
                Some(Rival::Tentative(slot, ctl)) if slot < own => return Err(Obstacle::GiveWay(slot, ctl)),
                Some(Rival::Tentative(slot, ctl)) => {
                    if !self.wait_for_change(slot, ctl) {
                        return Err(Obstacle::Stuck);
                    }
                }
            }
        }
    }

    /// Another slot with the same key, live or about to be.
    fn rival(&self, side: &Side<F>, own: u32) -> Option<Rival> {
        self.candidates(side.hash).filter(|slot| *slot != own).find_map(|slot| {
            let entry = self.entry(slot);
            loop {
                let ctl = entry[CTL].load(Ordering::Acquire);
                let phase = Phase::of(ctl);
                if phase != Phase::Live && phase != Phase::Tentative {
                    return None;
                }
                let is_same = Self::holds_key(entry, &side.key);
                let flow = Self::read(entry, slot, ctl).flow();
                // A slot that changes while it is read is read again: tentative may have become live.
                if !Self::is_unchanged(entry, ctl) {
                    continue;
                }
                return match (is_same, phase, flow) {
                    (false, ..) => None,
                    (true, Phase::Live, Some(flow)) => Some(Rival::Live(flow)),
                    (true, ..) => Some(Rival::Tentative(slot, ctl)),
                };
            }
        })
    }

    /// Whether `CTL` of a slot changed within the bound.
    fn wait_for_change(&self, slot: u32, ctl: u32) -> bool {
        let word = &self.entry(slot)[CTL];
        (0..SPINS).any(|_| {
            if word.load(Ordering::Acquire) != ctl {
                return true;
            }
            spin_loop();
            false
        })
    }
}

enum Rival {
    Live(Flow),
    /// Slot and its `CTL`.
    Tentative(u32, u32),
}

/// The later of two ticks.
pub(super) fn later(a: u32, b: u32) -> u32 {
    if (b.wrapping_sub(a) as i32) > 0 { b } else { a }
}

impl<F: Family> Side<F> {
    fn new(
        secret: &[u64; SECRET_WORDS],
        direction: &Direction,
        is_service: bool,
        track: Track,
    ) -> Result<Self, InsertError> {
        let key = F::key(&direction.key).ok_or(InsertError::MixedFamilies)?;
        let new = F::new_words(&direction.rewrite).ok_or(InsertError::MixedFamilies)?;
        let (from, to) = (&direction.key, &direction.rewrite);
        let flag = |flag, is_set| if is_set { flag } else { 0 };
        let flags = flag(KIND_SNAT, from.src != to.src || from.src_port != to.src_port)
            | flag(KIND_DNAT, from.dst != to.dst || from.dst_port != to.dst_port)
            | flag(KIND_SERVICE, is_service);
        Ok(Self { hash: F::hash(secret, &key), key, new, flags, direction: *direction, track })
    }

    fn flow(&self, slot: u32, sequence: u32, peer: u32) -> Flow {
        Flow {
            at: FlowRef { is_ipv6: F::IS_IPV6, slot, sequence },
            rewrite: self.direction.rewrite,
            next_hop: self.direction.next_hop,
            ingress: self.direction.ingress,
            protocol: self.direction.key.protocol,
            is_reply: self.flags & KIND_REPLY != 0,
            is_snat: self.flags & KIND_SNAT != 0,
            is_dnat: self.flags & KIND_DNAT != 0,
            is_service: self.flags & KIND_SERVICE != 0,
            peer,
        }
    }
}
