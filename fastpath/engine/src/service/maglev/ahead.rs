//! An endpoint's next free entries, looked for in one go. One place after the other would be a branch at each that nobody
//! can predict, and a wait for the place before.

use std::hint::select_unpredictable;

use super::free::Free;
use super::preference::{Preference, advanced};

/// Places that are looked at side by side: a vector of them.
const LANES: usize = 8;
/// Looks at a time: the more, the more of what was free is taken when its turn comes. Of a table that is half full already
/// more are needed to find any.
const LOOKS: usize = 4;
const LOOKS_MAX: usize = 8;

pub(super) struct Ahead {
    /// The places that come next in the permutation.
    places: [u16; LANES],
    /// From a lane's place to its next one: skips of all lanes together, modulo the size.
    stride: u16,
    size: u16,
    /// What was free when it was looked at, `at..len` of it still to come.
    found: [u16; LANES * LOOKS_MAX],
    at: usize,
    len: usize,
}

impl Ahead {
    pub fn new(preference: &Preference, size: u16) -> Self {
        let mut place = preference.offset;
        let places = std::array::from_fn(|_| {
            let this = place;
            place = advanced(this, preference.skip, size);
            this
        });
        // The place behind the last lane's is where the first lane's next one is.
        let stride = advanced(place, size - preference.offset, size);
        Self { places, stride, size, found: [0; _], at: 0, len: 0 }
    }

    /// The next free entry of the permutation. There is one.
    #[inline]
    pub fn next<const N: usize>(&mut self, free: &Free<N>) -> u16 {
        loop {
            // Two at a time: that one was taken since it was found nobody can predict, that both were seldom happens.
            while self.at < self.len {
                let [first, second] = [self.at, self.at + 1].map(|at| self.found[at % (LANES * LOOKS_MAX)]);
                let is_first = free.has(first);
                let is_second = free.has(second) & usize::from(self.at + 1 < self.len);
                self.at += 2 - is_first;
                if is_first | is_second == 1 {
                    return select_unpredictable(is_first == 1, first, second);
                }
            }
            self.look(free, if 2 * free.count() > usize::from(self.size) { LOOKS } else { LOOKS_MAX });
        }
    }

    #[inline]
    fn look<const N: usize>(&mut self, free: &Free<N>, looks: usize) {
        let mut len = 0;
        for _ in 0..looks {
            for place in self.places {
                self.found[len % (LANES * LOOKS_MAX)] = place;
                len += free.has(place);
            }
            self.places = self.places.map(|place| advanced(place, self.stride, self.size));
        }
        (self.at, self.len) = (0, len);
    }
}
