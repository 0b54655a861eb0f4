//! Control registers, CPUID and XCR0 of the physical processor.

use core::arch::{asm, x86_64::__cpuid_count};

macro_rules! read_control_register {
    ($read:ident, $name:literal) => {
        /// Reads the control register.
        #[inline]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reading a control register at CPL 0 has no effect.
            unsafe {
                asm!(concat!("mov {}, ", $name), out(reg) value,
                    options(nomem, nostack, preserves_flags));
            }
            value
        }
    };
}

macro_rules! write_control_register {
    ($write:ident, $name:literal) => {
        /// Writes the control register.
        ///
        /// # Safety
        /// The value is legal and keeps L0's code, data and stack mapped and usable.
        #[inline]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(concat!("mov ", $name, ", {}"), in(reg) value,
                    options(nostack, preserves_flags));
            }
        }
    };
}

read_control_register!(cr0, "cr0");
read_control_register!(cr2, "cr2");
read_control_register!(cr4, "cr4");
read_control_register!(dr6, "dr6");
write_control_register!(set_cr0, "cr0");
write_control_register!(set_cr2, "cr2");
write_control_register!(set_cr4, "cr4");
write_control_register!(set_dr6, "dr6");

/// DR0 to DR3, which VM entry and exit do not switch: a guest's.
pub fn debug_addresses() -> [u64; 4] {
    let (dr0, dr1, dr2, dr3);
    // SAFETY: at CPL 0 with DR7.GD clear, as exits leave it, reading them does not fault.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
            out(reg) dr0, out(reg) dr1, out(reg) dr2, out(reg) dr3,
            options(nomem, nostack, preserves_flags));
    }
    [dr0, dr1, dr2, dr3]
}

/// Writes DR0 to DR3.
///
/// # Safety
/// They are to be a guest's; L0 itself uses none.
pub unsafe fn set_debug_addresses([dr0, dr1, dr2, dr3]: [u64; 4]) {
    // SAFETY: the caller's promise; DR7 enables none of them while L0 runs.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
            in(reg) dr0, in(reg) dr1, in(reg) dr2, in(reg) dr3,
            options(nomem, nostack, preserves_flags));
    }
}

/// The debug registers that VM entry and exit do not switch, as INIT leaves them: DR0 to DR3, DR6.
///
/// # Safety
/// They are a guest's that is being reset; L0 itself uses none.
pub unsafe fn reset_debug() {
    /// DR6 after INIT: no condition met.
    const DR6: u64 = 0xFFFF_0FF0;
    // SAFETY: the caller's promise; at CPL 0 with DR7.GD clear, as exits leave it, these do not
    // fault.
    unsafe {
        asm!(
            "mov dr0, {zero}",
            "mov dr1, {zero}",
            "mov dr2, {zero}",
            "mov dr3, {zero}",
            "mov dr6, {dr6}",
            zero = in(reg) 0u64,
            dr6 = in(reg) DR6,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// CPUID of a leaf and sub-leaf: EAX, EBX, ECX, EDX.
#[inline]
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = __cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Reads XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set.
pub unsafe fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set and the value is one the processor accepts. L0 itself uses no
/// extended state, so any accepted value is sound for it.
pub unsafe fn set_xcr0(value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nomem, nostack, preserves_flags));
    }
}
