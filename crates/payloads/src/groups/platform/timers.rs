//! The local APIC's timer: never early, not much late.

use crate::rt::apic::{self, register as reg, timer};
use crate::rt::fault;
use crate::rt::harness::Check;
use crate::rt::{cpu, smp};

const VECTOR: u8 = 0x53;

fn arm(mode: u32, divide: u32, count: u32) {
    apic::write(reg::DIVIDE, divide);
    apic::write(reg::LVT_TIMER, mode | u32::from(VECTOR));
    apic::write(reg::INITIAL_COUNT, count);
}

/// Lets interrupts in until one more of the vector has come. Returns the TSC then.
fn wait(count: u32) -> Option<u64> {
    smp::wait_for(|| {
        cpu::interrupt_window();
        fault::count(VECTOR) > count
    })
    .then(cpu::tsc)
}

/// One interrupt, after the time, and the count runs down.
pub fn one_shot(check: &Check) {
    let before = fault::count(VECTOR);
    arm(timer::ONE_SHOT, timer::DIVIDE_BY_1, 10_000_000);
    let first = apic::read(reg::CURRENT_COUNT);
    cpu::spin(10_000);
    let second = apic::read(reg::CURRENT_COUNT);
    check.that(
        "the count runs down",
        first <= 10_000_000 && second < first,
        format_args!("{first}, then {second}"),
    );
    apic::write(reg::INITIAL_COUNT, 0);
    cpu::spin(200_000);
    cpu::interrupt_window();
    check.equal(
        "0 stops it",
        (fault::count(VECTOR), apic::read(reg::CURRENT_COUNT)),
        (before, 0),
    );
    // How long a tick is, so that "early" has a meaning: two lengths must be to each other as
    // their counts.
    let mut spans = [0u64; 2];
    for (span, count) in spans.iter_mut().zip([300_000u32, 1_200_000]) {
        let taken = fault::count(VECTOR);
        let start = cpu::tsc();
        arm(timer::ONE_SHOT, timer::DIVIDE_BY_1, count);
        let end = wait(taken);
        check.that("it comes", end.is_some(), "it does not");
        *span = end.unwrap_or(start).wrapping_sub(start);
        cpu::spin(100_000);
        cpu::interrupt_window();
        check.equal("once", fault::count(VECTOR), taken + 1);
    }
    check.that(
        "four times the count is about four times the time",
        spans[1] > spans[0] * 2 && spans[1] < spans[0] * 8,
        format_args!("{spans:?}"),
    );
    if cpu::is_virtual() {
        let (apic_hz, tsc_hz) = (cpu::msr(0x4000_0023), cpu::msr(0x4000_0022));
        if apic_hz != 0 {
            let ticks = u128::from(spans[1]) * u128::from(apic_hz) / u128::from(tsc_hz);
            check.that(
                "not early by the Hv frequencies",
                ticks + 100 >= 1_200_000,
                format_args!("{ticks} ticks"),
            );
        }
    }
    let taken = fault::count(VECTOR);
    arm(timer::ONE_SHOT | timer::MASKED, timer::DIVIDE_BY_1, 50_000);
    cpu::spin(400_000);
    cpu::interrupt_window();
    check.equal("masked", fault::count(VECTOR), taken);
    apic::stop_timer();
}

/// Again and again.
pub fn periodic(check: &Check) {
    let before = fault::count(VECTOR);
    arm(timer::PERIODIC, timer::DIVIDE_BY_1, 400_000);
    let start = cpu::tsc();
    let mut last = None;
    for i in 0..5 {
        last = wait(before + i);
    }
    apic::stop_timer();
    let end = cpu::tsc();
    check.that("five times", last.is_some(), "not all came");
    let count = fault::count(VECTOR);
    cpu::spin(1_000_000);
    cpu::interrupt_window();
    check.equal("none after it was stopped", fault::count(VECTOR), count);
    check.note(format_args!("five periods in {} ticks", end - start));
}

/// The TSC deadline: not before it, once, and 0 disarms.
pub fn tsc_deadline(check: &Check) {
    if cpu::cpuid(1, 0)[2] >> 24 & 1 == 0 {
        return check.skip("all", "CPUID shows none");
    }
    apic::write(reg::LVT_TIMER, timer::TSC_DEADLINE | u32::from(VECTOR));
    for ahead in [20_000u64, 300_000, 2_000_000] {
        let before = fault::count(VECTOR);
        let deadline = cpu::tsc() + ahead;
        check.equal("armed", cpu::wrmsr(cpu::MSR_TSC_DEADLINE, deadline), Ok(()));
        let came = wait(before);
        check.that(
            format_args!("{ahead} ticks ahead: not early"),
            came.is_some_and(|at| at >= deadline),
            format_args!("{came:?}, deadline {deadline}"),
        );
        check.that(
            format_args!("{ahead} ticks ahead: not late by far"),
            came.is_some_and(|at| at < deadline + 400_000),
            format_args!("{came:?}, deadline {deadline}"),
        );
        if cpu::is_virtual() {
            // Bochs leaves the old deadline.
            check.equal("reads 0 afterwards", cpu::msr(cpu::MSR_TSC_DEADLINE), 0);
        }
        cpu::spin(50_000);
        cpu::interrupt_window();
        check.equal("once", fault::count(VECTOR), before + 1);
    }
    let before = fault::count(VECTOR);
    let _ = cpu::wrmsr(cpu::MSR_TSC_DEADLINE, 1);
    cpu::spin(10_000);
    cpu::interrupt_window();
    check.equal("in the past: at once", fault::count(VECTOR), before + 1);
    let _ = cpu::wrmsr(cpu::MSR_TSC_DEADLINE, cpu::tsc() + 200_000);
    let _ = cpu::wrmsr(cpu::MSR_TSC_DEADLINE, 0);
    cpu::spin(500_000);
    cpu::interrupt_window();
    check.equal("disarmed", fault::count(VECTOR), before + 1);
    // It ends HLT.
    let _ = cpu::wrmsr(cpu::MSR_TSC_DEADLINE, cpu::tsc() + 500_000);
    cpu::halt();
    check.equal("wakes from HLT", fault::count(VECTOR), before + 2);
    apic::stop_timer();
}
