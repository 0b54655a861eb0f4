use super::*;
use crate::clock::REFERENCE_HZ;
use proptest::prelude::*;

extern crate std;
use std::vec::Vec;

fn hz() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(REFERENCE_HZ + 1),
        Just(100_000_000u64),
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

fn emulated(offset: u64, guest_hz: u64, at: u64, machine_hz: u64) -> TscSource {
    let mut source = TscSource::new(offset, guest_hz).unwrap();
    source.emulate(at, machine_hz).unwrap();
    source
}

proptest! {
    /// By definition of the rounded-down quotient, without dividing.
    #[test]
    fn the_counter_is_the_exact_quotient(
        at in value(), ticks in value(), guest in hz(), machine in hz()
    ) {
        let now = at.saturating_add(ticks);
        let ticks = u128::from(now - at);
        let source = emulated(0, guest, at, machine);
        let gone = scaled(now - at, guest, machine);
        prop_assert_eq!(source.counter(now), at.wrapping_add(gone as u64));
        let wanted = ticks * u128::from(guest);
        prop_assert!(gone * u128::from(machine) <= wanted);
        prop_assert!(wanted - gone * u128::from(machine) < u128::from(machine));
    }

    /// A deadline's tick is the first at which the counter is there.
    #[test]
    fn deadlines_are_exact(
        at in 0..1u64 << 60, gone in 0..1u64 << 60, left in 1..1u64 << 50,
        guest in 20_000_000..10_000_000_000u64, machine in 20_000_000..10_000_000_000u64
    ) {
        let emulation = emulated(0, guest, at, machine).conversion().unwrap();
        let now = at + gone;
        let ticks = emulation.machine_ticks(now, left);
        let gone = |later: u64| emulation.counter(later).wrapping_sub(emulation.counter(now));
        prop_assert!(gone(now + ticks) >= left, "early");
        prop_assert!(gone(now + ticks - 1) < left, "late");
    }

    #[test]
    fn deadlines_at_extremes_saturate(
        at in value(), now in value(), left in value(), guest in hz(), machine in hz()
    ) {
        let emulation = emulated(0, guest, at, machine).conversion().unwrap();
        let now = now.max(at);
        let ticks = emulation.machine_ticks(now, left);
        let reached = (u128::from(now - at) + u128::from(ticks))
            .checked_mul(u128::from(guest))
            .map(|product| product / u128::from(machine));
        let wanted = scaled(now - at, guest, machine) + u128::from(left);
        prop_assert!(ticks == u64::MAX || reached.is_none_or(|reached| reached >= wanted));
    }

    /// Over any sequence of changes and acknowledgements neither the TSC nor the
    /// reference time by it steps back or ahead, and the reference time is that of
    /// the machine's rates, added up, within what rounding can lose.
    #[test]
    fn clocks_go_on_over_changes(
        first in 20_000_000..5_000_000_000u64,
        steps in prop::collection::vec(
            (0..1u64 << 40, 20_000_000..5_000_000_000u64, any::<bool>(), 0..1u64 << 40), 1..20
        )
    ) {
        let mut machine = 1u64 << 33;
        let mut source = TscSource::new(machine.wrapping_neg(), first).unwrap();
        let mut line = Timeline::through(Tsc(0), ReferenceTime(0), first).unwrap();
        // The exact reference time, in 2^-32 of its unit.
        let mut exact = 0u128;
        let mut rate = first;
        let mut went = |ticks: u64, rate: u64| {
            exact += ((u128::from(ticks) * u128::from(REFERENCE_HZ)) << 32) / u128::from(rate);
            exact >> 32
        };
        let mut changes = 0u128;
        for (run, hz, acknowledged, more) in steps {
            machine += run;
            let _ = went(run, rate);
            let before = (source.tsc(machine), line.reference(source.tsc(machine)));
            let guest_hz = source.guest_hz();
            source.emulate(machine, hz).unwrap();
            rate = hz;
            let after = (source.tsc(machine), line.reference(source.tsc(machine)));
            prop_assert_eq!(before, after);
            prop_assert_eq!(source.guest_hz(), guest_hz);
            machine += more;
            let time = went(more, rate);
            if acknowledged {
                let tsc = source.tsc(machine);
                let reference = line.reference(tsc);
                source.follow_machine(machine);
                prop_assert_eq!((source.tsc(machine), source.guest_hz()), (tsc, hz));
                prop_assert!(guest_hz == hz || source.since() == tsc);
                line = Timeline::through(tsc, reference, hz).unwrap();
                prop_assert_eq!(line.reference(tsc), reference);
            }
            changes += 1;
            let told = u128::from(line.reference(source.tsc(machine)).0);
            // A tick of the slowest TSC is half a unit, the line loses less than a unit
            // with each point it goes through and by each tick less than 2^-64.
            prop_assert!(told.abs_diff(time) <= 2 * changes + 2, "{told} for {time}");
        }
    }
}

