//! VM-exit and VM-entry controls: what is loaded and saved with each, and what without.

use ::vmx::{BasicExitReason as Reason, Field};

use super::{Find, INVALID_GUEST, l2_with, not_offered, open_msrs};
use crate::groups::audit::walk::{Exercise, Verdict, ends, equal, exits};
use crate::rt::apic;
use crate::rt::cpu::{self, RFLAGS_IF};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome};

const EXIT: Field = Field::EXIT_CONTROLS;
const ENTRY: Field = Field::ENTRY_CONTROLS;
const VECTOR: u8 = 0x63;

/// VM-exit controls.
pub fn exit(bit: u32) -> Find {
    let exercise = match bit {
        2 => Exercise::works("L2's DR7 is saved, else not", save_debug),
        9 => Exercise::works("in use; VMfail(8) without", host_64_bit),
        12 => Exercise::works("L1's value is loaded", load_perf),
        15 => Exercise::works(
            "the vector is told and in service, else pending",
            acknowledge,
        ),
        18 => Exercise::works("L2's PAT is saved, else not", save_pat),
        19 => Exercise::works("L1's PAT is loaded, else L2's stays", load_pat),
        20 => Exercise::works("L2's EFER is saved, else not", save_efer),
        21 => Exercise::works("L1's EFER is loaded, else L2's SCE stays", load_efer),
        _ => Exercise::default(),
    };
    Some(exercise.or_bit_refused("VMfail(7)", not_offered::<0x400c>))
}

/// VM-entry controls.
pub fn entry(bit: u32) -> Find {
    let exercise = match bit {
        2 => Exercise::works("DR7 is loaded, else L1's stays", enter_debug),
        9 => Exercise::works("64-bit code runs; its state is invalid without", ia32e),
        13 => Exercise::works("the value is loaded", enter_perf),
        14 => Exercise::works("PAT is loaded, else L1's stays", enter_pat),
        15 => Exercise::works("EFER is loaded, else L1's SCE stays", enter_efer),
        _ => Exercise::default(),
    };
    Some(exercise.or_bit_refused("VMfail(7)", not_offered::<0x4012>))
}

/// Enters twice, with the bit of the word and without, and has `look` look each time; it is told
/// whether the bit was set.
fn both(
    field: Field,
    bit: u32,
    code: u64,
    prepare: impl Fn(&L2),
    mut look: impl FnMut(&mut L2, bool) -> Verdict,
) -> Verdict {
    let mut l2 = l2_with(field, 0, code);
    open_msrs(&l2);
    for with in [true, false] {
        if with {
            l2.add(field, 1 << bit);
        } else {
            l2.modify(field, 0, 1 << bit);
        }
        l2.set_code(code);
        prepare(&l2);
        exits("the entry", l2.run(), Reason::Vmcall)?;
        look(&mut l2, with)?;
    }
    Ok(())
}

fn save_debug() -> Verdict {
    let code = code!("mov eax, 0x455", "mov dr7, rax", "vmcall");
    // The two go together as KVM has them: what is saved was loaded.
    let prepare = |l2: &L2| {
        l2.add(ENTRY, 1 << 2);
        l2.set(Field::GUEST_DR7, 0x400);
    };
    both(EXIT, 2, code, prepare, |l2, with| {
        let expected = if with { 0x455u64 } else { 0x400 };
        equal("the field", l2.get(Field::GUEST_DR7), expected)?;
        equal("L1's DR7", cpu::dr7(), 0x400u64)
    })
}

fn host_64_bit() -> Verdict {
    let mut l2 = L2::new(code!("vmcall"));
    exits("with it", l2.run(), Reason::Vmcall)?;
    l2.modify(EXIT, 0, 1 << 9);
    ends("without it", l2.run(), Outcome::FailValid(8))
}

const PERF_GLOBAL_CTRL: u32 = 0x38f;

fn load_perf() -> Verdict {
    let mut l2 = l2_with(EXIT, 1 << 12, code!("vmcall"));
    l2.set(Field::HOST_PERF_GLOBAL_CTRL, 1);
    exits("the entry", l2.run(), Reason::Vmcall)?;
    let value = cpu::msr(PERF_GLOBAL_CTRL);
    let _ = cpu::wrmsr(PERF_GLOBAL_CTRL, 0);
    equal("the MSR", value, 1u64)
}

fn enter_perf() -> Verdict {
    let mut l2 = l2_with(ENTRY, 1 << 13, code!("mov ecx, 0x38f", "rdmsr", "vmcall"));
    open_msrs(&l2);
    l2.set(Field::GUEST_PERF_GLOBAL_CTRL, 1);
    exits("the entry", l2.run(), Reason::Vmcall)?;
    let _ = cpu::wrmsr(PERF_GLOBAL_CTRL, 0);
    equal("what L2 read", l2.registers[reg::RAX], 1u64)
}

fn acknowledge() -> Verdict {
    for with in [true, false] {
        let code = code!("2: pause", "jmp 2b");
        let mut l2 = l2_with(EXIT, u64::from(with) << 15, code);
        l2.add(Field::PIN_BASED_CONTROLS, 1);
        l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
        apic::send_self(VECTOR);
        let outcome = l2.run();
        let (requested, served) = (apic::is_requested(VECTOR), apic::is_in_service(VECTOR));
        if served {
            apic::eoi();
        }
        cpu::interrupt_window();
        exits("an interrupt", outcome, Reason::ExternalInterrupt)?;
        let told = if with {
            0x8000_0000 | u64::from(VECTOR)
        } else {
            0
        };
        let info = l2.get(Field::EXIT_INTERRUPTION_INFO);
        equal(
            "the information",
            if info >> 31 == 0 { 0 } else { info },
            told,
        )?;
        equal("in service", served, with)?;
        equal("still requested", requested, !with)?;
        crate::vm::operation::leave();
    }
    Ok(())
}

