//! L1's page tables: the first 4 GiB one to one, and a window for pages that are mapped oddly.

use super::{cpu, memory};

/// Present.
pub const PRESENT: u64 = 1 << 0;
/// Writable.
pub const WRITE: u64 = 1 << 1;
/// Open to ring 3.
pub const USER: u64 = 1 << 2;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where the window lies: nothing is mapped from here on but by [`map`].
pub const WINDOW: u64 = 0x80_0000_0000;
/// A linear address that nothing maps.
pub const UNMAPPED: u64 = 0x40_0000_0000;
/// A linear address that is not canonical.
pub const NON_CANONICAL: u64 = 0x8000_0000_0000;

fn table(entry: u64) -> u64 {
    let value = memory::read::<u64>(entry);
    if value & PRESENT != 0 {
        return value & ADDRESS;
    }
    let page = memory::page();
    memory::write(entry, page | PRESENT | WRITE | USER);
    page
}

/// Maps the page at `linear`, in the window, to `physical` with `flags`. The tables come out of
/// the pool: [`unmap_window`] before giving pages back.
pub fn map(linear: u64, physical: u64, flags: u64) {
    let mut at = cpu::cr3() & ADDRESS;
    for shift in [39, 30, 21] {
        at = table(at + (linear >> shift & 511) * 8);
    }
    memory::write(at + (linear >> 12 & 511) * 8, physical | flags);
    flush(linear);
}

/// Forgets everything in the window.
pub fn unmap_window() {
    memory::write((cpu::cr3() & ADDRESS) + (WINDOW >> 39 & 511) * 8, 0u64);
    let _ = cpu::set_cr3(cpu::cr3());
}

/// INVLPG.
pub fn flush(linear: u64) {
    // SAFETY: dropping a translation is always sound.
    unsafe { core::arch::asm!("invlpg [{}]", in(reg) linear, options(nostack)) };
}
