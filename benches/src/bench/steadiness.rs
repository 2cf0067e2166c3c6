//! Which rounds of a group count. The control, an XDP program that drops, is taken several times within every round, and
//! a round in which it strays was measured on another machine than the others: it is repeated, a bounded number of times.
//!
//! Rounds are chosen by their controls alone, before anybody looks at a ratio; what is left out stays in the JSON and is
//! counted in the tables. Where even the steadiest rounds are too far apart, nothing is judged.

use anyhow::Result;
use serde::Serialize;

/// From the slowest control to the fastest, as a share of their median: more voids the ratios.
pub const MOVED_MAX: f64 = 0.15;

/// Rounds that count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Steadiness {
    /// Indices into all rounds, in the order of time.
    pub kept: Vec<usize>,
    pub rounds: usize,
    /// How far the controls of the kept ones are apart, as a share of their median.
    pub control_moved: f64,
}

impl Steadiness {
    /// The `wanted` rounds whose controls lie closest together; all, where there are no more. `controls`: one figure a round,
    /// each above 0.
    pub fn of(controls: &[f64], wanted: usize) -> Self {
        let mut order: Vec<usize> = (0..controls.len()).collect();
        order.sort_by(|one, other| controls[*one].total_cmp(&controls[*other]));
        let moved = |window: &[usize]| {
            let [slowest, .., fastest] = window else { return 0.0 };
            let middle = (window.len() - 1) / 2;
            let median = (controls[window[middle]] + controls[window[window.len() / 2]]) / 2.0;
            (controls[*fastest] - controls[*slowest]) / median
        };
        let windows = order.windows(wanted.clamp(1, controls.len().max(1)));
        let steadiest = windows.min_by(|one, other| moved(one).total_cmp(&moved(other))).unwrap_or_default();
        let control_moved = if steadiest.is_empty() { f64::INFINITY } else { moved(steadiest) };
        let mut kept = steadiest.to_vec();
        kept.sort_unstable();
        Self { kept, rounds: controls.len(), control_moved }
    }

    /// Whether ratios of the kept rounds mean anything.
    pub fn is_steady(&self) -> bool {
        self.control_moved <= MOVED_MAX
    }

    pub fn repeated(&self) -> usize {
        self.rounds - self.kept.len()
    }

    /// In one sentence.
    pub fn words(&self) -> String {
        let Self { kept, rounds, control_moved } = self;
        let moved = 100.0 * control_moved;
        match self.repeated() {
            0 => format!("{rounds} rounds within {moved:.0} %"),
            repeated => format!("{repeated} of {rounds} rounds repeated, the {} kept within {moved:.0} %", kept.len()),
        }
    }
}

/// Measures `wanted` rounds, and then at most `repeats_max` more until so many of all are steady. `round` gets the number of
/// rounds before it and returns its control.
pub fn rounds(wanted: usize, repeats_max: usize, mut round: impl FnMut(usize) -> Result<f64>) -> Result<Steadiness> {
    let mut controls = Vec::new();
    loop {
        controls.push(round(controls.len())?);
        let steadiness = Steadiness::of(&controls, wanted);
        let is_enough = steadiness.is_steady() || controls.len() >= wanted + repeats_max;
        if controls.len() >= wanted && is_enough {
            return Ok(steadiness);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rounds_count_where_none_is_left_out() {
        let steadiness = Steadiness::of(&[5.0, 5.5, 5.2], 3);
        assert_eq!((steadiness.kept.clone(), steadiness.repeated()), (vec![0, 1, 2], 0));
        assert!((steadiness.control_moved - 0.5 / 5.2).abs() < 1e-9 && steadiness.is_steady());
        assert_eq!(steadiness.words(), "3 rounds within 10 %");
    }

    #[test]
    fn rounds_whose_control_strays_are_left_out_and_told() {
        let steadiness = Steadiness::of(&[5.0, 3.0, 5.1, 9.0, 5.2], 3);
        assert_eq!(steadiness.kept, [0, 2, 4]);
        assert!(steadiness.is_steady());
        assert_eq!(steadiness.words(), "2 of 5 rounds repeated, the 3 kept within 4 %");
    }

    #[test]
    fn a_machine_that_never_stands_still_is_not_steady() {
        let steadiness = Steadiness::of(&[1.0, 2.0, 3.0, 4.0, 5.0], 3);
        assert_eq!(steadiness.kept, [2, 3, 4]);
        assert!(!steadiness.is_steady(), "{steadiness:?}");
    }

    #[test]
    fn nothing_measured_is_not_steady_and_one_round_is_as_steady_as_it_gets() {
        assert!(!Steadiness::of(&[], 7).is_steady());
        assert_eq!(Steadiness::of(&[4.0], 7).control_moved, 0.0);
    }

    #[test]
    fn of_an_even_number_the_median_is_between_the_two_middles() {
        assert!((Steadiness::of(&[8.0, 10.0], 2).control_moved - 2.0 / 9.0).abs() < 1e-9);
    }

    #[test]
    fn rounds_go_on_until_enough_are_steady_or_there_were_too_many() {
        let run = |controls: &[f64], repeats_max| rounds(3, repeats_max, |round| Ok(controls[round])).unwrap();
        let steady = run(&[5.0, 5.1, 5.2], 4);
        assert_eq!((steady.rounds, steady.repeated()), (3, 0));
        let repeated = run(&[5.0, 3.0, 5.1, 2.0, 5.2], 4);
        assert_eq!((repeated.rounds, repeated.kept.clone(), repeated.is_steady()), (5, vec![0, 2, 4], true));
        let restless = run(&[1.0, 2.0, 3.0, 4.0, 5.0], 2);
        assert_eq!((restless.rounds, restless.is_steady()), (5, false));
    }
}
