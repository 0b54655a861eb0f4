//! The audit: what is advertised works, and what is not advertised is refused.
//!
//! Every bit of every word that L1 is shown - CPUID, the VMX capability MSRs, the Hv#1 leaves - is
//! put to what it promises; a bit without an exercise here fails for want of one. What is a number
//! rather than a feature is checked for consistency.

mod cpuid;
mod hv;
mod vmx;
mod walk;

use crate::rt::harness::{Group, Test};
use crate::vm::operation;

/// The group. It runs only where it is asked for.
pub const GROUP: Group = Group {
    name: "audit",
    reset: operation::leave,
    tests: &[
        Test {
            name: "cpuid-features",
            run: cpuid::features,
        },
        Test {
            name: "cpuid-facts",
            run: cpuid::facts,
        },
        Test {
            name: "vmx-basic",
            run: vmx::basic,
        },
        Test {
            name: "vmx-controls",
            run: vmx::controls,
        },
        Test {
            name: "vmx-ept",
            run: vmx::ept,
        },
        Test {
            name: "vmx-registers",
            run: vmx::registers,
        },
        Test {
            name: "hv-leaves",
            run: hv::leaves,
        },
        Test {
            name: "hv-privileges",
            run: hv::privileges,
        },
        Test {
            name: "hv-recommendations",
            run: hv::recommendations,
        },
        Test {
            name: "hv-nested",
            run: hv::nested,
        },
        Test {
            name: "last-hv-reset",
            run: hv::last_reset,
        },
        Test {
            name: "last-hv-crash",
            run: hv::last_crash,
        },
    ],
};
