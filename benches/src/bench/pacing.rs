//! The highest rate at which hardly anything is lost, by a bounded search. Who is overrun spends his time on packets that he
//! then drops, so for him "as fast as it can be sent" is not the best that he can do.

use anyhow::{Context, Result};

use super::site::Measured;

/// Losing no more than this share counts as lossless.
pub const LOSS_MAX: f64 = 0.001;

/// Share of the frames asked for that a generator has to make.
const GENERATED_MIN: f64 = 0.9;

/// How a search goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchOptions {
    pub tries: usize,
    /// While only one side of the highest rate is known, each try is so many times off the one before.
    pub stride: f64,
}

/// The rates that are tried: first away from a guess, then in the middle between what was borne and what was not.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Search {
    guess_pps: f64,
    stride: f64,
    borne_pps: Option<f64>,
    too_much_pps: Option<f64>,
}

impl Search {
    /// Packets a second to be tried next.
    fn next_pps(&self) -> f64 {
        match (self.borne_pps, self.too_much_pps) {
            (None, None) => self.guess_pps,
            (Some(borne), None) => borne * self.stride,
            (None, Some(too_much)) => too_much / self.stride,
            (Some(borne), Some(too_much)) => (borne * too_much).sqrt(),
        }
    }

    fn note(&mut self, pps: f64, is_borne: bool) {
        if is_borne {
            self.borne_pps = Some(pps);
        } else {
            self.too_much_pps = Some(pps);
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The highest rate that was borne, packets a second; `None`: each of those tried was too much.
    pub pps: Option<f64>,
    /// At that rate; without one, what delivered most.
    pub measured: Measured,
}

/// Tries rates, at least one, from `guess_pps` on.
pub fn highest_lossless(
    guess_pps: f64,
    SearchOptions { tries, stride }: SearchOptions,
    mut measure: impl FnMut(f64) -> Result<Measured>,
) -> Result<Found> {
    let mut search = Search { guess_pps, stride, borne_pps: None, too_much_pps: None };
    let mut found: Option<Found> = None;
    for _ in 0..tries.max(1) {
        let pps = search.next_pps();
        let measured = measure(pps)?;
        // A generator that cannot keep up says nothing about a higher rate.
        let is_sent = measured.sent as f64 >= GENERATED_MIN * pps * measured.seconds;
        let is_borne = measured.loss() < LOSS_MAX;
        search.note(pps, is_borne && is_sent);
        let tried = Found { pps: is_borne.then_some(pps), measured };
        let rank = |of: &Found| (of.pps.is_some(), of.measured.mpps());
        if found.is_none_or(|found| rank(&found) < rank(&tried)) {
            found = Some(tried);
        }
    }
    found.context("no rate was tried")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody who bears so many packets a second, and nothing beyond.
    fn bears(bearable: f64) -> impl FnMut(f64) -> Result<Measured> {
        move |pps| {
            let delivered = if pps <= bearable { pps } else { pps / 2.0 };
            Ok(Measured {
                seconds: 1.0,
                sent: pps as u64,
                delivered: delivered as u64,
                sender_cpu_ns: 0,
                ksoftirqd_cpu_ns: 0,
                forwarder_cpu_ns: 0,
                softirq_ns: 0,
            })
        }
    }

    #[test]
    fn it_comes_near_from_below_and_from_above() {
        for guess in [100e3, 400e3, 2e6] {
            let found = highest_lossless(guess, SearchOptions { tries: 12, stride: 1.4 }, bears(640e3)).unwrap();
            let pps = found.pps.unwrap();
            assert!((600e3..=640e3).contains(&pps), "{guess}: {pps}");
            assert!(found.measured.loss() < LOSS_MAX);
        }
    }

    #[test]
    fn it_ends_after_so_many_tries_with_what_delivered_most_where_nothing_is_borne() {
        let mut tries = 0;
        let found = highest_lossless(1e6, SearchOptions { tries: 5, stride: 1.4 }, |pps| {
            tries += 1;
            bears(1.0)(pps)
        })
        .unwrap();
        assert_eq!((found.pps, found.measured.delivered, tries), (None, 500_000, 5));
    }

    #[test]
    fn it_does_not_run_away_from_a_generator_that_cannot_keep_up() {
        let mut asked = Vec::new();
        let found = highest_lossless(1e6, SearchOptions { tries: 8, stride: 1.4 }, |pps| {
            asked.push(pps);
            bears(f64::INFINITY)(pps.min(3e6))
        })
        .unwrap();
        assert!(asked.iter().all(|pps| *pps < 5e6), "{asked:?}");
        assert!(found.measured.mpps() > 2.5);
    }
}
