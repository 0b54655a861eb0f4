//! L0's own page tables: all of physical memory, one to one.

use addr::Spa;

use super::{frames, pointer};
use crate::cpu::register;

/// Present, writable, large page.
const LARGE: u64 = 0x83;
/// Present, writable.
const TABLE: u64 = 3;

unsafe extern "C" {
    static mut boot_pml4: [u64; 512];
    static mut boot_pdpt: [u64; 512];
}

/// Extends the boot page tables, which map the first 4 GiB, up to `top`.
///
/// # Safety
/// Called once, by the boot processor, before the others start.
pub unsafe fn extend(top: u64) {
    const GIB: u64 = 1 << 30;
    let huge = register::cpuid(0x8000_0001, 0)[3] & (1 << 26) != 0;
    for gib in 4..top.div_ceil(GIB).min(512) {
        let entry = if huge {
            (gib * GIB) | LARGE
        } else {
            let directory = frames::allocate_at_boot();
            for i in 0..512u64 {
                // SAFETY: a fresh frame of 512 entries.
                unsafe {
                    pointer::<u64>(directory)
                        .add(i as usize)
                        .write((gib * GIB + (i << 21)) | LARGE);
                }
            }
            directory.raw() | TABLE
        };
        // SAFETY: the boot tables are live but these entries are not present yet, so no
        // translation of them is cached.
        unsafe {
            (&raw mut boot_pdpt)
                .cast::<u64>()
                .add(gib as usize)
                .write(entry)
        };
    }
}

/// The root of L0's page tables.
pub fn root() -> Spa {
    Spa::new(&raw const boot_pml4 as u64)
}