fn scaled_by_hardware(guest_hz: u64, at: u64, machine_hz: u64) -> (TscSource, u64) {
    let mut source = TscSource::new(at.wrapping_neg(), guest_hz).unwrap();
    assert_eq!(source.scale(at, machine_hz), Ok(true));
    match source.conversion() {
        Some(Conversion::Scaled(scaling)) => (source, scaling.multiplier()),
        None => (source, 1 << 48),
        other => panic!("{other:?}"),
    }
}

/// Rates of machines.
fn usual() -> impl Strategy<Value = u64> {
    prop_oneof![
        10_000_001..100_000_000u64,
        100_000_000..6_000_000_000u64,
        Just(100_000_000u64)
    ]
}

proptest! {
    /// The counter is what SDM says hardware makes of the multiplier, and that is the ratio to
    /// half of its last bit.
    #[test]
    fn the_multiplier_is_the_nearest(guest in usual(), machine in usual(), now: u64) {
        let (source, multiplier) = scaled_by_hardware(guest, 0, machine);
        let wide = u128::from(now) * u128::from(multiplier);
        prop_assert_eq!(source.counter(now), (wide >> 48) as u64);
        let exact = u128::from(guest) << 48;
        let told = u128::from(multiplier) * u128::from(machine);
        prop_assert!(2 * exact.abs_diff(told) <= u128::from(machine));
    }

    /// Half a tick in 2^48 of the machine's, and the rounding of two counters.
    #[test]
    fn the_rate_is_right_to_the_bound(
        guest in usual(), machine in usual(), at in 0..1u64 << 56, ticks in 0..1u64 << 54
    ) {
        let (source, _) = scaled_by_hardware(guest, at, machine);
        prop_assert_eq!(source.tsc(at), Tsc(0));
        let gone = u128::from(source.tsc(at + ticks).0);
        let exact = u128::from(ticks) * u128::from(guest) / u128::from(machine);
        let bound = u128::from(ticks >> 49) + 2;
        prop_assert!(gone.abs_diff(exact) <= bound, "{gone} for {exact}");
    }

    /// A deadline's tick is the first at which the counter is there.
    #[test]
    fn deadlines_of_a_scaled_counter_are_exact(
        at in 0..1u64 << 60, left in 1..1u64 << 50, guest in usual(), machine in usual()
    ) {
        let (source, _) = scaled_by_hardware(guest, 0, machine);
        if let Some(conversion) = source.conversion() {
            let ticks = conversion.machine_ticks(at, left);
            let gone = |later: u64| source.counter(later).wrapping_sub(source.counter(at));
            prop_assert!(gone(at + ticks) >= left, "early");
            prop_assert!(gone(at + ticks - 1) < left, "late");
        }
    }

    #[test]
    fn far_deadlines_of_a_scaled_counter_saturate(
        now in value(), left in value(), guest in usual(), machine in usual()
    ) {
        let (source, multiplier) = scaled_by_hardware(guest, 0, machine);
        if let Some(conversion) = source.conversion() {
            let ticks = conversion.machine_ticks(now, left);
            let whole = |tsc: u128| (tsc * u128::from(multiplier)) >> 48;
            let later = u128::from(now) + u128::from(ticks);
            let is_there = whole(later) - whole(now.into()) >= u128::from(left);
            prop_assert!(ticks == u64::MAX || is_there, "early");
        }
    }

    /// Over any sequence of changes, hidden and emulated, nothing steps and no rate changes; the
    /// clock's line stays what it was.
    #[test]
    fn hidden_changes_are_hidden(
        first in usual(),
        steps in prop::collection::vec((0..1u64 << 40, usual(), prop::bool::weighted(0.8)), 1..24)
    ) {
        let mut machine = 1u64 << 33;
        let mut source = TscSource::new(machine.wrapping_neg(), first).unwrap();
        // In 2^-32 of a tick.
        let mut exact = 0u128;
        let mut rate = first;
        let mut bound = 0;
        for (n, (ticks, hz, scales)) in (1u128..).zip(steps) {
            machine += ticks;
            exact += ((u128::from(ticks) * u128::from(first)) << 32) / u128::from(rate);
            bound += u128::from(ticks >> 49) + 2;
            let before = source.tsc(machine);
            if scales {
                prop_assert_eq!(source.scale(machine, hz), Ok(true));
            } else {
                source.emulate(machine, hz).unwrap();
            }
            rate = hz;
            prop_assert_eq!(source.tsc(machine), before);
            prop_assert_eq!(source.guest_hz(), first);
            prop_assert!(u128::from(before.0).abs_diff(exact >> 32) <= bound + n, "{before:?}");
            if scales && hz == first {
                prop_assert_eq!(source.conversion(), None);
            }
        }
        let before = source.tsc(machine);
        source.follow_machine(machine);
        prop_assert_eq!((source.tsc(machine), source.guest_hz()), (before, rate));
    }
}

