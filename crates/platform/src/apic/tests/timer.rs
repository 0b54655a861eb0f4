//! The timer, seen through the registers.

use super::*;

#[test]
fn one_shot_timer() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, LVT_TIMER, 0x40);
    let _ = write(&mut apic, DIVIDE, 0b0011); // by 16
    assert_eq!(apic.write_page(INITIAL, 4, 100, 1000), Effect::Timer);
    assert_eq!(apic.next_deadline_tsc(), Some(1000 + 100 * 16 * 10));
    assert_eq!(apic.read_page(CURRENT, 4, 1000 + 160 * 30), 70);
    assert!(!apic.expire(16_999));
    assert!(apic.expire(17_000));
    assert_eq!(apic.pending(), Some(0x40));
    assert_eq!(apic.next_deadline_tsc(), None);
    assert_eq!(apic.read_page(CURRENT, 4, 20_000), 0);
    assert!(!apic.expire(u64::MAX));
}

#[test]
fn periodic_timer_keeps_its_phase() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, LVT_TIMER, 0x2_0040);
    let _ = write(&mut apic, DIVIDE, 0b1011); // by 1
    let _ = apic.write_page(INITIAL, 4, 100, 500);
    assert_eq!(apic.next_deadline_tsc(), Some(1500));
    assert!(apic.expire(1507));
    assert_eq!(apic.next_deadline_tsc(), Some(2500));
    assert!(apic.expire(10_499), "periods missed are one interrupt");
    assert_eq!(apic.next_deadline_tsc(), Some(10_500));
    assert_eq!(apic.read_page(CURRENT, 4, 10_510), 99);
    let _ = apic.write_page(LVT_TIMER, 4, 0x3_0040, 10_450);
    assert_eq!(apic.next_deadline_tsc(), None, "masked");
    let _ = apic.write_page(LVT_TIMER, 4, 0x2_0040, 20_450);
    assert_eq!(apic.next_deadline_tsc(), Some(20_500));
    let _ = apic.write_page(LVT_TIMER, 4, 0x40, 20_450);
    assert_eq!(apic.next_deadline_tsc(), Some(20_500), "now one-shot");
    let _ = apic.write_page(INITIAL, 4, 0, 20_460);
    assert_eq!(apic.next_deadline_tsc(), None, "stopped");
}

#[test]
fn divider_change_goes_on_from_the_count() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, LVT_TIMER, 0x40);
    let _ = write(&mut apic, DIVIDE, 0b1011);
    let _ = apic.write_page(INITIAL, 4, 1000, 100_000);
    let _ = apic.write_page(DIVIDE, 4, 0b0000, 105_000);
    assert_eq!(apic.read_page(CURRENT, 4, 105_000), 500);
    assert_eq!(apic.next_deadline_tsc(), Some(105_000 + 500 * 2 * 10));
}

#[test]
fn tsc_deadline_timer() {
    let mut apic = x2apic(0);
    assert_eq!(apic.set_tsc_deadline(50), Effect::Timer);
    assert_eq!(apic.tsc_deadline(), 0, "ignored in other modes");
    assert_eq!(apic.write_msr(0x832, 0x4_00EC, 0), Ok(Effect::Timer));
    let _ = apic.set_tsc_deadline(50);
    assert_eq!(
        (apic.tsc_deadline(), apic.next_deadline_tsc()),
        (50, Some(50))
    );
    assert_eq!(apic.write_msr(0x838, 7, 0), Ok(Effect::Timer));
    assert_eq!(apic.next_deadline_tsc(), Some(50), "the count is ignored");
    assert!(!apic.expire(49));
    assert!(apic.expire(60));
    assert_eq!(apic.acknowledge(), Some(0xEC));
    assert_eq!(apic.tsc_deadline(), 0);
    let _ = apic.set_tsc_deadline(100);
    let _ = apic.set_tsc_deadline(0);
    assert_eq!(apic.next_deadline_tsc(), None, "disarmed");
    let _ = apic.set_tsc_deadline(100);
    assert_eq!(apic.write_msr(0x832, 0xEC, 0), Ok(Effect::Timer));
    assert_eq!(apic.next_deadline_tsc(), None, "leaving the mode disarms");
}

