use super::*;
use proptest::prelude::*;

fn multiplier() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(ONE),
        Just(1u64),
        Just(u64::MAX),
        (0..64u32).prop_map(|bit| 1u64 << bit),
        // Rates as machines have them.
        (10_000_000..5_000_000_000u64, 10_000_000..5_000_000_000u64)
            .prop_map(|(to, from)| ((u128::from(to) << 48) / u128::from(from)) as u64),
        1..=u64::MAX,
    ]
}

/// A moment of the machine's TSC and one of L1's.
fn moments() -> impl Strategy<Value = (u64, u64)> {
    (0..1u64 << 62, any::<u64>())
}

/// L1's TSC that reads `l1` when the machine's is `machine`.
fn l1_tsc(multiplier: u64, machine: u64, l1: u64) -> L1Tsc {
    L1Tsc {
        multiplier,
        offset: i128::from(l1) - i128::from(scale(machine, multiplier)),
    }
}

/// Whether two moments are `behind` apart or less if the first comes first, `ahead` if not.
fn within(value: u64, exact: u64, behind: u128, ahead: u128) -> bool {
    u128::from(exact.wrapping_sub(value)) <= behind
        || u128::from(value.wrapping_sub(exact)) <= ahead
}

proptest! {
    #[test]
    fn offsets_alone_add_up((machine, l1) in moments(), offset: u64) {
        let for_l2 = L2Tsc { multiplier: ONE, offset };
        let tsc = l1_tsc(ONE, machine, l1);
        prop_assert_eq!(tsc.read(machine), l1);
        let composed = tsc.compose(&for_l2).unwrap();
        prop_assert_eq!(composed.multiplier, ONE);
        prop_assert_eq!(composed.offset, (tsc.offset as u64).wrapping_add(offset));
        prop_assert_eq!(machine.wrapping_add(composed.offset), for_l2.read(l1));
    }

    /// The two products without a bit lost.
    #[test]
    fn the_pair_is_the_formula(
        m01 in multiplier(), m12 in multiplier(), (machine, l1) in moments(), offset: u64
    ) {
        let tsc = l1_tsc(m01, machine, l1);
        let composed = tsc.compose(&L2Tsc { multiplier: m12, offset });
        // By halves of 32 bits, the way that needs no wide product.
        let wide = {
            let (a1, a0) = (u128::from(m01 >> 32), u128::from(m01 & 0xffff_ffff));
            let (b1, b0) = (u128::from(m12 >> 32), u128::from(m12 & 0xffff_ffff));
            ((a1 * b1) << 64) + ((a1 * b0) << 32) + ((a0 * b1) << 32) + a0 * b0
        };
        match composed {
            None => prop_assert!(wide >> 48 == 0 || wide >> 112 != 0),
            Some(pair) => {
                prop_assert_eq!(u128::from(pair.multiplier), wide >> 48);
                // Sign and magnitude: rounded down is away from zero below it.
                let magnitude = tsc.offset.unsigned_abs();
                let (high, low) = (magnitude >> 48, magnitude & ((1 << 48) - 1));
                let low = low * u128::from(m12);
                let whole = high.wrapping_mul(u128::from(m12)).wrapping_add(low >> 48);
                let is_exact = low & ((1 << 48) - 1) == 0;
                let moved = match (tsc.offset < 0, is_exact) {
                    (false, _) => whole as u64,
                    (true, true) => (whole as u64).wrapping_neg(),
                    (true, false) => (whole as u64).wrapping_add(1).wrapping_neg(),
                };
                prop_assert_eq!(pair.offset, moved.wrapping_add(offset));
            }
        }
    }

    /// Hardware's answer against what L1 would give L2, at any later moment.
    #[test]
    fn l2_sees_what_l1_would_give_it(
        m01 in multiplier(), m12 in multiplier(), (machine, l1) in moments(),
        later in 0..1u64 << 60, offset: u64
    ) {
        let tsc = l1_tsc(m01, machine, l1);
        let for_l2 = L2Tsc { multiplier: m12, offset };
        let now = machine + later;
        // L1's TSC has not gone through 2^64, nor the scaled one.
        prop_assume!((u128::from(now) * u128::from(m01)) >> 48 <= u128::from(u64::MAX));
        let at = i128::from(scale(now, m01)) + tsc.offset;
        prop_assume!(u64::try_from(at).is_ok());
        if let Some(pair) = tsc.compose(&for_l2) {
            let hardware = scale(now, pair.multiplier).wrapping_add(pair.offset);
            let exact = for_l2.read(tsc.read(now));
            let behind = 2 + u128::from(now >> 48);
            let ahead = 1 + u128::from(m12 >> 48);
            prop_assert!(within(hardware, exact, behind, ahead), "{hardware} for {exact}");
            if m01 == ONE {
                prop_assert!(within(hardware, exact, 1, 0), "{hardware} for {exact}");
            }
        }
    }

    #[test]
    fn l2_sees_moments_in_order(
        m01 in multiplier(), m12 in multiplier(), (machine, l1) in moments(), more in 0..1u64 << 60
    ) {
        if let Some(pair) = l1_tsc(m01, machine, l1).compose(&L2Tsc { multiplier: m12, offset: 0 }) {
            let wide = |tsc: u64| (u128::from(tsc) * u128::from(pair.multiplier)) >> 48;
            prop_assert!(wide(machine + more) >= wide(machine));
        }
    }
}

/// A TSC that L1 has written with a value beyond 2^63 is one, not a negative one.
#[test]
fn l1_may_be_ahead_by_more_than_half() {
    for (machine, l1) in [(5, 1 << 63), (5, u64::MAX - 1000), (1 << 40, 3)] {
        let tsc = l1_tsc(ONE, machine, l1);
        let half = L2Tsc {
            multiplier: ONE / 2,
            offset: 7,
        };
        let pair = tsc.compose(&half).unwrap();
        let hardware = scale(machine, pair.multiplier).wrapping_add(pair.offset);
        assert!(within(hardware, l1 / 2 + 7, 1, 0), "{l1:#x}: {hardware:#x}");
    }
}

#[test]
fn what_no_multiplier_gives() {
    let composed = |multiplier, for_l2| {
        let tsc = L1Tsc {
            multiplier,
            offset: 0,
        };
        let pair = tsc.compose(&L2Tsc {
            multiplier: for_l2,
            offset: 0,
        });
        pair.map(|pair| pair.multiplier)
    };
    assert_eq!(composed(ONE / 2, 1), None);
    assert_eq!(composed(ONE / 2, 2), Some(1));
    assert_eq!(composed(2 * ONE, 1 << 63), None);
    assert_eq!(composed(2 * ONE, (1 << 63) - 1), Some(u64::MAX - 1));
    // What L1 alone asks for always is one.
    assert_eq!(composed(ONE, 1), Some(1));
    assert_eq!(composed(ONE, u64::MAX), Some(u64::MAX));
}
