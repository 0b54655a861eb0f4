//! The fixed bits of CR0 and CR4 in VMX operation.

use ::vmx::Field;

use super::INVALID_GUEST;
use crate::groups::audit::walk::{Exercise, Verdict, Word, ends, fact, faults, holds, walk};
use crate::rt::cpu;
use crate::rt::fault::Fault;
use crate::rt::harness::Check;
use crate::vm::guest::code;
use crate::vm::{L2, Outcome, operation};

/// CR0.PE and CR0.PG: in long mode neither can be cleared in any case.
const PE_PG: u64 = 1 | 1 << 31;

/// All four MSRs.
pub fn all(check: &Check) {
    let caps = operation::capabilities();
    walk(
        check,
        &Word {
            register: "IA32_VMX_CR0_FIXED0",
            value: caps.cr0_fixed0,
            facts: 0,
            exercise: |_| {
                Some(Exercise::bit_works(
                    "cannot be cleared, L2's state is invalid",
                    |bit| {
                        operation::enter();
                        faults(
                            "clearing it",
                            cpu::set_cr0(cpu::cr0() & !(1 << bit)),
                            Fault::GP,
                        )?;
                        if PE_PG >> bit & 1 != 0 {
                            // An unrestricted guest may have these clear.
                            return Ok(());
                        }
                        let mut l2 = L2::new(code!("vmcall"));
                        l2.modify(Field::GUEST_CR0, 0, 1 << bit);
                        ends("an L2 without it", l2.run(), INVALID_GUEST)
                    },
                ))
            },
        },
    );
    fact(
        check,
        "IA32_VMX_CR0_FIXED1",
        (0, 31),
        "all that CR0 has",
        || {
            let caps = operation::capabilities();
            let defined = 0xe005_003fu64;
            holds(defined & !caps.cr0_fixed1 == 0, "a bit may not be set")?;
            holds(
                caps.cr0_fixed0 & !caps.cr0_fixed1 == 0,
                "a bit must be both",
            )
        },
    );
    walk(
        check,
        &Word {
            register: "IA32_VMX_CR0_FIXED1",
            value: caps.cr0_fixed1,
            facts: 0xffff_ffff,
            exercise: |_| {
                Some(Exercise::default().or_bit_refused("gives #GP", |bit| {
                    operation::enter();
                    faults("setting it", cpu::set_cr0(cpu::cr0() | 1 << bit), Fault::GP)
                }))
            },
        },
    );
    walk(
        check,
        &Word {
            register: "IA32_VMX_CR4_FIXED0",
            value: caps.cr4_fixed0,
            facts: 0,
            exercise: |_| {
                Some(Exercise::bit_works(
                    "cannot be cleared, L2's state is invalid",
                    |bit| {
                        operation::enter();
                        faults(
                            "clearing it",
                            cpu::set_cr4(cpu::cr4() & !(1 << bit)),
                            Fault::GP,
                        )?;
                        let mut l2 = L2::new(code!("vmcall"));
                        l2.modify(Field::GUEST_CR4, 0, 1 << bit);
                        ends("an L2 without it", l2.run(), INVALID_GUEST)
                    },
                ))
            },
        },
    );
    walk(
        check,
        &Word {
            register: "IA32_VMX_CR4_FIXED1",
            value: caps.cr4_fixed1,
            facts: 0,
            exercise: |_| {
                Some(
                    Exercise::bit_works("an L2 with it is entered", cr4_entered)
                        .or_bit_refused("gives #GP, L2's state is invalid", cr4_refused),
                )
            },
        },
    );
}

fn l2_with_cr4(bit: u32) -> L2 {
    let l2 = L2::new(code!("vmcall"));
    // What L2 does with it is another matter: SMEP and SMAP forbid it its own code.
    l2.set(Field::EXCEPTION_BITMAP, 1 << 14);
    l2.add(Field::GUEST_CR4, 1 << bit);
    l2
}

fn cr4_entered(bit: u32) -> Verdict {
    let outcome = l2_with_cr4(bit).run();
    match outcome {
        Outcome::Exit(reason) if reason >> 31 == 0 => Ok(()),
        other => ends("an L2 with it", other, Outcome::Success),
    }
}

fn cr4_refused(bit: u32) -> Verdict {
    operation::enter();
    faults("setting it", cpu::set_cr4(cpu::cr4() | 1 << bit), Fault::GP)?;
    ends("an L2 with it", l2_with_cr4(bit).run(), INVALID_GUEST)
}
