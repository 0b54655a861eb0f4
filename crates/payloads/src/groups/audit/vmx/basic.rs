//! IA32_VMX_BASIC, IA32_VMX_MISC, IA32_VMX_VMCS_ENUM, IA32_VMX_VMFUNC, and the capability words
//! without TRUE in their names.

use ::vmx::{Allowed, BasicExitReason as Reason, Field, InterruptionInfo, msr};

use super::{Find, INVALID_CONTROLS, INVALID_GUEST};
use crate::groups::audit::walk::{
    Exercise, Fact, Verdict, Word, announce, ends, equal, exits, fact, faults, holds, walk, works,
};
use crate::rt::apic::{self, register, timer};
use crate::rt::fault::Fault;
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, instruction, operation};

/// All of them.
pub fn all(check: &Check) {
    let caps = operation::capabilities();
    const NAMES: [(&str, u32); 18] = [
        ("IA32_VMX_BASIC", msr::VMX_BASIC),
        ("IA32_VMX_PINBASED_CTLS", msr::VMX_PINBASED_CTLS),
        ("IA32_VMX_PROCBASED_CTLS", msr::VMX_PROCBASED_CTLS),
        ("IA32_VMX_EXIT_CTLS", msr::VMX_EXIT_CTLS),
        ("IA32_VMX_ENTRY_CTLS", msr::VMX_ENTRY_CTLS),
        ("IA32_VMX_MISC", msr::VMX_MISC),
        ("IA32_VMX_CR0_FIXED0", msr::VMX_CR0_FIXED0),
        ("IA32_VMX_CR0_FIXED1", msr::VMX_CR0_FIXED1),
        ("IA32_VMX_CR4_FIXED0", msr::VMX_CR4_FIXED0),
        ("IA32_VMX_CR4_FIXED1", msr::VMX_CR4_FIXED1),
        ("IA32_VMX_VMCS_ENUM", msr::VMX_VMCS_ENUM),
        ("IA32_VMX_PROCBASED_CTLS2", msr::VMX_PROCBASED_CTLS2),
        ("IA32_VMX_EPT_VPID_CAP", msr::VMX_EPT_VPID_CAP),
        ("IA32_VMX_TRUE_PINBASED_CTLS", msr::VMX_TRUE_PINBASED_CTLS),
        ("IA32_VMX_TRUE_PROCBASED_CTLS", msr::VMX_TRUE_PROCBASED_CTLS),
        ("IA32_VMX_TRUE_EXIT_CTLS", msr::VMX_TRUE_EXIT_CTLS),
        ("IA32_VMX_TRUE_ENTRY_CTLS", msr::VMX_TRUE_ENTRY_CTLS),
        ("IA32_VMX_VMFUNC", msr::VMX_VMFUNC),
    ];
    for (name, index) in NAMES {
        if let Ok(value) = cpu::rdmsr(index) {
            announce(check, name, value);
        }
    }
    walk(
        check,
        &Word {
            register: "IA32_VMX_BASIC",
            value: caps.basic,
            facts: 0x7fff_ffff | 0x1fff << 32 | 0xf << 50,
            exercise: basic_bit,
        },
    );
    fact(
        check,
        "IA32_VMX_BASIC",
        (0, 30),
        "VMPTRLD takes this revision only",
        revision,
    );
    fact(
        check,
        "IA32_VMX_BASIC",
        (32, 44),
        "at most a page, and room for an eVMCS",
        size,
    );
    fact(check, "IA32_VMX_BASIC", (50, 53), "write-back", || {
        equal("the type", operation::capabilities().basic >> 50 & 15, 6u64)
    });
    walk(
        check,
        &Word {
            register: "IA32_VMX_MISC",
            value: caps.misc,
            facts: 0x1f | 0x1ff << 16 | 7 << 25 | u64::MAX << 32,
            exercise: misc_bit,
        },
    );
    fact(
        check,
        "IA32_VMX_MISC",
        (16, 24),
        "no CR3 target more than there are",
        cr3_targets,
    );
    fact(
        check,
        "IA32_VMX_MISC",
        (25, 27),
        "an MSR list as long as recommended",
        msr_list,
    );
    fact(
        check,
        "IA32_VMX_MISC",
        (32, 63),
        "no MSEG, for there is no SMM",
        || equal("the revision", operation::capabilities().misc >> 32, 0u64),
    );
    fact(
        check,
        "IA32_VMX_VMCS_ENUM",
        (1, 9),
        "no field has a higher index",
        enumerated,
    );
    walk(
        check,
        &Word {
            register: "IA32_VMX_VMFUNC",
            value: caps.vmfunc,
            facts: 0,
            exercise: |bit| {
                (bit == 0).then_some(Exercise::refused("the MSR is none", || {
                    faults("RDMSR", cpu::rdmsr(msr::VMX_VMFUNC), Fault::GP)
                }))
            },
        },
    );
    let whole = (0, 63);
    let how = "the TRUE word and the default1 class";
    let words: [Fact; 4] = [
        ("IA32_VMX_PINBASED_CTLS", whole, how, || {
            let caps = operation::capabilities();
            agrees(caps.pin, caps.true_pin, 0x16)
        }),
        ("IA32_VMX_PROCBASED_CTLS", whole, how, || {
            let caps = operation::capabilities();
            agrees(caps.primary, caps.true_primary, 0x0401_e172)
        }),
        ("IA32_VMX_EXIT_CTLS", whole, how, || {
            let caps = operation::capabilities();
            agrees(caps.exit, caps.true_exit, 0x0003_6dff)
        }),
        ("IA32_VMX_ENTRY_CTLS", whole, how, || {
            let caps = operation::capabilities();
            agrees(caps.entry, caps.true_entry, 0x0000_11ff)
        }),
    ];
    for (register, bits, how, run) in words {
        fact(check, register, bits, how, run);
    }
}

