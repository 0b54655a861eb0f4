//! From the loader to a running machine.

pub mod information;
pub mod madt;
pub mod options;
pub mod smp;
pub mod stack;

use core::arch::global_asm;

global_asm!(
    include_str!("entry.s"),
    rust_entry = sym crate::rust_entry,
    ap_entry = sym smp::ap_entry,
    trampoline = const smp::TRAMPOLINE,
);
