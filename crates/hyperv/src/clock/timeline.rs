//! The line that maps TSC values to reference time, and back.

use super::{REFERENCE_HZ, ReferenceTime, Tsc};
use core::fmt;

/// The TSC is so slow that the scale of the reference TSC page, a fraction of
/// 2^64, cannot express it: its frequency is 10 MHz or less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooSlow {
    /// The TSC's frequency in Hz.
    pub tsc_hz: u64,
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a TSC of {} Hz is too slow for the reference clock, which needs more than {} Hz",
            self.tsc_hz, REFERENCE_HZ
        )
    }
}

impl core::error::Error for TooSlow {}

/// Reference time = high 64 bits of (TSC * scale) + offset (TLFS, "Partition
/// Reference TSC Mechanism").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeline {
    pub(super) scale: u64,
    pub(super) offset: i64,
    /// 2^128 / scale, rounded up: ticks per unit with 64 fractional bits.
    /// With it, finding the TSC of a deadline takes no division.
    pub(super) inverse: u128,
}

impl Timeline {
    /// The line of a TSC of `tsc_hz` that has the value `reference` at `tsc`.
    ///
    /// # Errors
    ///
    /// [`TooSlow`] up to 10 MHz.
    pub const fn through(tsc: Tsc, reference: ReferenceTime, tsc_hz: u64) -> Result<Self, TooSlow> {
        if tsc_hz <= REFERENCE_HZ {
            return Err(TooSlow { tsc_hz });
        }
        // The quotient is below 2^64, and at least REFERENCE_HZ.
        let scale = (((REFERENCE_HZ as u128) << 64) / tsc_hz as u128) as u64;
        // ceil(2^128 / scale), written so that it does not overflow.
        let inverse = u128::MAX / scale as u128 + 1;
        let offset = reference.0.wrapping_sub(high(tsc.0, scale)) as i64;
        Ok(Self {
            scale,
            offset,
            inverse,
        })
    }

    /// Units of 100 ns per tick, as a fraction of 2^64: TscScale of the page.
    pub const fn scale(&self) -> u64 {
        self.scale
    }

    /// TscOffset of the page, in units of 100 ns.
    pub const fn offset(&self) -> i64 {
        self.offset
    }

    /// The reference time at `tsc`.
    #[inline]
    pub const fn reference(&self, tsc: Tsc) -> ReferenceTime {
        ReferenceTime(high(tsc.0, self.scale).wrapping_add(self.offset as u64))
    }

    /// A TSC value at which the reference time has reached `time`: the first
    /// one or the one after it, never one before it. `None` if the TSC wraps
    /// before.
    #[inline]
    pub const fn tsc_at(&self, time: ReferenceTime) -> Option<Tsc> {
        // Units since TSC 0. Neither term reaches 2^64 in magnitude.
        let units = time.0 as i128 - self.offset as i128;
        if units <= 0 {
            return Some(Tsc(0));
        }
        if units > u64::MAX as i128 {
            return None;
        }
        // The first TSC is ceil(units * 2^64 / scale). `inverse` exceeds
        // 2^128 / scale by less than 1, so units * inverse / 2^64 exceeds the
        // exact value by less than one tick and never falls short of it.
        let units = units as u128;
        let whole = units * (self.inverse >> 64);
        let part = units * (self.inverse & u64::MAX as u128);
        let ticks = whole + (part >> 64) + (part as u64 != 0) as u128;
        if ticks > u64::MAX as u128 {
            None
        } else {
            Some(Tsc(ticks as u64))
        }
    }
}

