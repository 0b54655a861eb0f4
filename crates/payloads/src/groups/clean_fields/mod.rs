//! What the clean-field auditor has to find, and what it must not take for a mistake.
//!
//! The findings are L0's reports: whoever started the run compares them. L2 runs in any case, as L0
//! goes on with what it has.

mod planted;
mod quiet;

use ::vmx::BasicExitReason as Reason;

use crate::rt::harness::{Check, Group, Test};
use crate::rt::memory;
use crate::vm::{self, L2, Outcome, assist};

/// The group.
pub const GROUP: Group = Group {
    name: "clean-fields",
    reset,
    tests: &[
        Test {
            name: "planted-fields",
            run: |c| offered(c, planted::fields),
        },
        Test {
            name: "planted-bitmap",
            run: |c| offered(c, planted::bitmap),
        },
        Test {
            name: "quiet-declared",
            run: |c| offered(c, quiet::declared),
        },
        Test {
            name: "quiet-read-whole",
            run: |c| offered(c, quiet::read_whole),
        },
        Test {
            name: "quiet-l2s-own",
            run: |c| offered(c, quiet::l2s_own),
        },
    ],
};

const RUNS: Outcome = Outcome::exit(Reason::Vmcall);

fn reset() {
    vm::operation::leave();
    vm::select_door(Some("enlightened"));
}

fn offered(check: &Check, test: fn(&Check)) {
    if assist::is_offered() {
        test(check);
    } else {
        check.skip("all", "no enlightened VMCS is offered");
    }
}

/// Declares everything changed, and enters.
fn enter_declared(l2: &mut L2) -> Outcome {
    memory::write(l2.clean_fields(), 0u32);
    l2.enter(false)
}

/// Declares nothing changed, and enters.
fn enter_clean(l2: &mut L2, launch: bool) -> Outcome {
    memory::write(l2.clean_fields(), 0xffffu32);
    l2.enter(launch)
}