/// A PAT that is none of the usual ones.
const ODD_PAT: u64 = 0x0007_0406_0107_0406;

fn save_pat() -> Verdict {
    let code = code!(
        "mov ecx, 0x277",
        "mov eax, 0x01070406",
        "mov edx, 0x00070406",
        "wrmsr",
        "vmcall"
    );
    let own = cpu::msr(cpu::MSR_PAT);
    let prepare = |l2: &L2| {
        l2.add(ENTRY, 1 << 14);
        l2.add(EXIT, 1 << 19);
        l2.set(Field::GUEST_PAT, own);
    };
    both(EXIT, 18, code, prepare, |l2, with| {
        let expected = if with { ODD_PAT } else { own };
        equal("the field", l2.get(Field::GUEST_PAT), expected)
    })
}

fn load_pat() -> Verdict {
    let own = cpu::msr(cpu::MSR_PAT);
    let prepare = |l2: &L2| {
        l2.add(ENTRY, 1 << 14);
        l2.set(Field::GUEST_PAT, own ^ 0x100);
        l2.set(Field::HOST_PAT, ODD_PAT);
    };
    let verdict = both(EXIT, 19, code!("vmcall"), prepare, |_, with| {
        let now = cpu::msr(cpu::MSR_PAT);
        let _ = cpu::wrmsr(cpu::MSR_PAT, own);
        equal("L1's PAT", now, if with { ODD_PAT } else { own ^ 0x100 })
    });
    let _ = cpu::wrmsr(cpu::MSR_PAT, own);
    verdict
}

fn save_efer() -> Verdict {
    let code = code!(
        "mov ecx, 0xC0000080",
        "rdmsr",
        "or eax, 1",
        "wrmsr",
        "vmcall"
    );
    let efer = cpu::msr(cpu::MSR_EFER) & !1;
    let prepare = |l2: &L2| l2.set(Field::GUEST_EFER, efer);
    both(EXIT, 20, code, prepare, |l2, with| {
        equal(
            "the field",
            l2.get(Field::GUEST_EFER),
            efer | u64::from(with),
        )
    })
}

fn load_efer() -> Verdict {
    let efer = cpu::msr(cpu::MSR_EFER) & !1;
    for (host, guest) in [(1, 0), (0, 1)] {
        let prepare = |l2: &L2| {
            l2.set(Field::GUEST_EFER, efer | guest);
            l2.set(Field::HOST_EFER, efer | host);
        };
        let verdict = both(EXIT, 21, code!("vmcall"), prepare, |_, with| {
            let now = cpu::msr(cpu::MSR_EFER);
            let _ = cpu::wrmsr(cpu::MSR_EFER, efer);
            equal("L1's EFER", now, efer | if with { host } else { guest })
        });
        let _ = cpu::wrmsr(cpu::MSR_EFER, efer);
        verdict?;
        crate::vm::operation::leave();
    }
    Ok(())
}

fn enter_debug() -> Verdict {
    let prepare = |l2: &L2| l2.set(Field::GUEST_DR7, 0x455);
    both(
        ENTRY,
        2,
        code!("mov rax, dr7", "vmcall"),
        prepare,
        |l2, with| {
            let expected = if with { 0x455u64 } else { 0x400 };
            equal("L2's DR7", l2.registers[reg::RAX], expected)
        },
    )
}

fn ia32e() -> Verdict {
    let mut l2 = L2::new(code!("mov rax, r8", "vmcall"));
    l2.registers[reg::R8] = 1 << 40;
    exits("with it", l2.run(), Reason::Vmcall)?;
    equal("a 64-bit register", l2.registers[reg::RAX], 1u64 << 40)?;
    l2.modify(ENTRY, 0, 1 << 9);
    ends("without it", l2.run(), INVALID_GUEST)
}

fn enter_pat() -> Verdict {
    let own = cpu::msr(cpu::MSR_PAT);
    let code = code!("mov ecx, 0x277", "rdmsr", "vmcall");
    let prepare = |l2: &L2| {
        l2.add(EXIT, 1 << 19);
        l2.set(Field::GUEST_PAT, ODD_PAT);
    };
    both(ENTRY, 14, code, prepare, |l2, with| {
        let value = l2.registers[reg::RAX] & 0xffff_ffff | l2.registers[reg::RDX] << 32;
        equal("L2's PAT", value, if with { ODD_PAT } else { own })
    })
}

fn enter_efer() -> Verdict {
    let efer = cpu::msr(cpu::MSR_EFER) & !1;
    let code = code!("mov ecx, 0xC0000080", "rdmsr", "vmcall");
    let prepare = |l2: &L2| l2.set(Field::GUEST_EFER, efer | 1);
    both(ENTRY, 15, code, prepare, |l2, with| {
        let value = l2.registers[reg::RAX] & 0xffff_ffff;
        equal("L2's EFER", value, efer | u64::from(with))
    })
}
