//! A TSC that hardware scales (SDM vol. 3, 25.6.5): the multiplier that hides another rate.

use super::saturated;

/// Bits of a multiplier behind the point.
const FRACTION_BITS: u32 = 48;

/// Multipliers from here on are fine enough.
const LEAST: u128 = 1 << 32;

/// A counter that is the machine's TSC times a multiplier, in every guest's RDTSC, RDTSCP and
/// RDMSR, and without an exit.
///
/// # How right it is
///
/// The multiplier is the ratio of the rates, rounded to the nearest 2^-48: the counter goes wrong
/// by less than one tick in 2^49 of the machine's (52 hours at 3 GHz), which is one in 2^33 of its
/// own at worst, as far as the ratio is at least 2^-16. What else L1 has of clocks goes by the TSC
/// that it reads, and so agrees with it whatever the multiplier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scaling {
    multiplier: u64,
}

impl Scaling {
    /// A counter of `guest_hz` on a machine of `machine_hz`; `None` where no multiplier is near
    /// enough: below a ratio of 2^-16, or from 2^16 on.
    pub const fn between(guest_hz: u64, machine_hz: u64) -> Option<Self> {
        let twice = ((guest_hz as u128) << (FRACTION_BITS + 1)) / machine_hz as u128;
        let nearest = twice.div_ceil(2);
        if nearest < LEAST || nearest > u64::MAX as u128 {
            return None;
        }
        Some(Self {
            multiplier: nearest as u64,
        })
    }

    /// What hardware multiplies by, with 48 fraction bits.
    pub const fn multiplier(&self) -> u64 {
        self.multiplier
    }

    /// The counter when the machine's TSC is `machine`, as hardware has it.
    #[inline]
    pub const fn counter(&self, machine: u64) -> u64 {
        self.whole(machine) as u64
    }

    const fn whole(&self, machine: u64) -> u128 {
        (machine as u128 * self.multiplier as u128) >> FRACTION_BITS
    }

    /// Ticks of the machine's TSC from `machine` on until the counter has gone on by `left`:
    /// never too few, `u64::MAX` if it is that or more.
    pub const fn machine_ticks(&self, machine: u64, left: u64) -> u64 {
        let wanted = self.whole(machine) + left as u128;
        if wanted >> (u128::BITS - FRACTION_BITS) != 0 {
            return u64::MAX;
        }
        let reached = (wanted << FRACTION_BITS).div_ceil(self.multiplier as u128);
        saturated(reached.saturating_sub(machine as u128))
    }
}
