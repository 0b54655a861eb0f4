//! Each VMX instruction's faults and failures, and the capability MSRs.

mod capability;
mod controls;
mod fields;
mod invalidation;
mod launch;
mod operands;
mod operation;
mod permission;
mod pointers;

use crate::rt::harness::{Group, Test};
use crate::vm;

/// The group.
pub const GROUP: Group = Group {
    name: "vmx",
    reset: vm::operation::leave,
    tests: &[
        Test {
            name: "outside",
            run: permission::outside,
        },
        Test {
            name: "compatibility",
            run: permission::compatibility,
        },
        Test {
            name: "ring3",
            run: permission::ring3,
        },
        Test {
            name: "vmxon",
            run: operation::vmxon,
        },
        Test {
            name: "fixed-bits",
            run: operation::fixed_bits,
        },
        Test {
            name: "vmclear",
            run: pointers::vmclear,
        },
        Test {
            name: "vmptrld",
            run: pointers::vmptrld,
        },
        Test {
            name: "vmptrst",
            run: pointers::vmptrst,
        },
        Test {
            name: "several",
            run: pointers::several,
        },
        Test {
            name: "no-current",
            run: fields::no_current,
        },
        Test {
            name: "unsupported",
            run: fields::unsupported,
        },
        Test {
            name: "read-only",
            run: fields::read_only,
        },
        Test {
            name: "widths",
            run: fields::widths,
        },
        Test {
            name: "enumerated",
            run: fields::enumerated,
        },
        Test {
            name: "addressing",
            run: operands::addressing,
        },
        Test {
            name: "registers",
            run: operands::registers,
        },
        Test {
            name: "operand-faults",
            run: operands::faults,
        },
        Test {
            name: "launch-state",
            run: launch::state,
        },
        Test {
            name: "mov-ss",
            run: launch::mov_ss,
        },
        Test {
            name: "invept",
            run: invalidation::invept,
        },
        Test {
            name: "invvpid",
            run: invalidation::invvpid,
        },
        Test {
            name: "msrs",
            run: capability::msrs,
        },
        Test {
            name: "consistency",
            run: capability::consistency,
        },
        Test {
            name: "pin-bits",
            run: controls::pin,
        },
        Test {
            name: "primary-bits",
            run: controls::primary,
        },
        Test {
            name: "secondary-bits",
            run: controls::secondary,
        },
        Test {
            name: "exit-bits",
            run: controls::exit,
        },
        Test {
            name: "entry-bits",
            run: controls::entry,
        },
    ],
};
