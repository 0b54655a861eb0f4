//! Each bit of each control word: what is offered can be set, and what is not gives VMfail(7).

use ::vmx::{Allowed, Capabilities, Field};

use crate::rt::harness::Check;
use crate::rt::memory;
use crate::vm::guest::code;
use crate::vm::{L2, Outcome};

/// Sets what a control needs besides itself.
type Prepare = fn(&L2, u32);

/// Goes through the bits of one word. `ignored` are bits that mean something only in SMM.
fn word(
    check: &Check,
    field: Field,
    allowed: fn(&Capabilities) -> Allowed,
    ignored: u32,
    prepare: Prepare,
) {
    let mark = memory::mark();
    for bit in 0..32 {
        memory::release(mark);
        crate::vm::operation::leave();
        let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
        let allowed = allowed(&l2.caps);
        let mask = 1u32 << bit;
        if allowed.may_be_one() & mask == 0 {
            prepare(&l2, bit);
            l2.add(field, u64::from(mask));
            check.equal(
                format_args!("bit {bit} is not offered"),
                l2.run(),
                Outcome::FailValid(7),
            );
        } else if ignored & mask == 0 {
            prepare(&l2, bit);
            l2.add(field, u64::from(mask));
            let outcome = l2.run();
            let entered = matches!(outcome, Outcome::Exit(reason) if reason >> 31 == 0);
            check.that(
                format_args!("bit {bit} is offered"),
                entered,
                format_args!("{outcome:?}"),
            );
        }
        if allowed.must_be_one() & mask != 0 {
            memory::release(mark);
            crate::vm::operation::leave();
            let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
            l2.modify(field, 0, u64::from(mask));
            check.equal(
                format_args!("bit {bit} must be 1"),
                l2.run(),
                Outcome::FailValid(7),
            );
        }
    }
}

/// Stores into a field that exists only with some controls.
fn set_if_there(l2: &L2, field: Field, value: u64) {
    let is_there = if l2.is_enlightened() {
        tlfs::evmcs::slot(field.encoding()).is_some()
    } else {
        crate::vm::instruction::vmread(field).is_ok()
    };
    if is_there {
        l2.set(field, value);
    }
}

/// A fresh page into an address field.
fn give_page(l2: &L2, field: Field) {
    set_if_there(l2, field, memory::page());
}

/// Pin-based controls.
pub fn pin(check: &Check) {
    word(
        check,
        Field::PIN_BASED_CONTROLS,
        |caps| caps.true_pin,
        0,
        |l2, bit| match bit {
            5 => l2.add(Field::PIN_BASED_CONTROLS, 1 << 3),
            7 => {
                l2.add(Field::PIN_BASED_CONTROLS, 1);
                l2.add(Field::EXIT_CONTROLS, 1 << 15);
            }
            _ => {}
        },
    );
}

/// Primary processor-based controls.
pub fn primary(check: &Check) {
    word(
        check,
        Field::PRIMARY_CONTROLS,
        |caps| caps.true_primary,
        0,
        |l2, bit| match bit {
            2 => l2.add(Field::GUEST_RFLAGS, 1 << 9),
            21 => {
                give_page(l2, Field::VIRTUAL_APIC_ADDRESS);
                set_if_there(l2, Field::TPR_THRESHOLD, 0);
            }
            22 => l2.add(Field::PIN_BASED_CONTROLS, 1 << 3 | 1 << 5),
            25 => {
                give_page(l2, Field::IO_BITMAP_A);
                give_page(l2, Field::IO_BITMAP_B);
            }
            28 => give_page(l2, Field::MSR_BITMAP),
            _ => {}
        },
    );
}

/// Secondary processor-based controls.
pub fn secondary(check: &Check) {
    word(
        check,
        Field::SECONDARY_CONTROLS,
        |caps| caps.secondary,
        0,
        |l2, bit| {
            l2.add(Field::PRIMARY_CONTROLS, 1 << 31);
            match bit {
                0 => give_page(l2, Field::APIC_ACCESS_ADDRESS),
                4 | 8 | 9 => {
                    l2.add(Field::PRIMARY_CONTROLS, 1 << 21);
                    give_page(l2, Field::VIRTUAL_APIC_ADDRESS);
                    set_if_there(l2, Field::TPR_THRESHOLD, 0);
                    if bit == 9 {
                        l2.add(Field::PIN_BASED_CONTROLS, 1);
                    }
                }
                5 => l2.set(Field::VPID, 1),
                13 => set_if_there(l2, Field::VMFUNC_CONTROLS, 0),
                14 => {
                    give_page(l2, Field::VMREAD_BITMAP);
                    give_page(l2, Field::VMWRITE_BITMAP);
                }
                17 => give_page(l2, Field::PML_ADDRESS),
                18 => give_page(l2, Field::VE_INFORMATION_ADDRESS),
                20 => set_if_there(l2, Field::XSS_EXITING_BITMAP, 0),
                25 => set_if_there(l2, Field::TSC_MULTIPLIER, 1 << 48),
                _ => {}
            }
        },
    );
}

/// VM-exit controls.
pub fn exit(check: &Check) {
    word(
        check,
        Field::EXIT_CONTROLS,
        |caps| caps.true_exit,
        0,
        |l2, bit| match bit {
            12 => set_if_there(l2, Field::HOST_PERF_GLOBAL_CTRL, 0),
            22 => l2.add(Field::PIN_BASED_CONTROLS, 1 << 6),
            _ => {}
        },
    );
}

/// VM-entry controls.
pub fn entry(check: &Check) {
    // Entry to SMM and deactivation of the dual monitor treatment belong to SMM.
    let smm = 1 << 10 | 1 << 11;
    word(
        check,
        Field::ENTRY_CONTROLS,
        |caps| caps.true_entry,
        smm,
        |l2, bit| match bit {
            13 => set_if_there(l2, Field::GUEST_PERF_GLOBAL_CTRL, 0),
            16 => set_if_there(l2, Field::GUEST_BNDCFGS, 0),
            18 => set_if_there(l2, Field::GUEST_RTIT_CTL, 0),
            _ => {}
        },
    );
}
