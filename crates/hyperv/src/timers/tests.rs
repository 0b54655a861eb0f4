extern crate std;
use super::*;
use proptest::prelude::*;
use std::vec::Vec;

/// Linux: enable, auto-enable, direct, vector 0xED.
const LINUX: u64 = 0x1ED9;
const PERIODIC: u64 = LINUX | 2;
const LAZY: u64 = PERIODIC | 4;

fn at(time: u64) -> impl FnOnce() -> ReferenceTime {
    move || ReferenceTime(time)
}

fn unasked() -> ReferenceTime {
    panic!("a one-shot timer does not depend on the time")
}

fn fired(timers: &mut Timers, now: u64) -> Vec<u8> {
    timers.expire(ReferenceTime(now)).collect()
}

#[test]
fn a_one_shot_timer_fires_once_at_its_time() {
    let mut timers = Timers::default();
    timers.write_config(0, LINUX, unasked).unwrap();
    assert_eq!(timers.next_deadline(), None);
    timers.write_count(0, 1000, unasked);
    assert_eq!(timers.next_deadline(), Some(ReferenceTime(1000)));
    assert!(fired(&mut timers, 999).is_empty());
    assert_eq!(fired(&mut timers, 1000), [0xED]);
    assert!(fired(&mut timers, 5000).is_empty());
    assert_eq!(timers.config(0), LINUX & !1, "an expired timer is disabled");
    assert_eq!(timers.count(0), 1000);
    // Auto-enable: the next count starts it again, though it is in the past.
    timers.write_count(0, 1, unasked);
    assert_eq!(fired(&mut timers, 5000), [0xED]);
}

#[test]
fn count_zero_stops_and_disables() {
    let mut timers = Timers::default();
    timers.write_config(1, LINUX, unasked).unwrap();
    timers.write_count(1, 10, unasked);
    timers.write_count(1, 0, unasked);
    assert_eq!(timers.next_deadline(), None);
    assert_eq!(timers.config(1) & 1, 0);
    assert!(fired(&mut timers, u64::MAX).is_empty());
}

#[test]
fn without_auto_enable_the_configuration_starts_it() {
    let mut timers = Timers::default();
    timers.write_config(2, 0x1ED0, unasked).unwrap();
    timers.write_count(2, 10, unasked);
    assert_eq!(timers.next_deadline(), None);
    timers.write_config(2, 0x1ED1, unasked).unwrap();
    assert_eq!(fired(&mut timers, 10), [0xED]);
    // Disabling stops it.
    timers.write_config(2, 0x1ED1, unasked).unwrap();
    timers.write_config(2, 0, unasked).unwrap();
    assert!(fired(&mut timers, 10).is_empty());
}

#[test]
fn a_timer_for_messages_does_not_become_enabled() {
    let mut timers = Timers::default();
    for sint in [0, 3 << 16] {
        timers.write_config(0, sint | 0x9, unasked).unwrap();
        assert_eq!(timers.config(0), sint | 0x8);
        timers.write_count(0, 1, unasked);
        assert_eq!(timers.config(0), sint | 0x8);
        assert!(fired(&mut timers, 1).is_empty());
    }
}

#[test]
fn bad_configurations_are_refused_and_change_nothing() {
    let mut timers = Timers::default();
    timers.write_config(0, LINUX, unasked).unwrap();
    for bit in [13, 14, 15, 20, 63] {
        assert_eq!(
            timers.write_config(0, 1 << bit, unasked),
            Err(BadConfig),
            "bit {bit}"
        );
    }
    for armed in [1, 8] {
        assert_eq!(
            timers.write_config(0, 1 << 12 | 15 << 4 | armed, unasked),
            Err(BadConfig)
        );
    }
    assert_eq!(timers.config(0), LINUX);
    // Not armed, the vector does not matter yet.
    timers.write_config(0, 1 << 12, unasked).unwrap();
}

