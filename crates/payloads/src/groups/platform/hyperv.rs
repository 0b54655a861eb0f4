//! The Hv#1 interface.

use tlfs::cpuid::HYPERVISOR_RANGE_FIRST;
use tlfs::msr::Msr;

use crate::rt::fault::{self, Fault};
use crate::rt::harness::Check;
use crate::rt::{apic, cpu, memory, smp};

const VECTOR: u8 = 0x54;

fn is_offered() -> bool {
    cpu::is_virtual() && cpu::cpuid(HYPERVISOR_RANGE_FIRST + 1, 0)[0] == 0x3123_7648
}

fn privileges() -> [u32; 4] {
    cpu::cpuid(HYPERVISOR_RANGE_FIRST + 3, 0)
}

/// The leaves that say who is there.
pub fn leaves(check: &Check) {
    if !is_offered() {
        return check.skip("all", "no Hv#1 interface");
    }
    let first = cpu::cpuid(HYPERVISOR_RANGE_FIRST, 0);
    check.equal(
        "vendor",
        [first[1], first[2], first[3]],
        [0x7263_694d, 0x666f_736f, 0x7648_2074],
    );
    check.that(
        "highest leaf",
        (0x4000_0005..0x4001_0000).contains(&first[0]),
        format_args!("{:#x}", first[0]),
    );
    check.equal(
        "no other signature at 0x40000100",
        cpu::cpuid(0x4000_0100, 0)[1] == 0x4b4d_564b,
        false,
    );
    check.equal(
        "not the root, not isolated",
        privileges()[1] & (1 << 1 | 1 << 12 | 1 << 22),
        0,
    );
}

/// MSRs, each gated by its privilege.
pub fn msrs(check: &Check) {
    if !is_offered() {
        return check.skip("all", "no Hv#1 interface");
    }
    let mask = privileges()[0];
    let gates = [
        (Msr::TIME_REF_COUNT, 1),
        (Msr::STIMER0_CONFIG, 3),
        (Msr::HYPERCALL, 5),
        (Msr::VP_INDEX, 6),
        (Msr::REFERENCE_TSC, 9),
        (Msr::TSC_FREQUENCY, 11),
        (Msr::REENLIGHTENMENT_CONTROL, 13),
        (Msr::SCONTROL, 2),
        (Msr::VP_RUNTIME, 0),
    ];
    for (msr, bit) in gates {
        check.equal(
            format_args!("{msr:?} can be read"),
            cpu::rdmsr(msr.0).is_ok(),
            mask >> bit & 1 != 0,
        );
    }
    for msr in [
        Msr::TIME_REF_COUNT,
        Msr::VP_INDEX,
        Msr::TSC_FREQUENCY,
        Msr::APIC_FREQUENCY,
    ] {
        check.equal(
            format_args!("{msr:?} cannot be written"),
            cpu::wrmsr(msr.0, 0),
            Err(Fault::GP),
        );
    }
    let _ = cpu::wrmsr(Msr::GUEST_OS_ID.0, 0);
    let page = memory::page();
    let _ = cpu::wrmsr(Msr::HYPERCALL.0, page | 1);
    check.equal(
        "no hypercall page without an identity",
        cpu::msr(Msr::HYPERCALL.0) & 1,
        0,
    );
    let _ = cpu::wrmsr(Msr::GUEST_OS_ID.0, 0x8100_0000_0000_0001);
    check.equal(
        "identity",
        cpu::msr(Msr::GUEST_OS_ID.0),
        0x8100_0000_0000_0001,
    );
    check.equal(
        "hypercall page",
        cpu::wrmsr(Msr::HYPERCALL.0, page | 1),
        Ok(()),
    );
    check.equal("reads back", cpu::msr(Msr::HYPERCALL.0), page | 1);
    check.equal("VMCALL and RET", memory::read::<u32>(page), 0xc3c1_010f);
    let _ = cpu::wrmsr(Msr::GUEST_OS_ID.0, 0);
    check.equal(
        "without identity it is gone",
        cpu::msr(Msr::HYPERCALL.0) & 1,
        0,
    );
    check.equal(
        "beyond memory",
        cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, 1 << 51 | 1),
        Err(Fault::GP),
    );
}

