//! The processor: registers, MSRs, ports. What may fault says so in its result.

use core::arch::asm;

use super::fault::{Fault, attempt};

/// Most processors that the payload uses.
pub const MAX: usize = 2;

/// RFLAGS.IF.
pub const RFLAGS_IF: u64 = 1 << 9;
/// CR0.MP.
pub const CR0_MP: u64 = 1 << 1;
/// CR0.TS.
pub const CR0_TS: u64 = 1 << 3;
/// CR0.NE.
pub const CR0_NE: u64 = 1 << 5;
/// CR0.WP.
pub const CR0_WP: u64 = 1 << 16;
/// CR0.AM.
pub const CR0_AM: u64 = 1 << 18;
/// CR0.PG.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.TSD.
pub const CR4_TSD: u64 = 1 << 2;
/// CR4.DE.
pub const CR4_DE: u64 = 1 << 3;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.PGE.
pub const CR4_PGE: u64 = 1 << 7;
/// CR4.VMXE.
pub const CR4_VMXE: u64 = 1 << 13;
/// CR4.OSXSAVE.
pub const CR4_OSXSAVE: u64 = 1 << 18;

/// IA32_TIME_STAMP_COUNTER.
pub const MSR_TSC: u32 = 0x10;
/// IA32_TSC_ADJUST.
pub const MSR_TSC_ADJUST: u32 = 0x3b;
/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_FEATURE_CONTROL.
pub const MSR_FEATURE_CONTROL: u32 = 0x3a;
/// IA32_SYSENTER_CS.
pub const MSR_SYSENTER_CS: u32 = 0x174;
/// IA32_SYSENTER_ESP.
pub const MSR_SYSENTER_ESP: u32 = 0x175;
/// IA32_SYSENTER_EIP.
pub const MSR_SYSENTER_EIP: u32 = 0x176;
/// IA32_PAT.
pub const MSR_PAT: u32 = 0x277;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// IA32_EFER.
pub const MSR_EFER: u32 = 0xc000_0080;
/// IA32_STAR.
pub const MSR_STAR: u32 = 0xc000_0081;
/// IA32_FS_BASE.
pub const MSR_FS_BASE: u32 = 0xc000_0100;
/// IA32_GS_BASE.
pub const MSR_GS_BASE: u32 = 0xc000_0101;
/// IA32_KERNEL_GS_BASE.
pub const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[inline]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: reading a control register changes nothing.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack)) };
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        pub fn $write(value: u64) -> Result<(), Fault> {
            // SAFETY: the payload owns its machine; a refused value faults into `attempt`.
            attempt(|| unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value) })
        }
    };
}
control_register!(cr0, set_cr0, "cr0");
control_register!(cr2, set_cr2, "cr2");
control_register!(cr3, set_cr3, "cr3");
control_register!(cr4, set_cr4, "cr4");
control_register!(dr0, set_dr0, "dr0");
control_register!(dr6, set_dr6, "dr6");
control_register!(dr7, set_dr7, "dr7");

/// RDMSR.
pub fn rdmsr(msr: u32) -> Result<u64, Fault> {
    attempt(|| {
        let (low, high): (u32, u32);
        // SAFETY: a missing MSR faults into `attempt`.
        unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high) };
        u64::from(high) << 32 | u64::from(low)
    })
}

/// RDMSR of an MSR that is there; 0 if it is not.
pub fn msr(msr: u32) -> u64 {
    rdmsr(msr).unwrap_or(0)
}

/// WRMSR.
pub fn wrmsr(msr: u32, value: u64) -> Result<(), Fault> {
    attempt(|| {
        // SAFETY: the payload owns its machine; a refused write faults into `attempt`.
        unsafe {
            asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32)
        }
    })
}

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Whether CPUID shows a hypervisor.
pub fn is_virtual() -> bool {
    cpuid(1, 0)[2] & 1 << 31 != 0
}

/// Bits of a physical address.
pub fn physical_bits() -> u32 {
    cpuid(0x8000_0008, 0)[0] & 0xff
}

/// RDTSC, after everything before it.
#[inline]
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Waits for `ticks` of the TSC.
pub fn spin(ticks: u64) {
    let start = tsc();
    while tsc().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}

/// Which processor runs: 0 is the one that booted. Its task register says so.
#[inline]
pub fn number() -> usize {
    let selector: u16;
    // SAFETY: reading TR changes nothing.
    unsafe { asm!("str {0:x}", out(reg) selector, options(nomem, nostack)) };
    usize::from(selector.saturating_sub(super::segments::TSS)) / 16
}

/// Opens the window for interrupts for two instructions.
pub fn interrupt_window() {
    // SAFETY: the handlers count interrupts and touch nothing else.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) }
}

/// STI; HLT; CLI: sleeps until an interrupt.
pub fn halt() {
    // SAFETY: as `interrupt_window`.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

macro_rules! port {
    ($read:ident, $write:ident, $ty:ty, $reg:tt) => {
        /// IN.
        #[inline]
        pub fn $read(port: u16) -> $ty {
            let value: $ty;
            // SAFETY: the payload owns its machine's devices.
            unsafe { asm!(concat!("in ", $reg, ", dx"), in("dx") port, out($reg) value, options(nostack)) };
            value
        }

        /// OUT.
        #[inline]
        pub fn $write(port: u16, value: $ty) {
            // SAFETY: as above.
            unsafe { asm!(concat!("out dx, ", $reg), in("dx") port, in($reg) value, options(nostack)) };
        }
    };
}
port!(in8, out8, u8, "al");
port!(in16, out16, u16, "ax");
port!(in32, out32, u32, "eax");
