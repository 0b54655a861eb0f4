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
        // A vector below 32 would be an exception: the error is the APIC's to report.
        let vector = if mode <= 1 && (16..32).contains(&vector) {
            vector + 32
        } else {
            vector
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
