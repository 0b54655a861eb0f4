//! Model-specific registers of the physical processor.

use core::arch::asm;

/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1B;
/// IA32_FEATURE_CONTROL.
pub const FEATURE_CONTROL: u32 = 0x3A;
/// IA32_EFER.
pub const EFER: u32 = 0xC000_0080;
/// IA32_GS_BASE.
pub const GS_BASE: u32 = 0xC000_0101;
/// IA32_PAT.
pub const PAT: u32 = 0x277;

/// Reads an MSR.
///
/// # Safety
/// CPL 0 and the MSR exists: otherwise #GP stops L0.
#[inline]
pub unsafe fn read(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: touches no memory; existence is the caller's promise.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
///
/// # Safety
/// CPL 0, the MSR exists, accepts the value, and the value keeps what L0 relies on.
#[inline]
pub unsafe fn write(msr: u32, value: u64) {
    // SAFETY: the caller vouches for the effect. `nomem` is absent on purpose: an MSR
    // may change how memory is accessed.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}
