//! What L2 does and L1 sees: exits, their information, events into L2, state that comes and goes.

mod control_registers;
mod exceptions;
pub mod injection;
mod instructions;
mod interrupts;
mod io;
mod io_strings;
mod lists;
mod msrs;
mod state;
mod time;
mod vectoring;

use ::vmx::{BasicExitReason, Field};

use crate::rt::harness::{Check, Group, Test};
use crate::vm::{self, L2, Outcome};

/// The group.
pub const GROUP: Group = Group {
    name: "exits",
    reset: vm::operation::leave,
    tests: &[
        Test {
            name: "always",
            run: instructions::always,
        },
        Test {
            name: "controlled",
            run: instructions::controlled,
        },
        Test {
            name: "vmx-instructions",
            run: instructions::vmx,
        },
        Test {
            name: "registers",
            run: state::registers,
        },
        Test {
            name: "written-back",
            run: state::written_back,
        },
        Test {
            name: "host-state",
            run: state::host,
        },
        Test {
            name: "msr-bitmap",
            run: msrs::bitmap,
        },
        Test {
            name: "msr-no-bitmap",
            run: msrs::without_bitmap,
        },
        Test {
            name: "msr-values",
            run: msrs::values,
        },
        Test {
            name: "msr-lists",
            run: lists::lists,
        },
        Test {
            name: "io-bitmap",
            run: io::bitmap,
        },
        Test {
            name: "io-information",
            run: io::information,
        },
        Test {
            name: "io-open",
            run: io::open,
        },
        Test {
            name: "io-strings",
            run: io_strings::open,
        },
        Test {
            name: "io-strings-faults",
            run: io_strings::faults,
        },
        Test {
            name: "cr0",
            run: control_registers::cr0,
        },
        Test {
            name: "cr4",
            run: control_registers::cr4,
        },
        Test {
            name: "clts-lmsw",
            run: control_registers::clts_lmsw,
        },
        Test {
            name: "cr3-cr8",
            run: control_registers::cr3_cr8,
        },
        Test {
            name: "exceptions",
            run: exceptions::bitmap,
        },
        Test {
            name: "page-faults",
            run: exceptions::page_faults,
        },
        Test {
            name: "triple-fault",
            run: exceptions::triple_fault,
        },
        Test {
            name: "injection",
            run: injection::every_type,
        },
        Test {
            name: "nmi-blocking",
            run: injection::nmi_blocking,
        },
        Test {
            name: "idt-hole",
            run: vectoring::idt_hole,
        },
        Test {
            name: "stack-hole",
            run: vectoring::stack_hole,
        },
        Test {
            name: "l2-event-hole",
            run: vectoring::own_events,
        },
        Test {
            name: "windows",
            run: interrupts::windows,
        },
        Test {
            name: "l1-interrupt",
            run: interrupts::pending,
        },
        Test {
            name: "l1-timer",
            run: interrupts::while_spinning,
        },
        Test {
            name: "l1-interrupt-to-l2",
            run: interrupts::to_l2,
        },
        Test {
            name: "l1-nmi",
            run: interrupts::nmi,
        },
        Test {
            name: "hlt",
            run: interrupts::hlt,
        },
        Test {
            name: "tsc",
            run: time::offset,
        },
        Test {
            name: "tsc-scale",
            run: time::scale,
        },
        Test {
            name: "tsc-written",
            run: time::written,
        },
    ],
};

/// Enters `l2` and reports unless it exits for `reason`. Returns whether it did.
fn expect(check: &Check, name: &str, l2: &mut L2, reason: BasicExitReason) -> bool {
    let outcome = l2.run();
    check.equal(name, outcome, Outcome::exit(reason));
    outcome == Outcome::exit(reason)
}

/// As [`expect`], with the exit qualification.
fn expect_qualified(
    check: &Check,
    name: &str,
    l2: &mut L2,
    reason: BasicExitReason,
    qualification: u64,
) -> bool {
    let came = expect(check, name, l2, reason);
    if came {
        check.equal(
            format_args!("{name}: qualification"),
            l2.get(Field::EXIT_QUALIFICATION),
            qualification,
        );
    }
    came
}
