//! From time stamps and counter readings to figures per operation.

use platform::counters::{Counter, NO_COUNTER};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::counters::Reading;

/// Ticks per repetition, the loop's own cost taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Ticks {
    /// All of the time divided by the repetitions: the figure.
    pub ticks: i64,
    /// The cheapest repetition.
    pub min: i64,
    /// The one in the middle: what interrupts of L1 hardly touch.
    pub median: i64,
    /// The dearest repetition.
    pub max: i64,
}

impl Ticks {
    /// Of the samples of one run, with `empty` ticks for the loop. `None` without samples.
    pub fn of(samples: &[u64], empty: u64) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let net = |ticks: u64| ticks as i64 - empty as i64;
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let total: u128 = samples.iter().map(|&ticks| u128::from(ticks)).sum();
        let count = samples.len() as u128;
        Some(Ticks {
            ticks: net(((total + count / 2) / count) as u64),
            min: net(first),
            median: net(median(&sorted)),
            max: net(last),
        })
    }
}

/// The middle of a sorted, non-empty list.
fn median(sorted: &[u64]) -> u64 {
    sorted[sorted.len() / 2]
}

/// What the loop itself costs, from a run of the empty payload. The middle of
/// its samples: an interrupt in such a short run would outweigh all of it.
pub fn loop_cost(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    if sorted.is_empty() {
        0
    } else {
        median(&sorted)
    }
}

/// L0's counters per repetition, the cost of the markers taken out.
#[derive(Clone, PartialEq, Debug)]
pub struct PerOperation([f64; Counter::ALL.len()]);

impl PerOperation {
    /// From the readings around a run and around an empty run, which has the same
    /// markers and nothing else.
    pub fn of(run: (Reading, Reading), empty: (Reading, Reading), repetitions: u64) -> Self {
        let counted = |readings: &(Reading, Reading), n: usize| {
            readings.1[n].wrapping_sub(readings.0[n]) as i64
        };
        PerOperation(core::array::from_fn(|n| {
            if run.1[n] == NO_COUNTER {
                return f64::NAN;
            }
            let net = counted(&run, n) - counted(&empty, n);
            // Two decimals: a stray interrupt shows, rounding noise does not.
            (net as f64 * 100.0 / repetitions as f64).round() / 100.0
        }))
    }

    /// One counter; no number where L0 does not keep it.
    pub fn get(&self, counter: Counter) -> f64 {
        self.0[counter as usize]
    }

    /// All counters by name.
    pub fn by_name(&self) -> Map<String, Value> {
        Counter::ALL
            .iter()
            .filter(|c| self.get(**c).is_finite())
            .map(|&c| (c.name().to_owned(), self.get(c).into()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_late_interrupt_moves_the_mean_and_not_the_median() {
        let mut samples = vec![107; 99];
        samples.push(10_007);
        let figures = Ticks::of(&samples, 7).unwrap();
        assert_eq!(
            figures,
            Ticks {
                ticks: 199,
                min: 100,
                median: 100,
                max: 10_000
            }
        );
    }

    #[test]
    fn nothing_of_nothing() {
        assert_eq!(Ticks::of(&[], 7), None);
    }

    #[test]
    fn markers_are_taken_out_of_the_counters() {
        let mut run = ([0; Counter::ALL.len()], [0; Counter::ALL.len()]);
        let mut empty = run;
        // 500 repetitions of two exits, 40 for the markers; the counter wraps.
        run.0[Counter::Exits as usize] = u64::MAX - 9;
        run.1[Counter::Exits as usize] = 1030;
        empty.1[Counter::Exits as usize] = 40;
        let figures = PerOperation::of(run, empty, 500);
        assert_eq!(figures.get(Counter::Exits), 2.0);
        assert_eq!(figures.get(Counter::Vmreads), 0.0);
        assert_eq!(figures.by_name()["exits"], 2.0);
        assert_eq!(figures.by_name().len(), Counter::ALL.len());

        run.0[Counter::PageReads as usize] = NO_COUNTER;
        run.1[Counter::PageReads as usize] = NO_COUNTER;
        let figures = PerOperation::of(run, empty, 500).by_name();
        assert_eq!(figures.len(), Counter::ALL.len() - 1);
        assert!(!figures.contains_key("l1-page-reads"));
    }

    proptest! {
        #[test]
        fn figures_are_in_order(
            samples in proptest::collection::vec(0u64..1 << 40, 1..200),
            empty in 0u64..100,
        ) {
            let figures = Ticks::of(&samples, empty).unwrap();
            prop_assert!(figures.min <= figures.median && figures.median <= figures.max);
            prop_assert!(figures.min <= figures.ticks && figures.ticks <= figures.max);
            prop_assert!(samples.contains(&((figures.median + empty as i64) as u64)));
        }
    }
}
