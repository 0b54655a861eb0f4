//! Hypercalls: L1's own, and L2's that L0 answers in L1's stead.

mod call;
mod direct;
mod direct_modes;
mod fast;
mod slow;

use tlfs::msr::Msr;

use crate::rt::cpu;
use crate::rt::harness::{Check, Group, Test};
use crate::vm::{self, assist};

/// The group.
pub const GROUP: Group = Group {
    name: "hypercalls",
    reset,
    tests: &[
        Test {
            name: "convention",
            run: |c| offered(c, slow::convention),
        },
        Test {
            name: "flush-virtual",
            run: |c| offered(c, slow::flush_virtual),
        },
        Test {
            name: "flush-physical",
            run: |c| offered(c, slow::flush_physical),
        },
        Test {
            name: "ipi",
            run: |c| offered(c, slow::ipi),
        },
        Test {
            name: "fast",
            run: |c| offered(c, fast::two_words),
        },
        Test {
            name: "xmm",
            run: |c| offered(c, fast::vector_registers),
        },
        Test {
            name: "direct-delegation",
            run: |c| delegated(c, direct::delegation),
        },
        Test {
            name: "direct-calls",
            run: |c| delegated(c, direct::calls),
        },
        Test {
            name: "direct-input",
            run: |c| delegated(c, direct::input),
        },
        Test {
            name: "direct-lock",
            run: |c| delegated(c, direct::lock),
        },
        Test {
            name: "direct-processors",
            run: |c| delegated(c, direct::processors),
        },
        Test {
            name: "direct-protected-mode",
            run: |c| delegated(c, direct_modes::protected),
        },
        Test {
            name: "direct-privilege",
            run: |c| delegated(c, direct_modes::privilege),
        },
    ],
};

fn reset() {
    vm::operation::leave();
    vm::select_door(Some("enlightened"));
    let _ = cpu::wrmsr(Msr::GUEST_OS_ID.0, 0x8100_0000_0000_0001);
}

fn offered(check: &Check, test: fn(&Check)) {
    if call::recommendations() & 1 << 2 != 0 {
        test(check);
    } else {
        check.skip("all", "no flush hypercalls are offered");
    }
}

fn delegated(check: &Check, test: fn(&Check)) {
    if assist::is_offered() && direct::is_offered() {
        test(check);
    } else {
        check.skip("all", "no direct flush is offered");
    }
}
