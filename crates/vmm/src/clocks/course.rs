//! How a clock keeps time beside the reference.

use serde::Serialize;

/// A reading of a clock, and the reference time before and after it. All in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The reference before.
    pub before: u64,
    /// The clock.
    pub clock: u64,
    /// The reference after.
    pub after: u64,
}

impl Sample {
    /// The reference when the clock was read, doubled: good to [`Sample::width`].
    fn middle(self) -> i128 {
        i128::from(self.before) + i128::from(self.after)
    }

    fn width(self) -> i128 {
        i128::from(self.after) - i128::from(self.before)
    }
}

/// What two samples tell is worth nothing if they leave open more than this share of the
/// time between them, in millionths.
const RESOLUTION_PPM: i128 = 90;

/// How far back samples are compared.
const REACH: usize = 2000;

/// What came of comparing a clock with the reference.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Deviation {
    /// Samples.
    pub samples: u64,
    /// How often two were far enough from each other to tell the clock's rate.
    pub comparisons: u64,
    /// By how much the clock may have been too fast or too slow over such a time at the most,
    /// in millionths: what the samples leave open is in it.
    pub ppm: u64,
    /// By how much the clock was ahead or behind for certain from one sample to the next, in
    /// nanoseconds.
    pub jump: u64,
}

/// Compares a clock with the reference by samples in the order of time.
pub fn compare(samples: &[Sample]) -> Deviation {
    let mut found = Deviation {
        samples: samples.len() as u64,
        ..Deviation::default()
    };
    for (n, &now) in samples.iter().enumerate() {
        let earlier = &samples[n.saturating_sub(REACH)..n];
        if let Some(&before) = earlier.last() {
            found.jump = found.jump.max(certain_error(before, now));
        }
        let comparable = earlier.iter().rev().find(|&&then| {
            let apart = (now.middle() - then.middle()) / 2;
            (now.width() + then.width()) / 2 * 1_000_000 <= apart * RESOLUTION_PPM
        });
        if let Some(&then) = comparable {
            found.comparisons += 1;
            found.ppm = found.ppm.max(possible_error_ppm(then, now));
        }
    }
    found
}

/// How far the clock went more, or less, than the reference can have gone.
fn certain_error(then: Sample, now: Sample) -> u64 {
    let went = i128::from(now.clock) - i128::from(then.clock);
    let least = i128::from(now.before) - i128::from(then.after);
    let most = i128::from(now.after) - i128::from(then.before);
    (went - most).max(least - went).max(0) as u64
}

/// How far the clock may have gone more, or less, than the reference, in millionths of that.
fn possible_error_ppm(then: Sample, now: Sample) -> u64 {
    let went = i128::from(now.clock) - i128::from(then.clock);
    let reference = (now.middle() - then.middle()) / 2;
    let open = (now.width() + then.width() + 1) / 2;
    let error = (went - reference).abs() + open;
    (error * 1_000_000 / reference.max(1)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Samples at these moments of a clock that `clock` gives, each with a width.
    fn samples(moments: &[(u64, u64)], clock: impl Fn(u64) -> u64) -> Vec<Sample> {
        moments
            .iter()
            .map(|&(at, width)| Sample {
                before: at - width / 3,
                clock: clock(at),
                after: at - width / 3 + width,
            })
            .collect()
    }

    fn every_ten_milliseconds() -> Vec<(u64, u64)> {
        (1..=500).map(|n| (n * 10_000_000, 60_000)).collect()
    }

    #[test]
    fn a_right_clock_deviates_by_no_more_than_is_left_open() {
        let found = compare(&samples(&every_ten_milliseconds(), |at| at + 77));
        assert_eq!((found.samples, found.jump), (500, 0));
        assert!(found.comparisons > 400, "{found:?}");
        assert!(found.ppm <= RESOLUTION_PPM as u64, "{found:?}");
    }

    #[test]
    fn a_clock_that_is_fast_or_slow_for_a_second_is_found() {
        for ppm in [-300i64, 300] {
            let clock = |at: u64| {
                let wrong = at.clamp(2_000_000_000, 3_000_000_000) - 2_000_000_000;
                at.wrapping_add_signed(wrong as i64 * ppm / 1_000_000)
            };
            let found = compare(&samples(&every_ten_milliseconds(), clock));
            assert!((300..400).contains(&found.ppm), "{found:?}");
        }
    }

    #[test]
    fn a_jump_is_found() {
        for jump in [-500_000i64, 500_000] {
            let clock = |at: u64| match at {
                0..2_500_000_000 => at,
                _ => at.wrapping_add_signed(jump),
            };
            let found = compare(&samples(&every_ten_milliseconds(), clock));
            assert!((400_000..=500_000).contains(&found.jump), "{found:?}");
        }
    }

    #[test]
    fn wide_samples_tell_nothing() {
        let moments: Vec<_> = (1..=50).map(|n| (n * 10_000_000, 3_000_000)).collect();
        let found = compare(&samples(&moments, |at| at * 2));
        assert_eq!((found.comparisons, found.ppm), (0, 0));
        assert!(found.jump > 0);
    }

    proptest! {
        #[test]
        fn anything_can_be_compared(raw in prop::collection::vec(any::<[u64; 3]>(), 0..20)) {
            let samples: Vec<Sample> = raw
                .iter()
                .map(|&[before, clock, after]| Sample { before, clock, after })
                .collect();
            compare(&samples);
        }
    }
}