#[test]
fn what_no_multiplier_hides() {
    for (guest, machine, can) in [
        (100_000_000, 100_000_000 << 15, true),
        (100_000_000, 100_000_000 << 16, true),
        (100_000_000, 100_000_001 << 16, false),
        (20_000_000 << 15, 20_000_000, true),
        (20_000_000 << 16, 20_000_000, false),
        (u64::MAX, REFERENCE_HZ + 1, false),
        (REFERENCE_HZ + 1, u64::MAX, false),
        (u64::MAX, u64::MAX, true),
    ] {
        let mut source = TscSource::new(7, guest).unwrap();
        let before = source;
        assert_eq!(source.scale(1 << 40, machine), Ok(can), "{guest} {machine}");
        if !can {
            assert_eq!(source, before);
            source.emulate(1 << 40, machine).unwrap();
            assert!(matches!(source.conversion(), Some(Conversion::Emulated(_))));
        }
    }
}

#[test]
fn moments_in_order_give_values_in_order() {
    let source = emulated(5, 3_000_000_000, 1 << 40, 2_999_999_999);
    let values: Vec<u64> = (0..10_000)
        .map(|n| source.tsc((1 << 40) + n * 7).0)
        .collect();
    assert!(values.is_sorted());
    assert_eq!(values[0], (1 << 40) + 5);
}

#[test]
fn a_processor_that_lags_sees_the_beginning() {
    let source = emulated(0, 100_000_000, 5000, 200_000_000);
    assert_eq!(source.counter(4999), 5000);
    assert_eq!(source.counter(5002), 5001);
}

#[test]
fn slow_machines_are_refused_and_change_nothing() {
    assert_eq!(
        TscSource::new(0, REFERENCE_HZ),
        Err(TooSlow {
            tsc_hz: REFERENCE_HZ
        })
    );
    let mut source = TscSource::new(7, 100_000_000).unwrap();
    let before = source;
    assert!(source.emulate(0, REFERENCE_HZ).is_err());
    assert!(source.scale(0, REFERENCE_HZ).is_err());
    assert_eq!(source, before);
}