#[test]
fn a_count_that_has_ended_stays_so() {
    let mut apic = enabled(0);
    let _ = write(&mut apic, LVT_TIMER, 0x40);
    let _ = write(&mut apic, DIVIDE, 0b1011);
    let _ = apic.write_page(INITIAL, 4, 100, 1000);
    assert!(apic.expire(2000));
    assert_eq!(apic.acknowledge(), Some(0x40));
    let stays = |apic: &mut LocalApic, now| {
        assert_eq!(apic.read_page(CURRENT, 4, now), 0);
        assert_eq!(apic.next_deadline_tsc(), None);
    };
    // By the old start and the new rate it would be under way.
    let rate = apic.clock();
    apic.set_clock(
        TimerClock::new(40 * rate.apic_hz(), rate.apic_hz()).unwrap(),
        2100,
    );
    stays(&mut apic, 2200);
    apic.set_clock(rate, 2300);
    stays(&mut apic, 2300);
    let _ = apic.write_page(DIVIDE, 4, 0b0000, 2400);
    stays(&mut apic, 2400);
    let _ = apic.write_page(LVT_TIMER, 4, 0x2_0040, 2500);
    stays(&mut apic, 2500);
    assert!(!apic.expire(u64::MAX));
}

#[test]
fn what_has_ended_when_the_time_changes_is_not_lost() {
    let periodic = || {
        let mut apic = enabled(0);
        let _ = write(&mut apic, LVT_TIMER, 0x2_0040);
        let _ = write(&mut apic, DIVIDE, 0b1011);
        let _ = apic.write_page(INITIAL, 4, 100, 1000);
        apic
    };
    let mut apic = periodic();
    let rate = apic.clock();
    apic.set_clock(
        TimerClock::new(20 * rate.apic_hz(), rate.apic_hz()).unwrap(),
        2500,
    );
    assert_eq!(apic.pending(), Some(0x40));
    assert_eq!(apic.next_deadline_tsc(), Some(3500));
    let mut apic = periodic();
    apic.follow_tsc(2500, 100);
    assert_eq!(apic.pending(), Some(0x40));
    assert_eq!(apic.next_deadline_tsc(), Some(600));
}

proptest! {
    /// Reading the count is consistent with the deadline at any rate and divider.
    #[test]
    fn counts_end_at_the_deadline(
        tsc_hz in 1_000_000u64..5_000_000_000, apic_hz in 1_000_000u64..2_000_000_000,
        divide in 0u32..16, initial in 1u32.., start in 0u64..1 << 60, part in 0u64..=1000,
    ) {
        let mut apic = LocalApic::new(0, true, TimerClock::new(tsc_hz, apic_hz).unwrap());
        let _ = write(&mut apic, SVR, 0x1FF);
        let _ = write(&mut apic, LVT_TIMER, 0x40);
        let _ = write(&mut apic, DIVIDE, divide);
        let _ = apic.write_page(INITIAL, 4, initial, start);
        let end = apic.next_deadline_tsc().unwrap();
        prop_assert!(end > start);
        prop_assert_eq!(apic.read_page(CURRENT, 4, start), initial);
        prop_assert_eq!(apic.read_page(CURRENT, 4, end), 0);
        prop_assert!(apic.read_page(CURRENT, 4, end - 1) > 0);
        let middle = start + ((end - start) as u128 * part as u128 / 1000) as u64;
        let count = apic.read_page(CURRENT, 4, middle);
        let exact = initial as f64 * (1.0 - part as f64 / 1000.0);
        // One TSC tick may be several of the timer.
        let grain = 2.0 + 2.0 * apic_hz as f64 / tsc_hz as f64 + exact * 1e-9;
        prop_assert!((count as f64 - exact).abs() <= grain, "{} {}", count, exact);
        prop_assert!(!apic.clone().expire(end - 1));
        prop_assert!(apic.expire(end));
    }
}

