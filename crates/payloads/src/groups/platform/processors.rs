//! The second processor.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::rt::apic::{self, Delivery};
use crate::rt::fault;
use crate::rt::harness::Check;
use crate::rt::{cpu, smp};

static SEEN: [AtomicU64; 7] = [const { AtomicU64::new(0) }; 7];

fn look_around(_: u64) {
    SEEN[0].store(u64::from(apic::id()), Ordering::SeqCst);
    SEEN[1].store(cpu::msr(cpu::MSR_APIC_BASE), Ordering::SeqCst);
    SEEN[2].store(cpu::tsc(), Ordering::SeqCst);
    SEEN[3].store(u64::from(cpu::cpuid(1, 0)[1] >> 24), Ordering::SeqCst);
    SEEN[4].store(cpu::cr2(), Ordering::SeqCst);
    SEEN[5].store(cpu::dr0(), Ordering::SeqCst);
    SEEN[6].store(cpu::dr6(), Ordering::SeqCst);
    // For the next start to clear.
    let _ = cpu::set_cr2(0x777);
    let _ = cpu::set_dr0(0x1000);
    let _ = cpu::set_dr6(0xffff_4ff1);
}

/// INIT and start-up, twice.
pub fn start_up(check: &Check) {
    for round in 0..2 {
        check.that(
            format_args!("start {round}"),
            smp::start(),
            "it does not come",
        );
        let before = cpu::tsc();
        check.equal("it works", smp::run(look_around, 0), Some(Ok(())));
        let after = cpu::tsc();
        let seen = SEEN.each_ref().map(|word| word.load(Ordering::SeqCst));
        check.equal("its identifier", (seen[0], seen[3]), (1, 1));
        check.equal("it is not the bootstrap processor", seen[1] & 0x900, 0x800);
        check.equal("CR2 after INIT", seen[4], 0);
        check.equal("DR0 and DR6", (seen[5], seen[6]), (0, 0xffff_0ff0));
        check.that(
            "its TSC is this one's",
            (before..=after).contains(&seen[2]),
            format_args!("{} is not in {before}..={after}", seen[2]),
        );
    }
    // A start-up message to a processor that runs is ignored.
    let arrivals = smp::arrivals();
    apic::send(smp::SECOND, Delivery::StartUp, 8);
    cpu::spin(1_000_000);
    check.equal(
        "start-up while running is ignored",
        smp::arrivals(),
        arrivals,
    );
    check.equal("it still works", smp::run(look_around, 0), Some(Ok(())));
}

const VECTOR: u8 = 0x55;

/// Interrupts both ways, and HLT.
pub fn second(check: &Check) {
    if !smp::ensure() {
        return check.that("a second processor", false, "does not start");
    }
    let before = fault::count_on(1, VECTOR);
    smp::begin(
        |count| {
            for _ in 0..count {
                cpu::halt();
            }
        },
        3,
    );
    for i in 1..=3 {
        cpu::spin(1_000_000);
        apic::send(smp::SECOND, Delivery::Fixed, VECTOR);
        check.that(
            format_args!("interrupt {i} wakes it"),
            smp::wait_for(|| fault::count_on(1, VECTOR) == before + i),
            "it does not",
        );
    }
    check.equal("it ends", smp::finish(), Some(Ok(())));
    let before = fault::count(VECTOR);
    check.equal(
        "it sends one",
        smp::run(|_| apic::send(0, Delivery::Fixed, VECTOR), 0),
        Some(Ok(())),
    );
    check.that(
        "which comes",
        smp::wait_for(|| {
            cpu::interrupt_window();
            fault::count(VECTOR) == before + 1
        }),
        "it does not",
    );
    let nmis = fault::count_on(1, 2);
    apic::send(smp::SECOND, Delivery::Nmi, 0);
    check.that(
        "an NMI",
        smp::wait_for(|| fault::count_on(1, 2) == nmis + 1),
        "does not come",
    );
}