/// The high 64 bits of the product.
#[inline]
const fn high(a: u64, b: u64) -> u64 {
    ((a as u128 * b as u128) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// a * b as four 32-bit digits, most significant first, by long
    /// multiplication: a reference that shares no arithmetic with the code.
    fn long_multiplication(a: u64, b: u64) -> [u32; 4] {
        let (a, b) = ([a as u32, (a >> 32) as u32], [b as u32, (b >> 32) as u32]);
        let mut digits = [0u64; 4];
        for (i, x) in a.iter().enumerate() {
            let mut carry = 0;
            for (j, y) in b.iter().enumerate() {
                let sum = u64::from(*x) * u64::from(*y) + digits[i + j] + carry;
                digits[i + j] = sum & 0xFFFF_FFFF;
                carry = sum >> 32;
            }
            digits[i + 2] += carry;
        }
        [
            digits[3] as u32,
            digits[2] as u32,
            digits[1] as u32,
            digits[0] as u32,
        ]
    }

    fn hz() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(REFERENCE_HZ + 1),
            Just(100_000_000u64),
            Just(1 << 32),
            Just(u64::MAX),
            REFERENCE_HZ + 1..20_000_000,
            100_000_000..10_000_000_000u64,
            REFERENCE_HZ + 1..=u64::MAX,
        ]
    }

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..1000u64,
            any::<u64>(),
            any::<u32>().prop_map(|n| u64::MAX - u64::from(n)),
            (0..64u32).prop_map(|n| 1u64 << n)
        ]
    }

    proptest! {
        #[test]
        fn the_formula_is_the_pages(tsc in value(), at in value(), reference in value(), hz in hz()) {
            let line = Timeline::through(Tsc(at), ReferenceTime(reference), hz).unwrap();
            let [a, b, ..] = long_multiplication(tsc, line.scale());
            let high = u64::from(a) << 32 | u64::from(b);
            prop_assert_eq!(line.reference(Tsc(tsc)).0, high.wrapping_add_signed(line.offset()));
        }

        #[test]
        fn the_line_passes_through_its_point(tsc in value(), reference in value(), hz in hz()) {
            let line = Timeline::through(Tsc(tsc), ReferenceTime(reference), hz).unwrap();
            prop_assert_eq!(line.reference(Tsc(tsc)).0, reference);
        }

        #[test]
        fn the_scale_is_the_floor(hz in hz()) {
            let line = Timeline::through(Tsc(0), ReferenceTime(0), hz).unwrap();
            let wanted = u128::from(REFERENCE_HZ) << 64;
            let (scale, hz) = (u128::from(line.scale()), u128::from(hz));
            prop_assert!(scale * hz <= wanted && wanted < (scale + 1) * hz);
        }

        #[test]
        fn time_never_goes_backwards(tsc in 0..u64::MAX, step in 0..u64::MAX, hz in hz()) {
            let line = Timeline::through(Tsc(0), ReferenceTime(0), hz).unwrap();
            let later = tsc.saturating_add(step);
            prop_assert!(line.reference(Tsc(tsc)) <= line.reference(Tsc(later)));
        }

        // A deadline's TSC is not early, and at most one tick late.
        #[test]
        fn deadlines_are_never_early(
            time in value(), created in 0..1u64 << 62, began in 0..1u64 << 62, hz in hz()
        ) {
            let line = Timeline::through(Tsc(created), ReferenceTime(began), hz).unwrap();
            let reached = |tsc: u64| {
                i128::from(high(tsc, line.scale())) + i128::from(line.offset()) >= i128::from(time)
            };
            match line.tsc_at(ReferenceTime(time)) {
                Some(Tsc(tsc)) => {
                    prop_assert!(reached(tsc), "early");
                    prop_assert!(tsc < 2 || !reached(tsc - 2), "more than a tick late");
                }
                None => prop_assert!(!reached(u64::MAX - 1), "reachable"),
            }
        }
    }

    #[test]
    fn a_year_at_common_rates_is_exact_to_a_unit() {
        for hz in [100_000_000u64, 2_100_000_000, 3_579_545_000] {
            let line = Timeline::through(Tsc(0), ReferenceTime(0), hz).unwrap();
            let year = 365 * 86400;
            let time = line.reference(Tsc(year * hz)).0;
            let exact = year * REFERENCE_HZ;
            // The scale is rounded down: at most hz * 2^-64 of a unit a tick.
            assert!(exact - time <= 1, "{hz}: {time} for {exact}");
        }
    }

    #[test]
    fn slow_clocks_are_refused() {
        for hz in [0, 1, REFERENCE_HZ] {
            let line = Timeline::through(Tsc(0), ReferenceTime(0), hz);
            assert_eq!(line, Err(TooSlow { tsc_hz: hz }));
        }
    }

    #[test]
    fn a_deadline_in_the_past_is_tsc_zero_or_past() {
        let line = Timeline::through(Tsc(1 << 40), ReferenceTime(0), 1_000_000_000).unwrap();
        assert!(line.tsc_at(ReferenceTime(0)).unwrap() <= Tsc((1 << 40) + 100));
        let late = Timeline::through(Tsc(0), ReferenceTime(500), 1_000_000_000).unwrap();
        assert_eq!(late.tsc_at(ReferenceTime(499)), Some(Tsc(0)));
        assert_eq!(line.tsc_at(ReferenceTime(u64::MAX)), None);
    }
}
