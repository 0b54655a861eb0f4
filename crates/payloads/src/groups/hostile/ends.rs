//! What ends the partition: run one at a time, by the exact name. What counts is what L0 reports.

use ::vmx::Field;

use super::is_asked_for;
use crate::rt::apic::{self, Delivery};
use crate::rt::cpu;
use crate::rt::harness::Check;
use crate::rt::segments::TablePointer;
use crate::vm::L2;
use crate::vm::guest::code;

/// INIT to the processor that booted.
pub fn init_self(check: &Check) {
    if !is_asked_for("last-init-self") {
        return check.skip("all", "ends the run");
    }
    apic::send(apic::id(), Delivery::Init, 0);
    cpu::spin(10_000_000);
    check.that("the partition has ended", false, "it has not");
}

/// A triple fault of L1.
pub fn triple_fault(check: &Check) {
    if !is_asked_for("last-triple-fault") {
        return check.skip("all", "ends the run");
    }
    let nothing = TablePointer::default();
    // SAFETY: meant.
    unsafe { core::arch::asm!("lidt [{}]", "ud2", in(reg) &raw const nothing) };
    check.that("the partition has ended", false, "it has not");
}

/// An exit whose MSR-load list cannot be loaded: a VMX abort.
pub fn vmx_abort(check: &Check) {
    if !is_asked_for("last-vmx-abort") {
        return check.skip("all", "ends the run");
    }
    let mut l2 = L2::new(code!("vmcall"));
    let list = crate::rt::memory::page();
    crate::rt::memory::write(list, u64::from(cpu::MSR_FS_BASE));
    l2.set(Field::EXIT_MSR_LOAD_ADDRESS, list);
    l2.set(Field::EXIT_MSR_LOAD_COUNT, 1);
    let outcome = l2.run();
    check.that(
        "the partition has ended",
        false,
        format_args!("{outcome:?}"),
    );
}
