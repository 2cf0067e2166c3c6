//! What a writer that was cut off may leave behind, and its repair before the next one starts.
//!
//! Cut at any step, an insert or a removal leaves claimed or tentative slots, tags without an entry, and live entries
//! whose other direction is not live. Repair frees all of these; what remains are whole connections, each key once.
//! It does not judge what a whole connection says: next hops and backends are control's business.

use std::fmt;

use atalho_layout::state::KIND_REPLY;
use atalho_layout::{Phase, SECRET_WORDS, tag};

use super::family::{CTL, Family, KEY, SLOTS};
use super::half::Half;
use crate::atomic::Ordering;

/// What was found in a table. All but `connections` and `dying` count something broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableCheck {
    /// Whole, live connections.
    pub connections: u64,
    /// Removed entries that wait for their epoch; nothing is wrong with them.
    pub dying: u64,
    /// Slots that a writer claimed and did not finish.
    pub half_inserted: u64,
    /// Tags of slots that are free or dying.
    pub stray_tags: u64,
    /// Live entries with a missing or a wrong tag.
    pub lost_tags: u64,
    /// Live entries in a bucket where nobody would look for them, or with a protocol that does not exist.
    pub misplaced: u64,
    /// Live entries whose other direction is not live, or belongs to another.
    pub peerless: u64,
    /// Live entries whose key a lower slot has too.
    pub duplicates: u64,
}

impl TableCheck {
    /// Whether nothing was broken.
    pub fn is_clean(&self) -> bool {
        let healthy = Self { connections: self.connections, dying: self.dying, ..Self::default() };
        *self == healthy
    }
}

impl TableCheck {
    fn count(&mut self, finding: Finding) {
        match finding {
            Finding::Free | Finding::Reply => {}
            Finding::Original => self.connections += 1,
            Finding::Dying => self.dying += 1,
            Finding::HalfInserted => self.half_inserted += 1,
            Finding::StrayTag => self.stray_tags += 1,
            Finding::LostTag { .. } => self.lost_tags += 1,
            Finding::Misplaced => self.misplaced += 1,
            Finding::Peerless => self.peerless += 1,
            Finding::Duplicate => self.duplicates += 1,
        }
    }
}

impl fmt::Display for TableCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections, {} dying, {} half inserted, {} stray tags, {} lost tags, {} misplaced, {} peerless, {} duplicates",
            self.connections,
            self.dying,
            self.half_inserted,
            self.stray_tags,
            self.lost_tags,
            self.misplaced,
            self.peerless,
            self.duplicates
        )
    }
}

/// What one slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    Free,
    StrayTag,
    HalfInserted,
    Dying,
    Original,
    Reply,
    LostTag { hash: u32 },
    Misplaced,
    Peerless,
    Duplicate,
}

impl<F: Family> Half<F> {
    pub(super) fn check(&self, secret: &[u64; SECRET_WORDS], check: &mut TableCheck) {
        for slot in 0..self.slots() {
            check.count(self.examine(secret, slot));
        }
    }

    pub(super) fn repair(&self, secret: &[u64; SECRET_WORDS], check: &mut TableCheck) {
        for slot in 0..self.slots() {
            let mut finding = self.examine(secret, slot);
            if let Finding::LostTag { hash } = finding {
                check.count(finding);
                self.set_tag(slot, hash);
                finding = self.examine(secret, slot);
            }
            match finding {
                // Counted below, when the rest is gone.
                Finding::Free | Finding::Original | Finding::Reply | Finding::LostTag { .. } => {}
                Finding::StrayTag | Finding::HalfInserted | Finding::Dying => {
                    check.count(finding);
                    self.free(slot);
                }
                Finding::Misplaced | Finding::Peerless | Finding::Duplicate => {
                    check.count(finding);
                    self.free(slot);
                }
            }
        }
        // An entry freed above may have been the other direction of one that looked whole before.
        for slot in 0..self.slots() {
            match self.examine(secret, slot) {
                Finding::Peerless => {
                    check.count(Finding::Peerless);
                    self.free(slot);
                }
                Finding::Original => check.count(Finding::Original),
                _ => {}
            }
        }
    }

    fn examine(&self, secret: &[u64; SECRET_WORDS], slot: u32) -> Finding {
        let entry = self.entry(slot);
        let has_tag = self.tag_of(slot) != 0;
        match Phase::of(entry[CTL].load(Ordering::Acquire)) {
            Phase::Free | Phase::Dying if has_tag => Finding::StrayTag,
            Phase::Free => Finding::Free,
            Phase::Dying => Finding::Dying,
            Phase::Claimed | Phase::Tentative => Finding::HalfInserted,
            Phase::Live => self.examine_live(secret, slot),
        }
    }

    fn examine_live(&self, secret: &[u64; SECRET_WORDS], slot: u32) -> Finding {
        let entry = self.entry(slot);
        let mut words = [0; 32];
        for (value, word) in words.iter_mut().zip(entry) {
            *value = word.load(Ordering::Relaxed);
        }
        let Some(key) = F::flow_key(&words[KEY..]).as_ref().and_then(F::key) else {
            return Finding::Misplaced;
        };
        let hash = F::hash(secret, &key);
        if !self.pair(hash).contains(&(slot / SLOTS as u32)) {
            return Finding::Misplaced;
        }
        if self.tag_of(slot) != tag(hash) {
            return Finding::LostTag { hash };
        }
        let is_reply = words[F::KIND] & KIND_REPLY != 0;
        let has_peer = words[F::PEER] < self.slots() && {
            let peer = self.entry(words[F::PEER]);
            Phase::of(peer[CTL].load(Ordering::Acquire)) == Phase::Live
                && peer[F::PEER].load(Ordering::Relaxed) == slot
                && (peer[F::KIND].load(Ordering::Relaxed) & KIND_REPLY != 0) != is_reply
        };
        if !has_peer {
            return Finding::Peerless;
        }
        let is_twin = |other: u32| {
            let other_entry = self.entry(other);
            other < slot
                && Phase::of(other_entry[CTL].load(Ordering::Acquire)) == Phase::Live
                && Self::holds_key(other_entry, &key)
        };
        if self.candidates(hash).any(is_twin) {
            return Finding::Duplicate;
        }
        if is_reply { Finding::Reply } else { Finding::Original }
    }

    /// Frees a slot at once: nobody reads the table.
    fn free(&self, slot: u32) {
        self.clear_tag(slot);
        let word = &self.entry(slot)[CTL];
        let sequence = (word.load(Ordering::Relaxed) & !0xff).wrapping_add(0x100);
        word.store(sequence | Phase::Free as u32, Ordering::Release);
    }
}