/// A word without TRUE says the same as the TRUE one, but that all of its default1 class must be 1.
fn agrees(plain: Allowed, with_true: Allowed, default1: u32) -> Verdict {
    equal("what may be 1", plain.may_be_one(), with_true.may_be_one())?;
    equal("what must be 1", plain.must_be_one(), default1)?;
    equal(
        "TRUE's beyond it",
        with_true.must_be_one() & !default1,
        0u32,
    )
}

fn basic_bit(bit: u32) -> Find {
    match bit {
        48 => Some(Exercise::refused(
            "addresses of more than 32 bits are accepted",
            || {
                // The region that is beyond memory is refused for that, not for its width.
                operation::enter();
                let outcome = instruction::vmptrld(1 << cpu::physical_bits());
                ends("VMPTRLD beyond the width", outcome, Outcome::FailInvalid)
            },
        )),
        54 => Some(Exercise::works("OUTS tells its operand", outs_information)),
        55 => Some(Exercise::works("the four MSRs can be read", || {
            for index in msr::VMX_TRUE_PINBASED_CTLS..=msr::VMX_TRUE_ENTRY_CTLS {
                works("RDMSR", cpu::rdmsr(index))?;
            }
            Ok(())
        })),
        56 => Some(Exercise::refused(
            "an exception without its error code is VMfail(7)",
            || {
                let mut l2 = L2::new(code!("vmcall"));
                // #GP, hardware exception, without the error code that it has.
                l2.set(Field::ENTRY_INTERRUPTION_INFO, 1 << 31 | 3 << 8 | 13);
                ends("the entry", l2.run(), INVALID_CONTROLS)
            },
        )),
        _ => None,
    }
}

fn revision() -> Verdict {
    operation::enter();
    let region = operation::region();
    ends("VMPTRLD", instruction::vmptrld(region), Outcome::Success)?;
    let other = operation::region();
    memory::write(other, operation::capabilities().revision() ^ 2);
    ends(
        "VMPTRLD of another",
        instruction::vmptrld(other),
        Outcome::FailValid(11),
    )
}

fn size() -> Verdict {
    let size = operation::capabilities().vmcs_size();
    holds((0x400..=0x1000).contains(&size), "another size")
}

fn outs_information() -> Verdict {
    let mut l2 = L2::new(code!("mov dx, 0x80", "outsb"));
    l2.add(Field::PRIMARY_CONTROLS, 1 << 24);
    let page = memory::page();
    l2.registers[reg::RSI] = page;
    exits("OUTSB", l2.run(), Reason::IoInstruction)?;
    equal(
        "the linear address",
        l2.get(Field::GUEST_LINEAR_ADDRESS),
        page,
    )?;
    let info = l2.get(Field::EXIT_INSTRUCTION_INFO);
    equal("the address size", info >> 7 & 7, 2u64)?;
    equal("the segment", info >> 15 & 7, 3u64)
}

