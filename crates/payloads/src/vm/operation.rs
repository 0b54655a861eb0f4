//! VMX operation on this processor.

use vmx::Capabilities;

use super::{Outcome, assist, instruction};
use crate::rt::{cpu, memory};

/// The capability MSRs of this processor.
pub fn capabilities() -> Capabilities {
    Capabilities::read(cpu::msr)
}

/// A fresh region with the right revision, for VMXON or as a VMCS.
pub fn region() -> u64 {
    let page = memory::page();
    memory::write(page, capabilities().revision());
    page
}

/// Makes this processor's CR0, CR4 and feature control ready for VMXON.
pub fn prepare() {
    let caps = capabilities();
    let _ = cpu::set_cr0(caps.adjust_cr0(cpu::cr0()));
    let _ = cpu::set_cr4(caps.adjust_cr4(cpu::cr4() | cpu::CR4_VMXE));
    if cpu::msr(cpu::MSR_FEATURE_CONTROL) & 1 == 0 {
        let _ = cpu::wrmsr(cpu::MSR_FEATURE_CONTROL, 5);
    }
}

/// Enters VMX operation. Returns the VMXON region.
///
/// # Panics
/// When VMXON fails: nothing else could be tested.
pub fn enter() -> u64 {
    prepare();
    let region = region();
    let outcome = instruction::vmxon(region);
    assert!(outcome == Outcome::Success, "VMXON: {outcome:?}");
    region
}

/// Leaves VMX operation, in it or not, and clears CR4.VMXE.
pub fn leave() {
    assist::disable();
    let _ = instruction::vmxoff();
    let _ = cpu::set_cr4(cpu::cr4() & !cpu::CR4_VMXE);
}
