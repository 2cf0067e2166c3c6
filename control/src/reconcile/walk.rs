//! Where the walk through the connection table stands, and for how long it goes on.
//!
//! The walk goes round and round through the table's buckets, a few at each step, and rests where nobody waits for it. A
//! change that comes meanwhile does not make it begin anew: it gets a round of its own, from where the walk stands to the
//! same place one table further on, so that rounds overlap and a change waits for one of them at most.
//!
//! Why no flow is missed. A connection stays in its slot for as long as it lives, and a round meets every slot once. Take
//! a publication and a flow that these tables, or later ones, do not bear out:
//!
//! - The flow was admitted by the tables before. The round begins only once every worker has begun a batch after the swap
//!   (or sleeps): admission happens within a batch, so the flow stands in its slot by then, and the round comes past it.
//! - It was admitted by these tables: then it is what they say, and a later publication, with a round of its own, made it wrong.
//!
//! Whoever is met is judged by the newest tables, which are never older than those of any worker: no flow ends for what is no
//! longer so. Addresses that changed hands are the exception, for the table cannot tell flows to the one before from
//! flows to the one after. They count for exactly one round: whoever comes behind its back stays.
//!
//! It looks at no table and reads no clock.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use crate::model::Inherited;

/// One change's way through the table.
#[derive(Debug)]
struct Round {
    /// It ends when so many buckets have been walked through.
    until: u64,
    since: Instant,
    /// Endpoints whose address is another pod's by now.
    inherited: Inherited,
}

/// A publication whose round has not begun.
#[derive(Debug, Clone, Copy)]
struct Published {
    /// The epoch that every worker has to be in before: until then one may still admit flows by the tables before.
    epoch: u64,
    /// When the first change came that it brought.
    since: Instant,
}

/// The walk through a table.
#[derive(Debug)]
pub struct Walk {
    buckets: u64,
    /// Buckets that it has gone through since it began, all rounds together.
    walked: u64,
    /// Under way; the oldest one, which ends first, in front.
    rounds: VecDeque<Round>,
    published: Option<Published>,
    /// What came after it, in one: to put off the first one for them could put it off for ever.
    later: Option<Published>,
}

impl Walk {
    /// Through a table of so many buckets, one at least.
    pub fn new(buckets: u64) -> Self {
        Self { buckets: buckets.max(1), walked: 0, rounds: VecDeque::new(), published: None, later: None }
    }

    /// Tables were published that may not bear out flows; workers begin to use them in `epoch`. `since`: when the first
    /// change of theirs came.
    pub fn publish(&mut self, epoch: u64, since: Instant) {
        let Some(first) = self.published else {
            self.published = Some(Published { epoch, since });
            return;
        };
        let since = self.later.map_or(since, |later| later.since);
        self.later = Some(Published { epoch: epoch.max(first.epoch), since });
    }

    /// Begins the rounds of publications whose epoch every worker is in, as `passed` says. `inherited`: takes what changed
    /// hands since it was last called.
    pub fn begin(&mut self, passed: impl Fn(u64) -> bool, mut inherited: impl FnMut() -> Inherited) {
        while let Some(published) = self.published.filter(|published| passed(published.epoch)) {
            let round = Round { until: self.walked + self.buckets, since: published.since, inherited: inherited() };
            self.rounds.push_back(round);
            self.published = self.later.take();
        }
    }

    /// Where to go on, so many buckets at most. `None`: no round is under way.
    pub fn ahead(&self, at_most: u64) -> Option<Range<u64>> {
        let round = self.rounds.front()?;
        let from = self.walked % self.buckets;
        Some(from..from + at_most.min(round.until - self.walked).min(self.buckets - from))
    }

    /// What changed hands by the rounds that are under way.
    pub fn inherited(&self) -> impl Iterator<Item = &Inherited> {
        self.rounds.iter().map(|round| &round.inherited).filter(|inherited| !inherited.is_empty())
    }

    /// The next buckets, as [`Self::ahead`] named them, have been gone through. Returns since when the changes waited whose
    /// rounds are over.
    pub fn go(&mut self, buckets: &Range<u64>) -> Vec<Instant> {
        self.walked += buckets.end - buckets.start;
        let over = self.rounds.iter().take_while(|round| round.until <= self.walked).count();
        self.rounds.drain(..over).map(|round| round.since).collect()
    }

    /// Buckets that it has gone through since it began.
    pub fn walked(&self) -> u64 {
        self.walked
    }

    /// How often it has come past the table's end.
    pub fn laps(&self) -> u64 {
        self.walked / self.buckets
    }

    /// No round is under way.
    pub fn rests(&self) -> bool {
        self.rounds.is_empty()
    }

    /// A publication waits for workers.
    pub fn waits(&self) -> bool {
        self.published.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks on by steps of `at_most` until it rests; returns how often each bucket was met.
    fn walk_out(walk: &mut Walk, at_most: u64) -> Vec<u32> {
        let mut met = vec![0; walk.buckets as usize];
        while let Some(buckets) = walk.ahead(at_most) {
            buckets.clone().for_each(|bucket| met[bucket as usize] += 1);
            walk.go(&buckets);
        }
        met
    }

    #[test]
    fn every_change_has_a_whole_round_from_where_the_walk_stands() {
        let now = Instant::now();
        let mut walk = Walk::new(10);
        assert!(walk.ahead(3).is_none() && walk.rests());
        walk.publish(1, now);
        walk.begin(|_| true, Inherited::new);
        for _ in 0..2 {
            let buckets = walk.ahead(3).unwrap();
            assert!(walk.go(&buckets).is_empty());
        }
        // The second change comes at bucket 6: those before it are met once more, the others are not.
        walk.publish(2, now);
        walk.begin(|_| true, Inherited::new);
        assert_eq!(walk_out(&mut walk, 3), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert!(walk.rests());
        walk.publish(3, now);
        walk.begin(|_| true, Inherited::new);
        assert_eq!(walk_out(&mut walk, 64), [1; 10]);
    }

    #[test]
    fn a_round_waits_for_its_epoch_and_is_not_put_off_by_later_ones() {
        let (now, mut walk) = (Instant::now(), Walk::new(10));
        walk.publish(5, now);
        walk.publish(6, now);
        walk.publish(7, now);
        walk.begin(|epoch| epoch <= 4, Inherited::new);
        assert!(walk.rests() && walk.waits());
        // What came meanwhile is one, and waits for the last of it.
        walk.begin(|epoch| epoch <= 6, Inherited::new);
        assert!(!walk.rests() && walk.waits());
        assert_eq!(walk.go(&walk.ahead(64).unwrap()).len(), 1);
        assert!(walk.rests());
        walk.begin(|epoch| epoch <= 7, Inherited::new);
        assert!(!walk.rests() && !walk.waits());
    }

    #[test]
    fn what_changed_hands_counts_for_exactly_one_round() {
        let now = Instant::now();
        let mut walk = Walk::new(10);
        let heirs = || Inherited::from([("default/web".into(), [[10, 0, 0, 1].into()].into())]);
        walk.publish(1, now);
        walk.begin(|_| true, Inherited::new);
        walk.go(&walk.ahead(4).unwrap());
        walk.publish(2, now);
        walk.begin(|_| true, heirs);
        let mut met = 0;
        while walk.inherited().next().is_some() {
            let buckets = walk.ahead(3).unwrap();
            met += buckets.end - buckets.start;
            walk.go(&buckets);
        }
        assert_eq!(met, 10);
    }
}