fn misc_bit(bit: u32) -> Find {
    match bit {
        5 => Some(Exercise::works(
            "an exit stores EFER.LMA in the entry control",
            || {
                let mut l2 = L2::new(code!("vmcall"));
                exits("the entry", l2.run(), Reason::Vmcall)?;
                equal("the control", l2.get(Field::ENTRY_CONTROLS) >> 9 & 1, 1u64)
            },
        )),
        6 => Some(
            Exercise::works("an L2 entered halted is woken", activity_hlt)
                .or_refused("the state is invalid", || activity(1)),
        ),
        7 => Some(Exercise::refused("the state is invalid", || activity(2))),
        8 => Some(Exercise::refused("the state is invalid", || activity(3))),
        15 => Some(Exercise::refused("IA32_SMBASE is no MSR", || {
            faults("RDMSR", cpu::rdmsr(0x9e), Fault::GP)
        })),
        28 => Some(Exercise::refused("IA32_SMM_MONITOR_CTL refuses", || {
            faults("WRMSR", cpu::wrmsr(0x9b, 4), Fault::GP)
        })),
        29 => Some(
            Exercise::works("VMWRITE of exit information", || {
                write_exit_info(Outcome::Success)
            })
            .or_refused("VMWRITE of it is VMfail(13)", || {
                write_exit_info(Outcome::FailValid(13))
            }),
        ),
        30 => Some(
            Exercise::works("INT n is injected with length 0", || {
                let mut l2 = zero_length();
                super::takes(&mut l2, "the entry", 0x40)
            })
            .or_refused("INT n with length 0 is VMfail(7)", || {
                ends("the entry", zero_length().run(), INVALID_CONTROLS)
            }),
        ),
        _ => None,
    }
}

/// An L2 entered in an activity state that there is not.
fn activity(state: u64) -> Verdict {
    let mut l2 = L2::new(code!("vmcall"));
    l2.set(Field::GUEST_ACTIVITY_STATE, state);
    ends("the entry", l2.run(), INVALID_GUEST)
}

fn activity_hlt() -> Verdict {
    let mut l2 = L2::new(code!("vmcall"));
    l2.add(Field::PIN_BASED_CONTROLS, 1);
    l2.set(Field::GUEST_ACTIVITY_STATE, 1);
    apic::write(register::DIVIDE, timer::DIVIDE_BY_1);
    apic::write(register::LVT_TIMER, timer::ONE_SHOT | 0x62);
    apic::write(register::INITIAL_COUNT, 300_000);
    exits(
        "halted until the timer",
        l2.run(),
        Reason::ExternalInterrupt,
    )?;
    cpu::interrupt_window();
    equal("the state", l2.get(Field::GUEST_ACTIVITY_STATE), 1u64)
}

fn write_exit_info(expected: Outcome) -> Verdict {
    operation::enter();
    let _ = instruction::vmptrld(operation::region());
    ends(
        "VMWRITE",
        instruction::vmwrite(Field::EXIT_REASON, 5),
        expected,
    )
}

fn zero_length() -> L2 {
    let l2 = L2::new(code!("vmcall"));
    let info = InterruptionInfo::new(::vmx::EventType::SoftwareInterrupt, 0x40);
    l2.set(Field::ENTRY_INTERRUPTION_INFO, u64::from(info.raw()));
    l2.set(Field::ENTRY_INSTRUCTION_LENGTH, 0);
    l2
}

fn cr3_targets() -> Verdict {
    let count = operation::capabilities().misc >> 16 & 0x1ff;
    let mut l2 = L2::new(code!("vmcall"));
    l2.set(Field::CR3_TARGET_COUNT, count);
    exits("as many as there are", l2.run(), Reason::Vmcall)?;
    l2.set(Field::CR3_TARGET_COUNT, count + 1);
    ends("one more", l2.run(), INVALID_CONTROLS)
}

fn msr_list() -> Verdict {
    let count = 512 * ((operation::capabilities().misc >> 25 & 7) + 1);
    let list = memory::pages(count as usize * 16 / 4096, 1);
    for i in 0..count {
        memory::write(list + 16 * i, u64::from(cpu::MSR_KERNEL_GS_BASE));
        memory::write(list + 16 * i + 8, i);
    }
    let mut l2 = L2::new(code!("vmcall"));
    l2.set(Field::EXIT_MSR_LOAD_ADDRESS, list);
    l2.set(Field::EXIT_MSR_LOAD_COUNT, count);
    exits("the entry", l2.run(), Reason::Vmcall)?;
    let last = cpu::msr(cpu::MSR_KERNEL_GS_BASE);
    let _ = cpu::wrmsr(cpu::MSR_KERNEL_GS_BASE, 0);
    equal("the last of the list", last, count - 1)
}

fn enumerated() -> Verdict {
    operation::enter();
    let _ = instruction::vmptrld(operation::region());
    let highest = operation::capabilities().vmcs_enum >> 1 & 0x1ff;
    let indices = Field::ALL
        .iter()
        .filter(|field| instruction::vmread(**field).is_ok())
        .map(|field| u64::from(field.index()));
    equal("the highest there is", indices.max().unwrap_or(0), highest)
}
