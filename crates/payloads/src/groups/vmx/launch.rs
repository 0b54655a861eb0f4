//! Launch state, and MOV SS blocking.

use core::arch::asm;

use ::vmx::BasicExitReason;

use crate::rt::fault::attempt;
use crate::rt::harness::Check;
use crate::vm::guest::code;
use crate::vm::instruction as vmx;
use crate::vm::{Door, L2, Outcome, door};

const VMCALL: Outcome = Outcome::exit(BasicExitReason::Vmcall);

/// VMLAUNCH wants a clear VMCS, VMRESUME a launched one.
pub fn state(check: &Check) {
    if door() == Door::Enlightened {
        return check.skip("launch state", "an enlightened VMCS has none");
    }
    let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
    check.equal(
        "vmresume of a clear VMCS",
        l2.enter(false),
        Outcome::FailValid(5),
    );
    check.equal("vmlaunch", l2.enter(true), VMCALL);
    check.equal("vmlaunch again", l2.enter(true), Outcome::FailValid(4));
    check.equal("vmresume", l2.enter(false), VMCALL);
    let _ = vmx::vmptrld(l2.page);
    check.equal("vmresume after vmptrld", l2.enter(false), VMCALL);
    l2.clear();
    check.equal(
        "vmresume after vmclear",
        l2.enter(false),
        Outcome::FailValid(5),
    );
    check.equal("vmlaunch after vmclear", l2.enter(true), VMCALL);
    // A failed entry leaves the launch state as it is.
    l2.clear();
    l2.set(::vmx::Field::GUEST_CR3, u64::MAX);
    check.equal(
        "vmlaunch with a bad CR3",
        l2.enter(true),
        Outcome::entry_failure(BasicExitReason::InvalidGuestState),
    );
    check.equal(
        "vmresume after that",
        l2.enter(false),
        Outcome::FailValid(5),
    );
}

/// VMfail(26) in the shadow of MOV SS, before the launch state is looked at.
pub fn mov_ss(check: &Check) {
    if door() == Door::Enlightened {
        return check.skip("MOV SS", "the plain door tests it");
    }
    let l2 = L2::new(code!("vmcall"));
    l2.activate();
    for (name, launch) in [("vmlaunch", true), ("vmresume", false)] {
        let result = attempt(|| {
            let flags: u64;
            // SAFETY: SS keeps its selector; the entry is to fail.
            unsafe {
                if launch {
                    asm!("mov eax, ss", "mov ss, eax", "vmlaunch", "pushfq", "pop {0}", out(reg) flags, out("rax") _);
                } else {
                    asm!("mov eax, ss", "mov ss, eax", "vmresume", "pushfq", "pop {0}", out(reg) flags, out("rax") _);
                }
            }
            Outcome::from_flags(flags, vmx::error)
        });
        check.equal(name, result, Ok(Outcome::FailValid(26)));
    }
    let mut l2 = l2;
    check.equal("vmlaunch without", l2.run(), VMCALL);
}
