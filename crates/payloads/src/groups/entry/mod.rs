//! VM entries that are to fail, one rule each.

mod controls;
mod event;
mod guest;
mod host;
mod msr_list;
mod segments;

use crate::rt::harness::{Check, Group, Test};
use crate::rt::memory;
use crate::vm::guest::code;
use crate::vm::{self, L2, Outcome};

/// The group.
pub const GROUP: Group = Group {
    name: "entry",
    reset: vm::operation::leave,
    tests: &[
        Test {
            name: "baseline",
            run: baseline,
        },
        Test {
            name: "controls",
            run: controls::controls,
        },
        Test {
            name: "event",
            run: event::event,
        },
        Test {
            name: "host",
            run: host::host,
        },
        Test {
            name: "guest",
            run: guest::guest,
        },
        Test {
            name: "segments",
            run: segments::segments,
        },
        Test {
            name: "msr-load",
            run: msr_list::load,
        },
        Test {
            name: "order",
            run: order,
        },
        Test {
            name: "after-failure",
            run: after_failure,
        },
    ],
};

/// One wrong thing: its name, and how to do it. `false` when it cannot be done here.
type Case = (&'static str, fn(&L2) -> bool);

/// Does one wrong thing after the other, each to an L2 that is otherwise in order.
fn each(check: &Check, cases: &[Case], expected: Outcome) {
    each_qualified(check, cases, expected, None);
}

/// As [`each`], and looks at the exit qualification.
fn each_qualified(check: &Check, cases: &[Case], expected: Outcome, qualification: Option<u64>) {
    let mark = memory::mark();
    for (name, spoil) in cases {
        memory::release(mark);
        vm::operation::leave();
        let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
        if !spoil(&l2) {
            check.skip(name, "not offered");
            continue;
        }
        let outcome = l2.run();
        check.equal(*name, outcome, expected);
        if let Some(value) = qualification
            && outcome == expected
        {
            check.equal(
                format_args!("{name}: qualification"),
                l2.get(::vmx::Field::EXIT_QUALIFICATION),
                value,
            );
        }
    }
}

/// Good ones, each to an L2 that is otherwise in order: they enter.
fn each_good(check: &Check, cases: &[Case]) {
    let mark = memory::mark();
    for (name, prepare) in cases {
        memory::release(mark);
        vm::operation::leave();
        let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
        if !prepare(&l2) {
            check.skip(name, "not offered");
            continue;
        }
        let outcome = l2.run();
        let entered = matches!(outcome, Outcome::Exit(reason) if reason >> 31 == 0);
        check.that(name, entered, format_args!("{outcome:?}"));
    }
}

/// The L2 that the others spoil runs.
fn baseline(check: &Check) {
    let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
    for _ in 0..3 {
        check.equal(
            "vmcall",
            l2.run(),
            Outcome::exit(::vmx::BasicExitReason::Vmcall),
        );
    }
    l2.clear();
    check.equal(
        "after vmclear",
        l2.run(),
        Outcome::exit(::vmx::BasicExitReason::Vmcall),
    );
}

/// Controls are checked before host state, host state before guest state.
fn order(check: &Check) {
    use ::vmx::Field;
    let mut l2 = L2::new(code!("vmcall"));
    l2.set(Field::GUEST_CR3, u64::MAX);
    l2.set(Field::HOST_CR3, u64::MAX);
    l2.set(Field::CR3_TARGET_COUNT, 0xffff);
    // Controls and host state may be checked in any order (SDM 27.2).
    let outcome = l2.run();
    check.that(
        "all three wrong",
        matches!(outcome, Outcome::FailValid(7 | 8)),
        format_args!("{outcome:?}"),
    );
    l2.set(Field::CR3_TARGET_COUNT, 0);
    check.equal("host and guest wrong", l2.run(), Outcome::FailValid(8));
    l2.set(Field::HOST_CR3, crate::rt::cpu::cr3());
    check.equal(
        "guest wrong",
        l2.run(),
        Outcome::entry_failure(::vmx::BasicExitReason::InvalidGuestState),
    );
}

/// A failed entry writes only the reason and the qualification, and loads host state.
fn after_failure(check: &Check) {
    use ::vmx::Field;
    let mut l2 = L2::new(code!("vmcall"));
    let info = u64::from(::vmx::InterruptionInfo::external_interrupt(0x40).raw());
    l2.set(Field::ENTRY_INTERRUPTION_INFO, info);
    l2.set(Field::GUEST_CR3, u64::MAX);
    l2.set(Field::GUEST_RSP, 0x1234_5678);
    let (pat, efer) = (
        crate::rt::cpu::msr(crate::rt::cpu::MSR_PAT),
        crate::rt::cpu::msr(crate::rt::cpu::MSR_EFER),
    );
    let failed = Outcome::entry_failure(::vmx::BasicExitReason::InvalidGuestState);
    check.equal("fails", l2.run(), failed);
    check.equal("CR3 stays", l2.get(Field::GUEST_CR3), u64::MAX);
    check.equal("RSP stays", l2.get(Field::GUEST_RSP), 0x1234_5678);
    check.equal(
        "the event stays valid",
        l2.get(Field::ENTRY_INTERRUPTION_INFO),
        info,
    );
    check.equal("fails again", l2.run(), failed);
    check.equal(
        "PAT is L1's still",
        crate::rt::cpu::msr(crate::rt::cpu::MSR_PAT),
        pat,
    );
    check.equal(
        "EFER is L1's still",
        crate::rt::cpu::msr(crate::rt::cpu::MSR_EFER),
        efer,
    );
    l2.set(Field::GUEST_CR3, crate::rt::cpu::cr3());
    l2.set(Field::GUEST_RSP, l2.stack);
    l2.set(Field::ENTRY_INTERRUPTION_INFO, 0);
    check.equal(
        "then enters",
        l2.run(),
        Outcome::exit(::vmx::BasicExitReason::Vmcall),
    );
    check.equal(
        "a successful entry clears the failure",
        l2.get(Field::EXIT_REASON),
        18,
    );
}
