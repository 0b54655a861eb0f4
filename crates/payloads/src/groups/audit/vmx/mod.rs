//! The VMX capability MSRs (SDM vol. 3, appendix A).

mod basic;
mod ept;
mod execution;
mod registers;
mod secondary;
mod transitions;

use ::vmx::{Allowed, BasicExitReason as Reason, Field, PrimaryControls};

use super::walk::{Exercise, Problem, Verdict, Word, ends, equal, exits, walk};
use crate::rt::harness::Check;
use crate::rt::memory;
use crate::vm::guest::{self, code};
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, operation};

pub use basic::all as basic;
pub use ept::all as ept;
pub use registers::all as registers;

type Find = Option<Exercise>;

/// VMfail with the number for invalid controls.
const INVALID_CONTROLS: Outcome = Outcome::FailValid(7);
/// A VM entry that fails for the guest's state.
const INVALID_GUEST: Outcome = Outcome::entry_failure(Reason::InvalidGuestState);
/// #UD's vector.
const UD: u8 = 6;

/// What may be 1 of a control word, and what must be, by what may not be 0.
fn word<const FIELD: u32>(
    check: &Check,
    names: [&'static str; 2],
    allowed: Allowed,
    exercise: fn(u32) -> Find,
) {
    const HIGH: u64 = u64::MAX << 32;
    let must = u64::from(allowed.must_be_one());
    let value = u64::from(allowed.may_be_one());
    walk(
        check,
        &Word {
            register: names[0],
            value,
            // What must be 1 is no choice, and has a table of its own.
            facts: must | HIGH,
            exercise,
        },
    );
    walk(
        check,
        &Word {
            register: names[1],
            value: must,
            facts: HIGH,
            exercise: |_| {
                Some(Exercise::bit_works(
                    "VMfail(7) with 0",
                    must_be_one::<FIELD>,
                ))
            },
        },
    );
}

/// Every control of every word.
pub fn controls(check: &Check) {
    let caps = operation::capabilities();
    word::<0x4000>(
        check,
        ["pin-based controls", "pin-based controls, 1"],
        caps.true_pin,
        execution::pin,
    );
    word::<0x4002>(
        check,
        ["primary controls", "primary controls, 1"],
        caps.true_primary,
        execution::primary,
    );
    word::<0x401e>(
        check,
        ["secondary controls", "secondary controls, 1"],
        caps.secondary,
        secondary::secondary,
    );
    word::<0x400c>(
        check,
        ["exit controls", "exit controls, 1"],
        caps.true_exit,
        transitions::exit,
    );
    word::<0x4012>(
        check,
        ["entry controls", "entry controls, 1"],
        caps.true_entry,
        transitions::entry,
    );
}

/// An L2 with `bits` of a control word set, and the secondary controls in use if it is theirs.
fn l2_with(field: Field, bits: u64, code: u64) -> L2 {
    let l2 = L2::new(code);
    l2.use_primary(PrimaryControls::ACTIVATE_SECONDARY);
    l2.add(field, bits);
    l2
}

/// A control that is not offered, set.
fn not_offered<const FIELD: u32>(bit: u32) -> Verdict {
    let mut l2 = l2_with(Field::from_encoding(FIELD), 1 << bit, code!("vmcall"));
    ends("an entry with it", l2.run(), INVALID_CONTROLS)
}

/// A control that must be 1, clear.
fn must_be_one<const FIELD: u32>(bit: u32) -> Verdict {
    let mut l2 = L2::new(code!("vmcall"));
    l2.modify(Field::from_encoding(FIELD), 0, 1 << bit);
    ends("an entry without it", l2.run(), INVALID_CONTROLS)
}

/// L2 exits for `reason` with the control, and without it goes on to its VMCALL. RDI points to a
/// page of L2's own; other registers are 0.
fn makes_exit(field: Field, bit: u32, code: u64, reason: Reason) -> Verdict {
    let mut l2 = l2_with(field, 1 << bit, code);
    l2.registers[reg::RDI] = memory::page();
    exits("with it", l2.run(), reason)?;
    l2.modify(field, 0, 1 << bit);
    exits("without it", l2.run(), Reason::Vmcall)?;
    equal("L2's own exceptions", is_in_handler(&l2), false)
}

/// L2 has taken an exception or interrupt with this vector.
fn takes(l2: &mut L2, what: &'static str, vector: u8) -> Verdict {
    let outcome = l2.run();
    exits(what, outcome, Reason::Vmcall)?;
    match guest::vector_at(l2.get(Field::GUEST_RIP)) {
        Some(came) => equal("the vector", came, vector),
        None => Err(Problem::Says("L2 takes no exception")),
    }
}

/// Whether L2 stands at the beginning of a handler.
fn is_in_handler(l2: &L2) -> bool {
    guest::vector_at(l2.get(Field::GUEST_RIP)).is_some()
}

/// Opens every MSR to L2.
fn open_msrs(l2: &L2) -> u64 {
    let bitmap = memory::page();
    l2.set(Field::MSR_BITMAP, bitmap);
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS);
    bitmap
}
