//! A guest's x87, SSE and AVX state, which stays in the processor while L0 runs.

use alloc::boxed::Box;
use core::arch::asm;

use super::register;

/// More than the components that a guest may have take together.
const SIZE: usize = 4096;

#[repr(C, align(64))]
struct Area([u8; SIZE]);

/// What XRSTOR does not accept.
pub struct BadArea;

/// Where an XSAVE area says which components it has, and that it is of the standard form.
const HEADER: usize = 512;
/// Where MXCSR lies, and the bits that it can have.
const MXCSR: usize = 24;
const MXCSR_MASK: u32 = 0xFFFF;

/// Stores the guest's state with all `components` into `area`, whatever XCR0 enables.
///
/// # Panics
/// Where `area` is larger than any area there can be: CPUID is not to be trusted then.
pub fn save(components: u64, area: &mut [u8]) {
    let mut whole = Box::new(Area([0; SIZE]));
    let at = whole.0.as_mut_ptr();
    if components == 0 {
        // SAFETY: the area has the 512 bytes and the alignment that FXSAVE wants.
        unsafe { asm!("fxsave64 [{}]", in(reg) at, options(nostack, preserves_flags)) };
    } else {
        // SAFETY: L0 has CR4.OSXSAVE set; the components are those that L1's policy has, which is
        // narrower than the processor; their area is smaller than `SIZE` by that policy, whose
        // largest size `area` has; and XCR0 is as before afterwards.
        unsafe {
            let before = register::xcr0();
            register::set_xcr0(components);
            asm!("xsave64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX,
                options(nostack, preserves_flags));
            register::set_xcr0(before);
        }
    }
    area.copy_from_slice(&whole.0[..area.len()]);
}

/// Loads what [`save`] stored.
///
/// # Errors
/// [`BadArea`], with nothing loaded, where the area is none that [`save`] stores.
pub fn load(components: u64, area: &[u8]) -> Result<(), BadArea> {
    let mut whole = Box::new(Area([0; SIZE]));
    whole
        .0
        .get_mut(..area.len())
        .ok_or(BadArea)?
        .copy_from_slice(area);
    let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|n| whole.0[at + n]));
    if word(MXCSR) as u32 & !MXCSR_MASK != 0 {
        return Err(BadArea);
    }
    let at = whole.0.as_ptr();
    if components == 0 {
        // SAFETY: an FXSAVE area with no reserved bit of MXCSR, aligned.
        unsafe { asm!("fxrstor64 [{}]", in(reg) at, options(nostack, preserves_flags)) };
        return Ok(());
    }
    let has_standard_header =
        word(HEADER) & !components == 0 && (1..8).all(|n| word(HEADER + 8 * n) == 0);
    if !has_standard_header {
        return Err(BadArea);
    }
    // SAFETY: as for `save`; the header has none of the bits that XRSTOR faults for, nor MXCSR.
    unsafe {
        let before = register::xcr0();
        register::set_xcr0(components);
        asm!("xrstor64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX,
            options(nostack, preserves_flags));
        register::set_xcr0(before);
    }
    Ok(())
}
