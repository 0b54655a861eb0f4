//! The current VMCS, as safe reads and writes.
//!
//! A processor that runs a VP is in VMX root operation with a current VMCS from the VP's
//! creation on, which is what makes these sound; nothing here is called before that.

use platform::counters::Counter;
use vmx::{Field, instructions};

use super::accesses;

/// Reads a field of the current VMCS; one that every processor has that L0 runs on.
#[inline(always)]
pub fn read(field: Field) -> u64 {
    accesses::count(Counter::Reads02);
    // SAFETY: see the module.
    unsafe { instructions::vmread_known(field) }
}

/// Writes a field of the current VMCS.
///
/// Host state and structure addresses are written by `vmcs01` and `vmcs02` set-up alone.
#[inline(always)]
pub fn write(field: Field, value: u64) {
    accesses::count(Counter::Writes02);
    // SAFETY: see the module; what guests decide about these values passes the entry checks,
    // and L0's own fields are written only where they are set up.
    unsafe { instructions::vmwrite(field, value) }
}

/// Sets and clears bits of a field.
#[inline]
pub fn modify(field: Field, set: u64, clear: u64) {
    write(field, (read(field) | set) & !clear);
}
