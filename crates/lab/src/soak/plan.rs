//! What a seed stands for: when L1 is saved, and beside which TSC it goes on.

use crate::random::Random;
use crate::scenario::TscScaling;

/// Instructions from power-on until the first save: L1 and its L2 Linux are up, and the step `clocks` compares.
const FIRST: (u64, u64) = (2_650_000_000, 2_800_000_000);
/// Instructions from one save to the next.
const LATER: (u64, u64) = (5_000_000, 60_000_000);
/// Rates of the machines' TSCs in kHz, which is how Linux's KVM counts them. The disk takes its time by the clock: the
/// higher the rate, the more instructions are spent on waiting for it.
const RATES_KHZ: (f64, f64) = (20_000.0, 200_000.0);

/// What L1 does on one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Leg {
    /// The rate of the machine's TSC.
    pub tsc_hz: u32,
    /// Whether hardware hides its difference to the one before.
    pub scaling: TscScaling,
    /// After how many instructions L1 is saved; on the last machine it comes to its end.
    pub save_at: Option<u64>,
}

impl Leg {
    /// What is told of it while it goes on.
    pub fn sentence(&self) -> String {
        let mhz = f64::from(self.tsc_hz) / 1e6;
        let how = match self.scaling {
            TscScaling::Auto => "hidden by hardware where it can",
            TscScaling::Off => "L1 takes note",
        };
        format!("a TSC of {mhz:.3} MHz, {how}")
    }
}

/// The machines, the one that boots first.
pub fn legs(seed: u64, moves: u32) -> Vec<Leg> {
    let mut random = Random::new(seed);
    let leg = |n| Leg {
        tsc_hz: match n {
            0 => 100_000_000,
            _ => random.ratio(RATES_KHZ) as u32 * 1000,
        },
        scaling: match n > 0 && random.coin() {
            true => TscScaling::Auto,
            false => TscScaling::Off,
        },
        save_at: (n < moves).then(|| random.between(if n == 0 { FIRST } else { LATER })),
    };
    (0..=moves).map(leg).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_stands_for_its_machines() {
        let drawn = legs(7, 50);
        assert_eq!(drawn, legs(7, 50));
        assert_ne!(drawn, legs(8, 50));
        assert_eq!(drawn.len(), 51);
        let (last, saved) = drawn.split_last().unwrap();
        assert_eq!(last.save_at, None);
        assert!(saved.iter().all(|leg| leg.save_at.is_some()));
        assert!(drawn.iter().all(|leg| leg.tsc_hz % 1000 == 0));
        let hidden = drawn.iter().filter(|leg| leg.scaling == TscScaling::Auto);
        assert!((10..40).contains(&hidden.count()), "both ways are taken");
    }
}
