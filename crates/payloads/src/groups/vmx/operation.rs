//! VMXON, and what VMX operation holds fast.

use crate::rt::fault::Fault;
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::instruction as vmx;
use crate::vm::{Outcome, operation};

/// An address that is aligned but that no processor has.
fn beyond_memory() -> u64 {
    1 << cpu::physical_bits()
}

/// What VMXON refuses, and how.
pub fn vmxon(check: &Check) {
    operation::prepare();
    let revision = operation::capabilities().revision();
    let region = operation::region();
    check.equal("unaligned", vmx::vmxon(region + 8), Outcome::FailInvalid);
    check.equal(
        "beyond memory",
        vmx::vmxon(region | beyond_memory()),
        Outcome::FailInvalid,
    );
    check.equal("bit 63", vmx::vmxon(region | 1 << 63), Outcome::FailInvalid);
    memory::write(region, revision ^ 1);
    check.equal("other revision", vmx::vmxon(region), Outcome::FailInvalid);
    memory::write(region, revision | 1 << 31);
    check.equal(
        "bit 31 of the revision",
        vmx::vmxon(region),
        Outcome::FailInvalid,
    );
    memory::write(region, revision);

    let cr0 = cpu::cr0();
    let _ = cpu::set_cr0(cr0 & !cpu::CR0_NE);
    check.equal("CR0.NE clear", vmx::vmxon(region), Outcome::GP);
    let _ = cpu::set_cr0(cr0);

    check.equal("in order", vmx::vmxon(region), Outcome::Success);
    check.equal("no VMCS is current", vmx::vmptrst(), Ok(u64::MAX));
    check.equal(
        "again without a current VMCS",
        vmx::vmxon(region),
        Outcome::FailInvalid,
    );
    check.equal(
        "again, unaligned, without a current VMCS",
        vmx::vmxon(region + 1),
        Outcome::FailInvalid,
    );
    let vmcs = operation::region();
    let _ = vmx::vmclear(vmcs);
    check.equal("vmptrld", vmx::vmptrld(vmcs), Outcome::Success);
    check.equal(
        "again with a current VMCS",
        vmx::vmxon(region),
        Outcome::FailValid(15),
    );
    check.equal("vmxoff", vmx::vmxoff(), Outcome::Success);
    check.equal("vmxoff again", vmx::vmxoff(), Outcome::UD);
    check.equal("vmxon after vmxoff", vmx::vmxon(region), Outcome::Success);
    check.equal(
        "the current VMCS is forgotten",
        vmx::vmptrst(),
        Ok(u64::MAX),
    );
}

/// In VMX operation the fixed bits of CR0 and CR4 stay, and INIT-irrelevant ones do not matter.
pub fn fixed_bits(check: &Check) {
    operation::enter();
    let (cr0, cr4) = (cpu::cr0(), cpu::cr4());
    check.equal(
        "clear CR4.VMXE",
        cpu::set_cr4(cr4 & !cpu::CR4_VMXE),
        Err(Fault::GP),
    );
    check.equal(
        "clear CR0.NE",
        cpu::set_cr0(cr0 & !cpu::CR0_NE),
        Err(Fault::GP),
    );
    check.equal(
        "clear CR0.PG",
        cpu::set_cr0(cr0 & !cpu::CR0_PG),
        Err(Fault::GP),
    );
    check.equal(
        "clear CR4.PAE",
        cpu::set_cr4(cr4 & !cpu::CR4_PAE),
        Err(Fault::GP),
    );
    check.equal("CR0 is as it was", cpu::cr0(), cr0);
    check.equal("CR4 is as it was", cpu::cr4(), cr4);
    check.equal("toggle CR0.WP", cpu::set_cr0(cr0 & !cpu::CR0_WP), Ok(()));
    check.equal("CR0.WP is clear", cpu::cr0() & cpu::CR0_WP, 0);
    check.equal("CR0.WP set again", cpu::set_cr0(cr0), Ok(()));
    check.equal("toggle CR4.PGE", cpu::set_cr4(cr4 ^ cpu::CR4_PGE), Ok(()));
    let _ = cpu::set_cr4(cr4);
    check.equal("vmxoff", vmx::vmxoff(), Outcome::Success);
    check.equal(
        "clear CR4.VMXE outside",
        cpu::set_cr4(cr4 & !cpu::CR4_VMXE),
        Ok(()),
    );
    check.equal("CR4.VMXE reads clear", cpu::cr4() & cpu::CR4_VMXE, 0);
    let _ = cpu::set_cr4(cr4);
    check.equal(
        "CR4.VMXE reads set",
        cpu::cr4() & cpu::CR4_VMXE,
        cpu::CR4_VMXE,
    );
}
