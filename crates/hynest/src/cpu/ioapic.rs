//! The physical IOAPICs, of which L0 uses none.

use addr::Spa;

use crate::memory::pointer;

/// Offset of the register that selects.
const SELECT: usize = 0;
/// Offset, in 32-bit words, of the window to what is selected.
const WINDOW: usize = 4;
/// The version register; bits 23:16 hold the number of the last pin.
const VERSION: u32 = 1;
/// The low half of pin 0's entry; each pin has two words.
const FIRST_PIN: u32 = 0x10;
/// An entry that delivers nothing.
const MASKED: u32 = 1 << 16;

/// Masks every pin. Firmware may leave some open, and a level that nobody serves would come again
/// after each EOI, for ever.
///
/// # Safety
/// There are an IOAPIC's registers at the address, and nothing relies on its interrupts.
pub unsafe fn mask(registers: Spa) {
    let base = pointer::<u32>(registers);
    // SAFETY: the caller's promise; all of the first 4 GiB is mapped, and the firmware has its
    // memory-type ranges keep device registers uncached.
    let (select, window) = unsafe { (base.add(SELECT), base.add(WINDOW)) };
    // SAFETY: as above.
    unsafe {
        select.write_volatile(VERSION);
        let last = window.read_volatile() >> 16 & 0xFF;
        for pin in 0..=last {
            select.write_volatile(FIRST_PIN + 2 * pin);
            window.write_volatile(MASKED);
        }
    }
}
