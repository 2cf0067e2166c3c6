//! Medians, and medians of per-pair ratios: the figure for "A against B" is taken inside each pair of neighbouring
//! runs and only then put in order, so that a machine that slows down between two pairs moves neither side.

use serde::Serialize;

/// The middle of a set of measurements, and how far its middle half reaches.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub runs: usize,
}

impl Spread {
    /// `low` and `high` are the quartiles. `None`: nothing was measured.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        if values.is_empty() {
            return None;
        }
        let at = |share: f64| quantile(&values, share);
        Some(Self { median: at(0.5), low: at(0.25), high: at(0.75), runs: values.len() })
    }

    /// Of the ratios of pairs (A, B); a pair whose B is not positive says nothing.
    pub fn of_ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        Self::of(pairs.into_iter().filter(|(_, b)| *b > 0.0).map(|(a, b)| a / b))
    }
}

/// By linear interpolation between the two nearest ranks; `sorted` is not empty.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = share * (sorted.len() - 1) as f64;
    let (below, part) = (rank.floor() as usize, rank.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * part
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        let odd = Spread::of([9.0, 1.0, 5.0]).unwrap();
        assert_eq!((odd.median, odd.low, odd.high, odd.runs), (5.0, 3.0, 7.0, 3));
        assert_eq!(Spread::of([4.0, 2.0, 8.0, 6.0]).unwrap().median, 5.0);
        assert_eq!(Spread::of([3.0]).unwrap(), Spread { median: 3.0, low: 3.0, high: 3.0, runs: 1 });
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn one_wild_run_does_not_move_the_median() {
        assert_eq!(Spread::of([1.0, 1.0, 1.0, 1.0, 1000.0]).unwrap().median, 1.0);
    }

    #[test]
    fn ratios_are_taken_inside_pairs_and_not_between_medians() {
        // The machine halves its speed twice; A is twice as fast as B throughout, as no ratio of medians would tell if
        // the runs were put in order first and paired afterwards.
        let pairs = [(8.0, 4.0), (4.0, 2.0), (2.0, 1.0)];
        assert_eq!(Spread::of_ratios(pairs).unwrap(), Spread { median: 2.0, low: 2.0, high: 2.0, runs: 3 });
        // Medians: 6 / 5; the pairs say otherwise.
        let mixed = [(6.0, 2.0), (10.0, 5.0), (3.0, 9.0)];
        assert_eq!(Spread::of_ratios(mixed).unwrap().median, 2.0);
    }

    #[test]
    fn a_pair_without_a_second_figure_says_nothing() {
        assert_eq!(Spread::of_ratios([(1.0, 0.0)]), None);
        assert_eq!(Spread::of_ratios([(1.0, 0.0), (6.0, 2.0)]).unwrap().runs, 1);
    }
}
