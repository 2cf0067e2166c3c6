//! Maglev's table of choice (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4): each endpoint fills the table in an order of its own, in turns, so that shares are even and few
//! entries move when an endpoint comes or goes. Building is a pure function of addresses, ports and weights.
//!
//! The tables of ten thousand Services are most of what a node's start takes, so what comes out is listing 1 of the paper,
//! but not how: endpoints look some places ahead (`ahead`), and the last free entries are ranked (`rank`).

mod ahead;
mod free;
mod preference;
mod rank;

use self::ahead::Ahead;
use self::free::Free;
use self::preference::Preference;
use self::rank::Left;
use super::Endpoint;

/// Table sizes: the largest primes below the powers of two, and below what is halfway between the small ones. Further up
/// there are none between, for one of 50 endpoints that leaves would move up to 3 % of the others' entries in 6,143.
const SIZES: &[u16] = &[251, 383, 509, 761, 1021, 1531, 2039, 3067, 4093, 8191, 16_381, 32_749, 65_521];
/// Entries for each endpoint: with 100 the shares differ by 1 % (section 5.3 of the paper).
const ENTRIES_PER_ENDPOINT: usize = 100;
/// What an entry can name.
const ENDPOINTS_MAX: usize = u16::MAX as usize;
/// No more entries than this have all the tables but those of the largest Services.
const SMALL: usize = 8192;
const LARGE: usize = 1 << 16;

/// The size for so many endpoints: a prime, so that every skip visits the whole table.
fn size_for(endpoints: usize) -> u16 {
    let wanted = endpoints.saturating_mul(ENTRIES_PER_ENDPOINT);
    SIZES.iter().copied().find(|size| usize::from(*size) >= wanted).unwrap_or(SIZES[SIZES.len() - 1])
}

/// A table of indexes into `endpoints`. Shares are in proportion to weights; whose weight is 0 gets none. The same endpoints
/// make the same choices in whatever order they stand. Empty where nobody has a weight.
pub(super) fn table(endpoints: &[Endpoint]) -> Box<[u16]> {
    let size = size_for(endpoints.len());
    let known = endpoints.len().min(ENDPOINTS_MAX);
    let mut indexes: Vec<u16> = (0..known as u16).filter(|index| endpoints[usize::from(*index)].weight > 0).collect();
    indexes.sort_by_key(|index| {
        let endpoint = &endpoints[usize::from(*index)];
        (endpoint.address, endpoint.port)
    });
    let of = |index: &u16| {
        let endpoint = &endpoints[usize::from(*index)];
        (Preference::of(endpoint, size), endpoint.weight, *index)
    };
    filled(&indexes.iter().map(of).collect::<Vec<_>>(), size)
}

/// One endpoint that fills the table.
struct Taker {
    ahead: Ahead,
    preference: Preference,
    weight: u32,
    /// A turn takes the largest weight of all from it.
    credit: u64,
    index: u16,
}

impl Taker {
    /// Whether it takes an entry this time.
    #[inline]
    fn has_turn(&mut self, weight_max: u64) -> bool {
        self.credit += u64::from(self.weight);
        let has_turn = self.credit >= weight_max;
        self.credit -= if has_turn { weight_max } else { 0 };
        has_turn
    }
}

fn filled(wishes: &[(Preference, u32, u16)], size: u16) -> Box<[u16]> {
    if usize::from(size) <= SMALL { filled_within::<SMALL>(wishes, size) } else { filled_within::<LARGE>(wishes, size) }
}

/// Listing 1 of the paper, with a credit by weight: with equal weights everybody takes one entry a turn.
fn filled_within<const N: usize>(wishes: &[(Preference, u32, u16)], size: u16) -> Box<[u16]> {
    let weights = || wishes.iter().map(|(_, weight, _)| u64::from(*weight));
    let Some(weight_max) = weights().max() else {
        return Box::default();
    };
    let is_even = weights().all(|weight| weight == weight_max);
    let taker = |&(preference, weight, index): &(Preference, u32, u16)| {
        let ahead = Ahead::new(&preference, size);
        Taker { ahead, preference, weight, credit: 0, index }
    };
    let mut takers: Vec<Taker> = wishes.iter().map(taker).collect();
    let mut table = vec![0; usize::from(size)].into_boxed_slice();
    let mut free = Free::<N>::all(size);
    // Of so many, to rank all costs an endpoint about as much as to look for one that is free.
    let few = (free.count() / 2).isqrt();
    let mut left = None;
    loop {
        for taker in &mut takers {
            if !is_even && !taker.has_turn(weight_max) {
                continue;
            }
            let entry = if free.count() > few {
                taker.ahead.next(&free)
            } else {
                left.get_or_insert_with(|| Left::of(&free)).take(&taker.preference)
            };
            table[usize::from(entry)] = taker.index;
            free.take(entry);
            if free.count() == 0 {
                return table;
            }
        }
    }
}

#[cfg(test)]
mod tests;
