//! VM entry by the enlightened VMCS (TLFS, "Nested Virtualization").

mod clean;
mod entry;
mod moved;
mod races;

use ::vmx::BasicExitReason as Reason;

use crate::rt::harness::{Check, Group, Test};
use crate::vm::{self, Outcome, assist};

/// The group.
pub const GROUP: Group = Group {
    name: "evmcs",
    reset,
    tests: &[
        Test {
            name: "launch-resume",
            run: |c| offered(c, entry::launch_and_resume),
        },
        Test {
            name: "revision",
            run: |c| offered(c, entry::revision),
        },
        Test {
            name: "refused-page",
            run: |c| offered(c, entry::refused_page),
        },
        Test {
            name: "pointer",
            run: |c| offered(c, entry::pointer),
        },
        Test {
            name: "failures",
            run: |c| offered(c, entry::failures),
        },
        Test {
            name: "write-back",
            run: |c| offered(c, entry::write_back),
        },
        Test {
            name: "vmclear",
            run: |c| offered(c, entry::vmclear),
        },
        Test {
            name: "switching",
            run: |c| offered(c, entry::switching),
        },
        Test {
            name: "moved",
            run: |c| offered(c, moved::between_vps),
        },
        Test {
            name: "disabled",
            run: |c| offered(c, entry::disabled),
        },
        Test {
            name: "clean",
            run: |c| offered(c, clean::fields),
        },
        Test {
            name: "clean-after-switch",
            run: |c| offered(c, clean::after_switch),
        },
        Test {
            name: "always-read",
            run: |c| offered(c, clean::always_read),
        },
        Test {
            name: "msr-bitmap",
            run: |c| offered(c, clean::msr_bitmap),
        },
        Test {
            name: "racing-clean-fields",
            run: |c| offered(c, races::clean_fields),
        },
        Test {
            name: "racing-everything",
            run: |c| offered(c, races::everything),
        },
    ],
};

/// Leaves VMX operation; L2s are entered by the enlightened VMCS from here on.
pub fn reset() {
    vm::operation::leave();
    vm::select_door(Some("enlightened"));
}

/// Runs the test where the enlightened VMCS is offered.
pub fn offered(check: &Check, test: fn(&Check)) {
    if assist::is_offered() {
        test(check);
    } else {
        check.skip("all", "no enlightened VMCS is offered");
    }
}

const RUNS: Outcome = Outcome::exit(Reason::Vmcall);
