//! The time stamp counter and its frequency.

use core::arch::x86_64::_rdtsc;

use super::port::{inb, outb};

/// The TSC now.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: RDTSC is allowed at CPL 0 whatever CR4.TSD says, and has no effect.
    unsafe { _rdtsc() }
}

/// The PIT's clock, in Hz.
const PIT_HZ: u64 = 1_193_182;
/// How long to watch the PIT: about 20 ms.
const PIT_TICKS: u16 = 23_863;

/// Measures the TSC against the PIT's channel 2; `None` when the PIT does not answer.
///
/// CPUID leaves 0x15 and 0x16 would be exact, but emulators report a real processor's
/// there and not their own rate.
pub fn calibrate() -> Option<u64> {
    // SAFETY: the PIT and the speaker gate belong to L0; no one else uses them.
    unsafe {
        let gate = inb(0x61);
        outb(0x61, (gate & !2) | 1);
        // Channel 2, both bytes, mode 0: the output rises when the count is done.
        outb(0x43, 0b1011_0000);
        outb(0x42, PIT_TICKS as u8);
        outb(0x42, (PIT_TICKS >> 8) as u8);
        let start = now();
        let mut polls = 0u32;
        while inb(0x61) & 0x20 == 0 {
            polls += 1;
            if polls == 100_000_000 {
                return None;
            }
        }
        let ticks = now() - start;
        outb(0x61, gate);
        Some((ticks * PIT_HZ + u64::from(PIT_TICKS) / 2) / u64::from(PIT_TICKS))
    }
}
