//! The end of the run.

use super::cpu;

/// ACPI's sleep control register of the partition: sleep type 5, sleep enable.
const SLEEP_CONTROL: u16 = 0x5d0;
const SLEEP_S5: u8 = 5 << 2 | 1 << 5;
/// Bochs: its shutdown port, and its ACPI's PM1a control.
const BOCHS_SHUTDOWN: u16 = 0x8900;
const BOCHS_PM1A: u16 = 0xb004;

/// Switches the machine off, in the way of whichever machine it is.
pub fn off() -> ! {
    if cpu::is_virtual() {
        cpu::out8(SLEEP_CONTROL, SLEEP_S5);
    }
    for byte in b"Shutdown" {
        cpu::out8(BOCHS_SHUTDOWN, *byte);
    }
    cpu::out16(BOCHS_PM1A, 0x2000);
    loop {
        // SAFETY: nothing is left to do.
        unsafe { core::arch::asm!("cli", "hlt", options(nostack)) };
    }
}
