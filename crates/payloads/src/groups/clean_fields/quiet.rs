//! Changes that L1 may make, and those that are not its own: nothing of it is to be reported.

use ::vmx::Field;

use super::{RUNS, enter_clean};
use crate::rt::harness::Check;
use crate::rt::memory;
use crate::vm::guest::code;
use crate::vm::{L2, instruction};

/// A field of every group but those whose every bit matters to L2's running, with a bit that may
/// be set.
const HARMLESS: &[(Field, u64)] = &[
    (Field::IO_BITMAP_A, 0x1000),
    (Field::MSR_BITMAP, 0x1000),
    (Field::TSC_OFFSET, 1),
    (Field::TSC_MULTIPLIER, 1),
    (Field::ENTRY_EXCEPTION_ERROR_CODE, 1),
    (Field::EXCEPTION_BITMAP, 2),
    (Field::CR0_READ_SHADOW, 8),
    (Field::VPID, 1),
    (Field::GUEST_RSP, 8),
    (Field::GUEST_SYSENTER_ESP, 8),
    (Field::GUEST_FS_BASE, 8),
    (Field::HOST_FS_BASE, 8),
    (Field::HOST_SYSENTER_ESP, 8),
    (Field::PAGE_FAULT_ERROR_CODE_MATCH, 1),
];

fn looping() -> L2 {
    L2::new(code!("2: vmcall", "jmp 2b"))
}

/// A change with its group's clean bit clear.
pub fn declared(check: &Check) {
    let mut l2 = looping();
    check.equal("first", l2.run(), RUNS);
    for (field, bit) in HARMLESS {
        l2.skip_instruction();
        memory::write(l2.clean_fields(), 0xffffu32);
        l2.set(*field, l2.get(*field) ^ bit);
        check.equal(format_args!("{field:?}"), l2.enter(false), RUNS);
    }
}

/// Changes before an entry that reads everything: VMLAUNCH, after VMCLEAR, another page.
pub fn read_whole(check: &Check) {
    let (mut l2, mut other) = (looping(), looping());
    check.equal("first", l2.run(), RUNS);
    check.equal("the other", other.run(), RUNS);
    let change = |l2: &L2| {
        l2.skip_instruction();
        for (field, bit) in HARMLESS {
            l2.store(*field, l2.get(*field) ^ bit);
        }
    };
    change(&l2);
    check.equal("another page", enter_clean(&mut l2, false), RUNS);
    change(&l2);
    check.equal("VMLAUNCH", enter_clean(&mut l2, true), RUNS);
    change(&l2);
    let _ = instruction::vmclear(l2.page);
    check.equal("VMCLEAR", enter_clean(&mut l2, false), RUNS);
}

/// L2 changes its state, and an entry fails.
pub fn l2s_own(check: &Check) {
    let mut l2 = L2::new(code!(
        "2: inc rsp",
        "stc",
        "mov ax, ds",
        "mov es, ax",
        "mov rax, cr3",
        "mov cr3, rax",
        "vmcall",
        "jmp 2b"
    ));
    check.equal("first", l2.run(), RUNS);
    for _ in 0..3 {
        l2.skip_instruction();
        check.equal("again", enter_clean(&mut l2, false), RUNS);
    }
    l2.skip_instruction();
    let cr3 = l2.get(Field::HOST_CR3);
    memory::write(l2.clean_fields(), 0xffffu32);
    l2.set(Field::HOST_CR3, 1 << 60);
    let outcome = l2.enter(false);
    check.that("a failing entry", outcome != RUNS, "it ran");
    l2.set(Field::HOST_CR3, cr3);
    check.equal("declared again", l2.enter(false), RUNS);
}