#[test]
fn a_periodic_timer_keeps_its_grid() {
    let mut timers = Timers::default();
    timers.write_config(0, PERIODIC, at(0)).unwrap();
    timers.write_count(0, 100, at(1000));
    assert!(fired(&mut timers, 1099).is_empty());
    assert_eq!(fired(&mut timers, 1105), [0xED]);
    assert_eq!(timers.next_deadline(), Some(ReferenceTime(1200)));
    assert_eq!(fired(&mut timers, 1200), [0xED]);
    assert_eq!(timers.next_deadline(), Some(ReferenceTime(1300)));
}

#[test]
fn a_late_periodic_timer_catches_up_at_half_the_period() {
    let mut timers = Timers::default();
    timers.write_config(0, PERIODIC, at(0)).unwrap();
    timers.write_count(0, 100, at(0));
    // Due at 100, noticed at 350: 200 and 300 are missed.
    assert_eq!(fired(&mut timers, 350), [0xED]);
    assert!(fired(&mut timers, 350).is_empty(), "never twice at once");
    let mut times = Vec::new();
    while times.len() < 5 {
        let next = timers.next_deadline().unwrap();
        assert_eq!(fired(&mut timers, next.0), [0xED]);
        times.push(next.0);
    }
    assert_eq!(times, [400, 450, 500, 550, 600], "600 is on the grid again");
}

#[test]
fn lazy_and_very_late_timers_skip_to_the_grid() {
    for (config, noticed, next) in [
        (LAZY, 350, 400),
        (LAZY, 400, 500),
        (PERIODIC, 100_010, 100_100),
    ] {
        let mut timers = Timers::default();
        timers.write_config(0, config, at(0)).unwrap();
        timers.write_count(0, 100, at(0));
        assert_eq!(fired(&mut timers, noticed), [0xED]);
        assert_eq!(timers.next_deadline(), Some(ReferenceTime(next)));
    }
}

#[test]
fn the_shortest_period_still_moves_on() {
    let mut timers = Timers::default();
    timers.write_config(0, PERIODIC, at(0)).unwrap();
    timers.write_count(0, 1, at(0));
    assert_eq!(fired(&mut timers, 5), [0xED]);
    assert_eq!(timers.next_deadline(), Some(ReferenceTime(6)));
}

#[test]
fn timers_of_a_vp_are_independent() {
    let mut timers = Timers::default();
    for n in 0..STIMER_COUNT {
        timers
            .write_config(n, 0x1009 | (0x20 + n as u64) << 4, unasked)
            .unwrap();
        timers.write_count(n, 100 - n as u64, unasked);
    }
    assert_eq!(timers.next_deadline(), Some(ReferenceTime(97)));
    assert_eq!(fired(&mut timers, 98), [0x22, 0x23]);
    assert_eq!(fired(&mut timers, 100), [0x20, 0x21]);
}

proptest! {
    // Whatever is written, nothing fires before its time, `expire` leaves
    // nothing behind that has expired, and the end of time is no trouble.
    #[test]
    fn never_early_and_always_forward(
        periodic: bool, lazy: bool, count in prop_oneof![1..4u64, any::<u64>()], start: u64,
        steps in proptest::collection::vec(any::<u64>(), 1..20)
    ) {
        let mut timers = Timers::default();
        let config = LINUX | u64::from(periodic) << 1 | u64::from(lazy) << 2;
        timers.write_config(3, config, at(start)).unwrap();
        timers.write_count(3, count, at(start));
        let mut now = start;
        for step in steps {
            now = now.saturating_add(step >> (step % 64));
            let before = timers.next_deadline();
            let expired = timers.expire(ReferenceTime(now)).count();
            prop_assert_eq!(expired == 1, before.is_some_and(|time| time.0 <= now));
            if let Some(next) = timers.next_deadline() {
                prop_assert!(next.0 > now || next.0 == u64::MAX);
            }
        }
    }
}
