//! VMCALL of L1's.

use core::arch::asm;

use tlfs::cpuid::HYPERVISOR_RANGE_FIRST;

use crate::rt::cpu;
use crate::rt::fault::{Fault, attempt};

/// Control word: the input is in registers.
pub const FAST: u64 = 1 << 16;

/// Control word: banks of a variable header.
pub const fn banks(count: u64) -> u64 {
    count << 17
}

/// Control word: elements of a list.
pub const fn reps(count: u64) -> u64 {
    count << 32
}

/// EAX of leaf 0x40000004; 0 where there is no Hv#1 interface.
pub fn recommendations() -> u32 {
    if cpu::is_virtual() && cpu::cpuid(HYPERVISOR_RANGE_FIRST + 1, 0)[0] == 0x3123_7648 {
        cpu::cpuid(HYPERVISOR_RANGE_FIRST + 4, 0)[0]
    } else {
        0
    }
}

/// EDX of leaf 0x40000003.
pub fn features() -> u32 {
    cpu::cpuid(HYPERVISOR_RANGE_FIRST + 3, 0)[3]
}

/// A hypercall: its result word.
pub fn call(control: u64, first: u64, second: u64) -> Result<u64, Fault> {
    attempt(|| {
        let result;
        // SAFETY: the calls that the tests make write nowhere.
        unsafe {
            asm!("vmcall", in("rcx") control, in("rdx") first, in("r8") second,
                out("rax") result);
        }
        result
    })
}

/// Result word: all of a list is done.
pub const fn done(reps: u64) -> Result<u64, Fault> {
    Ok(reps << 32)
}
