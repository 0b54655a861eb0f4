//! Interrupt commands of every kind.

use super::still_well;
use crate::rt::harness::Check;
use crate::rt::random::Random;
use crate::rt::{apic, cpu, fault, smp};

/// Every delivery mode, destination mode and shorthand, to itself, to nobody and to all, but for
/// INIT and start-up, which change who runs.
pub fn all_modes(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "bare, SMIs would go to the firmware");
    }
    let mut random = Random::new(0x1c4);
    let nmis = fault::count(2);
    for _ in 0..500 {
        let mode = [0u32, 1, 2, 3, 4, 7][random.below(6) as usize];
        let shorthand = random.below(4) as u32;
        let vector = random.below(256) as u32;
        // A vector below 32 would be an exception, and 0x80 is how ring 3 comes back.
        let vector = match vector {
            16..32 if mode <= 1 => vector + 32,
            0x80 => 0x90,
            vector => vector,
        };
        let low = vector | mode << 8 | (random.next() as u32 & 0xc800) | shorthand << 18;
        let destination = [0u32, 1, 2, 0xff, 0xffff_ffff][random.below(5) as usize];
        apic::send_raw(destination, low);
        cpu::interrupt_window();
    }
    for _ in 0..300 {
        cpu::interrupt_window();
    }
    check.that("NMIs came", fault::count(2) > nmis, "none did");
    still_well(check);
}

/// INIT to the second processor while it runs, again and again, and a start each time.
pub fn init_second(check: &Check) {
    for round in 0..5 {
        check.that(
            format_args!("start {round}"),
            smp::start(),
            "it does not come",
        );
        fn spin(_: u64) {
            loop {
                core::hint::spin_loop();
            }
        }
        smp::begin(spin, 0);
        cpu::spin(200_000);
    }
    check.that("the last start", smp::start(), "it does not come");
    check.equal("it works", smp::run(|_| {}, 0), Some(Ok(())));
    // In VMX operation INIT waits until VMXOFF.
    check.equal(
        "it enters VMX operation and leaves",
        smp::run(
            |_| {
                crate::vm::operation::enter();
                crate::vm::operation::leave();
            },
            0,
        ),
        Some(Ok(())),
    );
    still_well(check);
}

/// Timers whose period is too short for anything: the processor goes on all the same.
pub fn tiny_period(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "bare, the processor drowns");
    }
    apic::write(apic::register::DIVIDE, apic::timer::DIVIDE_BY_1);
    apic::write(apic::register::LVT_TIMER, apic::timer::PERIODIC | 0x41);
    apic::write(apic::register::INITIAL_COUNT, 1);
    for _ in 0..10 {
        cpu::interrupt_window();
    }
    apic::stop_timer();
    check.that("past the APIC's timer", true, "");
    let config = 1 << 3 | 2 | 0x41 << 4 | 1 << 12;
    if cpu::wrmsr(tlfs::msr::Msr::STIMER0_CONFIG.0, config).is_ok() {
        let _ = cpu::wrmsr(tlfs::msr::Msr::STIMER0_COUNT.0, 1);
        for _ in 0..10 {
            cpu::interrupt_window();
        }
        let _ = cpu::wrmsr(tlfs::msr::Msr::STIMER0_CONFIG.0, 0);
        check.that("past the synthetic timer", true, "");
    }
    still_well(check);
}
