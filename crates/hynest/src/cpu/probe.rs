//! MSR accesses that may fault.
//!
//! What a guest asks L0 to put into an MSR on its behalf, by an MSR list, the processor judges:
//! a #GP in one of the two instructions below comes back as an error.

use core::arch::global_asm;

global_asm!(
    r#"
    .text
    // probe_rdmsr(msr, value): 0 and *value, or 1.
    probe_rdmsr:
    mov ecx, edi
    probe_rdmsr_at:
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov [rsi], rax
    xor eax, eax
    ret

    // probe_wrmsr(msr, value): 0, or 1.
    probe_wrmsr:
    mov ecx, edi
    mov eax, esi
    mov rdx, rsi
    shr rdx, 32
    probe_wrmsr_at:
    wrmsr
    xor eax, eax
    ret

    probe_faulted:
    mov eax, 1
    ret
    .global probe_rdmsr
    .global probe_rdmsr_at
    .global probe_wrmsr
    .global probe_wrmsr_at
    .global probe_faulted
    "#
);

unsafe extern "C" {
    fn probe_rdmsr(msr: u32, value: *mut u64) -> u32;
    fn probe_wrmsr(msr: u32, value: u64) -> u32;
    static probe_rdmsr_at: [u8; 0];
    static probe_wrmsr_at: [u8; 0];
    static probe_faulted: [u8; 0];
}

/// The processor answered with #GP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faulted;

/// Reads an MSR that need not exist.
pub fn read(msr: u32) -> Result<u64, Faulted> {
    let mut value = 0;
    // SAFETY: reading an MSR has no effect; the routine writes to the local alone.
    if unsafe { probe_rdmsr(msr, &mut value) } == 0 {
        Ok(value)
    } else {
        Err(Faulted)
    }
}

/// Writes an MSR that may not exist or not take the value.
///
/// # Safety
/// L0 does not rely on the MSR.
pub unsafe fn write(msr: u32, value: u64) -> Result<(), Faulted> {
    // SAFETY: the caller's promise.
    if unsafe { probe_wrmsr(msr, value) } == 0 {
        Ok(())
    } else {
        Err(Faulted)
    }
}

/// Whether a #GP at `rip` is one of these accesses'; `rip` is then moved to where it fails.
pub fn recover(rip: &mut u64) -> bool {
    let at = [
        &raw const probe_rdmsr_at as u64,
        &raw const probe_wrmsr_at as u64,
    ];
    let is_probe = at.contains(rip);
    if is_probe {
        *rip = &raw const probe_faulted as u64;
    }
    is_probe
}
