//! VMCLEAR, VMPTRLD and VMPTRST.

use ::vmx::Field;

use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::instruction as vmx;
use crate::vm::{Outcome, operation};

fn beyond_memory() -> u64 {
    1 << cpu::physical_bits()
}

/// VMCLEAR's errors, and that it makes the current VMCS none.
pub fn vmclear(check: &Check) {
    let vmxon = operation::enter();
    let (a, b) = (operation::region(), operation::region());
    check.equal(
        "unaligned, no current",
        vmx::vmclear(a + 8),
        Outcome::FailInvalid,
    );
    check.equal(
        "VMXON region, no current",
        vmx::vmclear(vmxon),
        Outcome::FailInvalid,
    );
    check.equal("in order", vmx::vmclear(a), Outcome::Success);
    check.equal("load", vmx::vmptrld(a), Outcome::Success);
    check.equal("unaligned", vmx::vmclear(a + 8), Outcome::FailValid(2));
    check.equal(
        "beyond memory",
        vmx::vmclear(a | beyond_memory()),
        Outcome::FailValid(2),
    );
    check.equal("VMXON region", vmx::vmclear(vmxon), Outcome::FailValid(3));
    check.equal("another VMCS", vmx::vmclear(b), Outcome::Success);
    check.equal("the current one stays", vmx::vmptrst(), Ok(a));
    let zero = memory::page();
    check.equal(
        "a page without a revision",
        vmx::vmclear(zero),
        Outcome::Success,
    );
    check.equal("the current one", vmx::vmclear(a), Outcome::Success);
    check.equal("none is current", vmx::vmptrst(), Ok(u64::MAX));
    check.equal(
        "vmread after it",
        vmx::vmread(Field::GUEST_RIP),
        Err(Outcome::FailInvalid),
    );
}

/// VMPTRLD's errors.
pub fn vmptrld(check: &Check) {
    let vmxon = operation::enter();
    let revision = operation::capabilities().revision();
    let (a, b) = (operation::region(), operation::region());
    check.equal(
        "unaligned, no current",
        vmx::vmptrld(a + 8),
        Outcome::FailInvalid,
    );
    let _ = vmx::vmclear(a);
    check.equal("in order", vmx::vmptrld(a), Outcome::Success);
    check.equal("unaligned", vmx::vmptrld(a + 0x10), Outcome::FailValid(9));
    check.equal(
        "beyond memory",
        vmx::vmptrld(a | beyond_memory()),
        Outcome::FailValid(9),
    );
    check.equal("VMXON region", vmx::vmptrld(vmxon), Outcome::FailValid(10));
    memory::write(b, revision + 1);
    check.equal("other revision", vmx::vmptrld(b), Outcome::FailValid(11));
    if operation::capabilities().secondary.may_be_one() & 1 << 14 == 0 {
        memory::write(b, revision | 1 << 31);
        check.equal(
            "shadow without the control",
            vmx::vmptrld(b),
            Outcome::FailValid(11),
        );
    } else {
        check.skip("shadow without the control", "VMCS shadowing is offered");
    }
    check.equal("the current one stays", vmx::vmptrst(), Ok(a));
    check.equal(
        "the error number is kept in it",
        vmx::vmread(Field::INSTRUCTION_ERROR),
        Ok(11),
    );
    check.equal("the current one again", vmx::vmptrld(a), Outcome::Success);
}

/// VMPTRST stores all 64 bits and nothing else.
pub fn vmptrst(check: &Check) {
    operation::enter();
    let page = memory::page();
    memory::fill(page, 64, 0x1111_1111_1111_1111);
    check.equal(
        "without a current VMCS",
        vmx::vmptrst_at(page + 8),
        Outcome::Success,
    );
    check.equal("all ones", memory::read::<u64>(page + 8), u64::MAX);
    let a = operation::region();
    let _ = vmx::vmclear(a);
    let _ = vmx::vmptrld(a);
    check.equal(
        "unaligned is fine",
        vmx::vmptrst_at(page + 13),
        Outcome::Success,
    );
    check.equal(
        "the pointer",
        memory::read::<[u8; 8]>(page + 13),
        a.to_le_bytes(),
    );
    check.equal("the byte before", memory::read::<u8>(page + 12), 0xff);
    check.equal("the byte behind", memory::read::<u8>(page + 21), 0x11);
}

/// Several VMCSs keep their fields while others are current.
pub fn several(check: &Check) {
    operation::enter();
    let regions: [u64; 8] = core::array::from_fn(|_| operation::region());
    for (i, region) in regions.iter().enumerate() {
        let _ = vmx::vmclear(*region);
        check.equal("load", vmx::vmptrld(*region), Outcome::Success);
        let _ = vmx::vmwrite(Field::GUEST_RIP, 0x1000 + i as u64);
        let _ = vmx::vmwrite(Field::GUEST_CR3, 0x7000_0000 + (i as u64) * 4096);
    }
    for (i, region) in regions.iter().enumerate().rev() {
        // Half of them are written back first, so that their contents come from memory.
        if i % 2 == 0 {
            let _ = vmx::vmclear(*region);
        }
        let _ = vmx::vmptrld(*region);
        check.equal(
            format_args!("RIP of {i}"),
            vmx::vmread(Field::GUEST_RIP),
            Ok(0x1000 + i as u64),
        );
        check.equal(
            format_args!("CR3 of {i}"),
            vmx::vmread(Field::GUEST_CR3),
            Ok(0x7000_0000 + (i as u64) * 4096),
        );
    }
}