/// The TSC page against the MSR: never backwards, whichever is read.
pub fn tsc_page(check: &Check) {
    if !is_offered() || privileges()[0] >> 9 & 1 == 0 {
        return check.skip("all", "no reference TSC page");
    }
    let page = memory::page();
    check.equal(
        "enabled",
        cpu::wrmsr(Msr::REFERENCE_TSC.0, page | 1),
        Ok(()),
    );
    check.that(
        "valid at once",
        memory::read::<u32>(page) != 0,
        "sequence 0",
    );
    let by_page = || {
        let scale: u64 = memory::read(page + 8);
        let offset: u64 = memory::read(page + 16);
        (((u128::from(cpu::tsc()) * u128::from(scale)) >> 64) as u64).wrapping_add(offset)
    };
    let by_msr = || cpu::msr(Msr::TIME_REF_COUNT.0);
    let (mut last, mut backwards) = (0, 0);
    for _ in 0..500 {
        for now in [by_page(), by_msr()] {
            backwards += u32::from(now < last);
            last = now;
        }
    }
    check.equal("times that it went backwards", backwards, 0);
    let (tsc, start) = (cpu::tsc(), by_msr());
    cpu::spin(20_000_000);
    let (tsc, time) = (cpu::tsc() - tsc, by_msr() - start);
    let expected = u128::from(tsc) * 10_000_000 / u128::from(cpu::msr(Msr::TSC_FREQUENCY.0).max(1));
    let difference = u128::from(time).abs_diff(expected);
    check.that(
        "the rate is that of TSC_FREQUENCY",
        difference * 100 <= expected,
        format_args!("{time}, expected {expected}"),
    );
    if smp::ensure() {
        // The other processor reads the same clock.
        fn read(at: u64) {
            memory::write(at, cpu::msr(Msr::TIME_REF_COUNT.0));
        }
        let at = page + 0x800;
        let before = by_page();
        let ran = smp::run(read, at);
        let after = by_page();
        check.equal("the second processor ran", ran, Some(Ok(())));
        let there = memory::read::<u64>(at);
        check.that(
            "its clock is the same",
            (before..=after).contains(&there),
            format_args!("{there} is not in {before}..={after}"),
        );
    }
    let _ = cpu::wrmsr(Msr::REFERENCE_TSC.0, 0);
}

/// A synthetic timer in direct mode.
pub fn stimer(check: &Check) {
    if !is_offered() || privileges()[0] >> 3 & 1 == 0 || privileges()[3] >> 19 & 1 == 0 {
        return check.skip("all", "no direct synthetic timers");
    }
    // Not enabled until the count is written: the old count may be in the past.
    let config = 1 << 3 | u64::from(VECTOR) << 4 | 1 << 12;
    let now = || cpu::msr(Msr::TIME_REF_COUNT.0);
    for n in 0..4u32 {
        let (configuration, count) = (Msr::STIMER0_CONFIG.0 + 2 * n, Msr::STIMER0_COUNT.0 + 2 * n);
        for ahead in [200u64, 5_000] {
            let before = fault::count(VECTOR);
            let _ = cpu::wrmsr(configuration, config);
            let deadline = now() + ahead;
            let _ = cpu::wrmsr(count, deadline);
            let mut came = 0;
            let done = smp::wait_for(|| {
                cpu::interrupt_window();
                came = now();
                fault::count(VECTOR) > before
            });
            check.that(
                format_args!("timer {n}, {ahead} ahead: comes"),
                done,
                "it does not",
            );
            check.that(
                format_args!("timer {n}, {ahead} ahead: not early"),
                came >= deadline,
                format_args!("{came}, deadline {deadline}"),
            );
            check.equal("one-shot disables itself", cpu::msr(configuration) & 1, 0);
        }
        let before = fault::count(VECTOR);
        let _ = cpu::wrmsr(configuration, config);
        let _ = cpu::wrmsr(count, 1);
        cpu::spin(10_000);
        cpu::interrupt_window();
        check.equal(
            format_args!("timer {n}: in the past, at once"),
            fault::count(VECTOR),
            before + 1,
        );
        let _ = cpu::wrmsr(configuration, config | 2);
        let before = fault::count(VECTOR);
        let _ = cpu::wrmsr(count, 3_000);
        let start = now();
        let done = smp::wait_for(|| {
            cpu::interrupt_window();
            fault::count(VECTOR) >= before + 3
        });
        let took = now() - start;
        let _ = cpu::wrmsr(configuration, 0);
        check.that(
            format_args!("timer {n}: periodic"),
            done && took >= 9_000,
            format_args!("{took}"),
        );
        let _ = cpu::wrmsr(count, 0);
        cpu::interrupt_window();
        let count_then = fault::count(VECTOR);
        cpu::spin(1_000_000);
        cpu::interrupt_window();
        check.equal(
            format_args!("timer {n}: stopped"),
            fault::count(VECTOR),
            count_then,
        );
    }
}

/// The idle MSR waits for an interrupt, with IF clear.
pub fn idle(check: &Check) {
    if !is_offered() || privileges()[0] >> 10 & 1 == 0 {
        return check.skip("all", "no guest idle");
    }
    let before = fault::count(VECTOR);
    apic::write(apic::register::DIVIDE, apic::timer::DIVIDE_BY_1);
    apic::write(apic::register::LVT_TIMER, u32::from(VECTOR));
    apic::write(apic::register::INITIAL_COUNT, 1_000_000);
    check.equal(
        "comes back",
        cpu::rdmsr(Msr::GUEST_IDLE.0).map(|_| ()),
        Ok(()),
    );
    check.equal(
        "with an interrupt requested",
        apic::is_requested(VECTOR),
        true,
    );
    check.equal("that is not taken yet", fault::count(VECTOR), before);
    cpu::interrupt_window();
    check.equal("but then", fault::count(VECTOR), before + 1);
}
