//! A partition that is saved and restored at every stage of an L2's life. Each save ends the run; what
//! is looked at afterwards happens in a run that has restored it.
//!
//! Where nothing takes the request for a save the same is true at once: the group runs on any machine.

mod alone;
mod pair;
mod record;
mod stages;

use crate::rt::cpu;
use crate::rt::harness::{Check, Group, Test};
use crate::vm::operation;

/// The group.
pub const GROUP: Group = Group {
    name: "saving",
    reset: operation::leave,
    tests: &[
        Test {
            name: "no-vmcs",
            run: alone::no_vmcs,
        },
        Test {
            name: "between-runs",
            run: alone::between_runs,
        },
        Test {
            name: "running",
            run: pair::running,
        },
    ],
};

/// The port at which L1 asks to be saved, and what it writes there.
const PORT: u16 = 0x5c0;
const SAVE: u32 = u32::from_le_bytes(*b"SAVE");

/// Has the partition saved at `stage`. Returns in the restored one.
fn save(check: &Check, stage: &str) {
    check.note(format_args!("saved {stage}"));
    cpu::out32(PORT, SAVE);
}
