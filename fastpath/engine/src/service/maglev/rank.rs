//! The last free entries, each of which an endpoint would come to after the size divided by their number of places: all are
//! asked where they stand in its permutation, and the first has it.

use super::free::Free;
use super::preference::Preference;

pub(super) struct Left {
    /// In no order.
    entries: Vec<u16>,
    size: u16,
}

impl Left {
    pub fn of<const N: usize>(free: &Free<N>) -> Self {
        Self { entries: free.iter().collect(), size: free.size() }
    }

    /// Takes the entry that the permutation comes to first. There is one.
    pub fn take(&mut self, preference: &Preference) -> u16 {
        // An entry's place is (entry - offset) / skip modulo the size. As a fraction of the size in 64 bits, what is over
        // 1 falls off by itself. It comes out wrong by less than 2^33, and places are 2^48 apart at least.
        let fraction = u64::from(inverse(preference.skip, self.size)).wrapping_mul(u64::MAX / u64::from(self.size) + 1);
        let offset = u64::from(preference.offset);
        let place = |entry: u16| u64::from(entry).wrapping_sub(offset).wrapping_mul(fraction);
        // The index rides along in the lowest bits, so that the least is found without a branch.
        let keys = (0..).zip(&self.entries).map(|(at, entry)| place(*entry) & !0xffff | at);
        let first = keys.fold(u64::MAX, u64::min);
        self.entries.swap_remove((first & 0xffff) as usize)
    }
}

/// 1 / `number` modulo the prime `size`, by Euclid's algorithm.
fn inverse(number: u16, size: u16) -> u16 {
    let (mut rest, mut next) = (u32::from(size), u32::from(number));
    let (mut factor, mut factor_next) = (0_i32, 1_i32);
    while next > 0 {
        let quotient = rest / next;
        (rest, next) = (next, rest - quotient * next);
        (factor, factor_next) = (factor_next, factor - quotient as i32 * factor_next);
    }
    factor.rem_euclid(i32::from(size)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_times_its_inverse_is_one() {
        for size in [7, 251, 4093, 65_521] {
            for number in (1..size).step_by(1 + usize::from(size) / 500) {
                let product = u32::from(number) * u32::from(inverse(number, size));
                assert_eq!(product % u32::from(size), 1, "{number} modulo {size}");
            }
        }
    }
}
