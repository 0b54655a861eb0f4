//! The stack that the boot processor comes up on.
//!
//! L0's page tables lie below it. What puts a partition together works with values of several
//! KiB, so whether the stack has sufficed is worth a look.

/// Bytes below the boot stack that nobody writes.
const GUARD: usize = 4096;

unsafe extern "C" {
    static boot_stack_guard: [u8; GUARD];
}

/// Whether the boot stack has never been full.
pub fn has_sufficed() -> bool {
    // SAFETY: the guard is part of the image, cleared when it was loaded and written by nobody, if
    // the answer is to be yes.
    let guard = unsafe { (&raw const boot_stack_guard).read_volatile() };
    guard.iter().all(|&byte| byte == 0)
}
