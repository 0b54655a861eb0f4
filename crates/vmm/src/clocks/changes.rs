//! When the TSC's rate changes: at points of the readers' own, which a seed chooses.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::counters::CounterPort;
use crate::error::{Error, Result};
use crate::random::Random;

/// From one change to the next, in points that all readers pass together. L1 takes note a
/// tenth of a second after a change: the next comes before or after that.
const POINTS: (u64, u64) = (20, 300);

/// Rates in kHz. Linux's KVM knows the TSC's rate in whole kHz.
const RATES_KHZ: (f64, f64) = (20_000.0, 1_000_000.0);

/// The changes that are to come.
pub struct Changes {
    plan: Mutex<Plan>,
    original_hz: u32,
    /// Changes in a row that L0 has not counted.
    uncounted: AtomicU32,
}

struct Plan {
    random: Random,
    /// The last of them gives the machine its original rate back.
    left: u32,
    points: u64,
}

impl Changes {
    /// `count` changes, by the row `seed` of random numbers.
    pub fn new(count: u32, seed: u64, original_hz: u32) -> Self {
        let mut random = Random::new(seed);
        let points = gap(&mut random);
        Changes {
            plan: Mutex::new(Plan {
                random,
                left: count,
                points,
            }),
            original_hz,
            uncounted: AtomicU32::new(0),
        }
    }

    /// A reader is where the rate may change, and it does if it is time. Returns whether
    /// more changes are to come.
    pub fn pass_point(&self, port: Option<CounterPort>) -> Result<bool> {
        match self.due() {
            Due::Now(hz) => {
                let counted = port.is_none_or(|port| port.change_tsc_rate(hz));
                self.note(counted).map(|()| true)
            }
            Due::Later => Ok(true),
            Due::Never => Ok(false),
        }
    }

    /// Takes note of whether L0 has counted a change.
    ///
    /// # Errors
    /// [`Error::NoRatePort`] if it has not twice in a row, which no save in between explains.
    fn note(&self, counted: bool) -> Result<()> {
        let uncounted = match counted {
            true => 0,
            false => self.uncounted.load(Ordering::Relaxed) + 1,
        };
        self.uncounted.store(uncounted, Ordering::Relaxed);
        match uncounted {
            0 | 1 => Ok(()),
            _ => Err(Error::NoRatePort),
        }
    }

    fn due(&self) -> Due {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if plan.left == 0 {
            return Due::Never;
        }
        if plan.points > 0 {
            plan.points -= 1;
            return Due::Later;
        }
        plan.left -= 1;
        plan.points = gap(&mut plan.random);
        let hz = rate(&mut plan.random);
        Due::Now(match plan.left {
            0 => self.original_hz,
            _ => hz,
        })
    }
}

/// What is due at a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    /// The TSC's rate becomes this, in Hz.
    Now(u32),
    /// Nothing yet.
    Later,
    /// Nothing any more.
    Never,
}

fn gap(random: &mut Random) -> u64 {
    POINTS.0 + random.below(POINTS.1 - POINTS.0)
}

/// Any ratio to the one before is as likely as any other.
fn rate(random: &mut Random) -> u32 {
    let share = random.below(1 << 32) as f64 / (1u64 << 32) as f64;
    let khz = RATES_KHZ.0 * (RATES_KHZ.1 / RATES_KHZ.0).powf(share);
    khz as u32 * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(changes: &Changes) -> Vec<(u64, u32)> {
        let mut found = Vec::new();
        for point in 0.. {
            match changes.due() {
                Due::Now(hz) => found.push((point, hz)),
                Due::Later => {}
                Due::Never => break,
            }
        }
        found
    }

    #[test]
    fn a_seed_gives_its_changes_and_the_last_restores_the_rate() {
        let of = |seed| all(&Changes::new(200, seed, 100_000_000));
        let changes = of(7);
        assert_eq!(changes, of(7));
        assert_ne!(changes, of(8));
        assert_eq!(changes.len(), 200);
        assert_eq!(changes[199].1, 100_000_000);
        for pair in changes.windows(2) {
            let gap = pair[1].0 - pair[0].0 - 1;
            assert!((POINTS.0..POINTS.1).contains(&gap), "{pair:?}");
        }
        let rates = || changes.iter().map(|&(_, hz)| hz);
        assert!(rates().all(|hz| (20_000_000..=1_000_000_000).contains(&hz) && hz % 1000 == 0));
        // Log-uniform: the middle of the range is its geometric mean, 141 MHz.
        let slow = rates().filter(|&hz| hz < 141_000_000).count();
        assert!((70..130).contains(&slow), "{slow}");
    }

    #[test]
    fn one_change_may_go_uncounted_and_no_two_in_a_row() {
        let changes = Changes::new(9, 1, 100_000_000);
        for counted in [true, false, true, false] {
            assert!(changes.note(counted).is_ok());
        }
        assert!(matches!(changes.note(false), Err(Error::NoRatePort)));
    }

    #[test]
    fn without_changes_there_are_no_more_to_come() {
        let changes = Changes::new(0, 1, 100_000_000);
        assert!(!changes.pass_point(None).unwrap());
    }
}