proptest! {
    /// A count goes on at its own rate where the TSC takes on another: it ends when it would
    /// have ended, not before and within a tick of both.
    #[test]
    fn counts_go_on_over_a_change_of_the_tsc(
        first in 20_000_000u64..5_000_000_000, second in 20_000_000u64..5_000_000_000,
        periodic: bool, divide in 0u32..16, initial in 1_000u32.., part in 0u64..1000,
    ) {
        const APIC_HZ: u64 = 100_000_000;
        let clock = |tsc_hz| TimerClock::new(tsc_hz, APIC_HZ).unwrap();
        let mut apic = LocalApic::new(0, true, clock(first));
        let _ = write(&mut apic, SVR, 0x1FF);
        let _ = write(&mut apic, LVT_TIMER, if periodic { 0x2_0040 } else { 0x40 });
        let _ = write(&mut apic, DIVIDE, divide);
        let start = 1u64 << 60;
        let _ = apic.write_page(INITIAL, 4, initial, start);
        let end = apic.next_deadline_tsc().unwrap();
        let now = start + ((end - start) as u128 * part as u128 / 1000) as u64;
        let count = apic.read_page(CURRENT, 4, now);
        apic.set_clock(clock(second), now);
        prop_assert_eq!(apic.clock(), clock(second));
        let later = apic.next_deadline_tsc().unwrap();
        let left = (end - now) as u128 * second as u128;
        let told = (later - now) as u128 * first as u128;
        // Both ends are rounded up to a tick of their TSC, the start down to one.
        let rounding = first as u128 + second as u128;
        prop_assert!(told >= left.saturating_sub(rounding), "early: {told} for {left}");
        // A tick of the divided timer, and one of each TSC.
        let divided = [2, 4, 8, 16, 32, 64, 128, 1][(divide & 3 | divide >> 1 & 4) as usize];
        let tick = divided as u128 * first as u128 * second as u128 / APIC_HZ as u128;
        prop_assert!(told <= left + tick + 2 * rounding, "late");
        prop_assert!(apic.read_page(CURRENT, 4, now).abs_diff(count) <= 1 + (APIC_HZ / second) as u32);
    }

    /// A count takes as long as it would, whatever L1 makes of its TSC.
    #[test]
    fn a_count_goes_on_when_the_tsc_is_written(
        count in 1u32.., periodic: bool, at in 0..1u64 << 50, gone in 0..1u64 << 30, to in 0..u64::MAX
    ) {
        let mut apic = enabled(0);
        let _ = write(&mut apic, LVT_TIMER, 0x40 | u32::from(periodic) << 17);
        let _ = apic.write_page(INITIAL, 4, count, at);
        let now = at + gone;
        let mut unwritten = apic.clone();
        let has_ended = unwritten.expire(now);
        let (end, left) = (unwritten.next_deadline_tsc(), unwritten.read_page(CURRENT, 4, now));
        apic.follow_tsc(now, to);
        prop_assert_eq!(apic.pending().is_some(), has_ended);
        prop_assert_eq!(apic.read_page(CURRENT, 4, to), left);
        let expected = end.map(|end| {
            let end = i128::from(end) - i128::from(now) + i128::from(to);
            end.clamp(0, u64::MAX.into()) as u64
        });
        prop_assert_eq!(apic.next_deadline_tsc(), expected);
        // And back.
        apic.follow_tsc(to, now);
        prop_assert_eq!(apic.read_page(CURRENT, 4, now), left);
    }

    /// A deadline in TSC ticks is what L1 wrote, at any rate.
    #[test]
    fn a_tsc_deadline_stays(deadline in 1u64.., ticks: u64, hz in 20_000_000u64..5_000_000_000) {
        let mut apic = enabled(0);
        let _ = write(&mut apic, LVT_TIMER, 0x4_0040);
        let _ = apic.set_tsc_deadline(deadline);
        let now = ticks % deadline;
        apic.set_clock(TimerClock::new(hz, 100_000_000).unwrap(), now);
        apic.follow_tsc(now, hz);
        prop_assert_eq!(apic.next_deadline_tsc(), Some(deadline));
    }
}
