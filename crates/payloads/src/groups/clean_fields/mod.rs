//! What the clean-field auditor has to find, and what it must not take for a mistake.
//!
//! The findings are L0's reports: whoever started the run compares them. L2 runs in any case, as L0
//! goes on with what it has.

mod planted;
mod quiet;

use ::vmx::BasicExitReason as Reason;

use super::evmcs::{offered, reset};
use crate::rt::harness::{Group, Test};
use crate::rt::memory;
use crate::vm::{L2, Outcome};

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
