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

use atalho_layout::Phase;

use super::epochs::Epochs;
use super::evict::RESERVE;
use super::family::{CTL, Family, KEY, TICK};
use super::half::{Claim, Half, Room};
use super::side::Side;
use super::{Flow, FlowRef};
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
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    /// Slot and sequence of the original direction, then of the reply.
    pub at: [(u32, u32); 2],
    /// Its buckets are nearly full: room has to be made.
    pub is_tight: bool,
}

impl Placed {
    pub(super) fn slots(&self) -> [u32; 2] {
        self.at.map(|(slot, _)| slot)
    }
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

/// What stands in the way of an announced direction.
enum Obstacle {
    Exists(Flow),
    /// Give way to the inserter in this slot, whose `CTL` is this.
    GiveWay(u32, u32),
    /// It neither gave way nor finished.
    Stuck,
}

impl<F: Family> Half<F> {
    /// `sides`: the original direction, the reply. `rooms`: slots that were free a moment ago.
    #[inline]
    pub(super) fn insert(
        &self,
        epochs: &Epochs,
        sides: &[Side<F>; 2],
        mut rooms: [Option<Room>; 2],
        now_s: u32,
    ) -> Result<Placed, InsertError> {
        let [original, reply] = sides;
        if original.key == reply.key {
            return Err(InsertError::SameKey);
        }
        for _ in 0..ATTEMPTS {
            let (to, back) = self.claim_both(sides, std::mem::take(&mut rooms), epochs)?;
            self.fill(&to, original, back.slot, now_s);
            self.fill(&back, reply, to.slot, now_s);
            self.announce(&back);
            self.announce(&to);
            fence(Ordering::SeqCst);
            let obstacle = match self.settle(reply, back.slot) {
                Ok(()) => self.settle(original, to.slot).map_err(|obstacle| (false, obstacle)),
                Err(obstacle) => Err((true, obstacle)),
            };
            let Err((is_reply, obstacle)) = obstacle else {
                let reply_sequence = self.publish(&back);
                let sequence = self.publish(&to);
                return Ok(Placed {
                    at: [(to.slot, sequence), (back.slot, reply_sequence)],
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

    #[inline]
    fn claim_both(
        &self,
        [original, reply]: &[Side<F>; 2],
        [room, reply_room]: [Option<Room>; 2],
        epochs: &Epochs,
    ) -> Result<(Claim, Claim), InsertError> {
        let Some(to) = self.claim_room(original.hash, room, epochs) else {
            return Err(InsertError::TableFull);
        };
        let Some(back) = self.claim_room(reply.hash, reply_room, epochs) else {
            self.retract(&to);
            return Err(InsertError::TableFull);
        };
        Ok((to, back))
    }

    #[inline]
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
        entry[F::NEXT_HOP].store(side.next_hop, Ordering::Relaxed);
        entry[F::INGRESS].store(side.ingress, Ordering::Relaxed);
        entry[F::PEER].store(peer, Ordering::Relaxed);
        entry[TICK].store(now_s, Ordering::Relaxed);
        // Words of the slot's last connection have to go, whatever they were.
        side.track.store_all(entry);
    }

    /// Waits until nobody else has or is about to have this key, or says what stands in the way.
    #[inline]
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
                let flow = Self::holds_key(entry, &side.key).then(|| Self::read(entry, slot, ctl).flow());
                // A slot that changes while it is read is read again: tentative may have become live.
                if !Self::is_unchanged(entry, ctl) {
                    continue;
                }
                return match (flow?, phase) {
                    (Some(flow), Phase::Live) => Some(Rival::Live(flow)),
                    _ => Some(Rival::Tentative(slot, ctl)),
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
