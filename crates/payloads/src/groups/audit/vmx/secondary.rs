//! Secondary processor-based controls.

use ::vmx::ept::Access;
use ::vmx::{BasicExitReason as Reason, Field};

use super::{
    Find, INVALID_CONTROLS, INVALID_GUEST, UD, l2_with, makes_exit, not_offered, open_msrs, takes,
};
use crate::groups::audit::walk::{Exercise, Verdict, ends, equal, exits, holds};
use crate::rt::{cpu, memory};
use crate::vm::guest::code;
use crate::vm::l2::reg;

const PRIMARY: Field = Field::PRIMARY_CONTROLS;
const SECONDARY: Field = Field::SECONDARY_CONTROLS;

/// Secondary processor-based controls.
pub fn secondary(bit: u32) -> Find {
    let exercise = match bit {
        1 => Exercise::works("a page taken away is a violation, else it is there", ept),
        2 => Exercise::works("SGDT, SIDT, SLDT, STR", descriptor_tables),
        3 => Exercise::works("RDTSCP works, else it is undefined", || {
            defines(3, code!("rdtscp", "vmcall"))
        }),
        4 => Exercise::works("RDMSR of the TPR reads the virtual APIC page", x2apic),
        5 => Exercise::works("VPID 1 enters, VPID 0 gives VMfail(7)", vpid),
        6 => Exercise::works("WBINVD", || {
            exit(6, code!("wbinvd", "vmcall"), Reason::Wbinvd)
        }),
        7 => Exercise::works(
            "an unpaged L2 enters, else its state is invalid",
            unrestricted,
        ),
        10 => Exercise::works("a loop of PAUSE exits", pause_loop),
        11 => Exercise::works("RDRAND", || {
            exit(11, code!("rdrand eax", "vmcall"), Reason::Rdrand)
        }),
        12 => Exercise::works("INVPCID works, else it is undefined", || {
            defines(12, code!("mov eax, 2", "invpcid rax, [rdi]", "vmcall"))
        }),
        16 => Exercise::works("RDSEED", || {
            exit(16, code!("rdseed eax", "vmcall"), Reason::Rdseed)
        }),
        20 => Exercise::works("XSAVES works, else it is undefined", xsaves),
        25 => Exercise::works("RDTSC counts twice as fast", tsc_scaling),
        _ => Exercise::default(),
    };
    Some(exercise.or_bit_refused("VMfail(7)", not_offered::<0x401e>))
}

fn exit(bit: u32, code: u64, reason: Reason) -> Verdict {
    makes_exit(SECONDARY, bit, code, reason)
}

/// The instruction is there with the control, and undefined without.
fn defines(bit: u32, code: u64) -> Verdict {
    let mut l2 = l2_with(SECONDARY, 1 << bit, code);
    l2.registers[reg::RDI] = memory::page();
    exits("with it", l2.run(), Reason::Vmcall)?;
    equal("exceptions", super::is_in_handler(&l2), false)?;
    l2.modify(SECONDARY, 0, 1 << bit);
    l2.set_code(code);
    takes(&mut l2, "without it", UD)
}

fn ept() -> Verdict {
    let code = code!("mov rax, [rdi]", "vmcall");
    let mut l2 = l2_with(SECONDARY, 1 << 1, code);
    let page = memory::page();
    memory::write(page, 0x77u64);
    l2.registers[reg::RDI] = page;
    l2.ept.unmap(page);
    let _ = crate::vm::instruction::invept(1, l2.ept.eptp());
    exits("a page that is not there", l2.run(), Reason::EptViolation)?;
    equal("its address", l2.get(Field::GUEST_PHYSICAL_ADDRESS), page)?;
    l2.ept.protect(page, Access::RWX);
    exits("the page put back", l2.run(), Reason::Vmcall)?;
    l2.ept.unmap(page);
    // Without EPT there can be no unrestricted guest.
    l2.modify(SECONDARY, 0, 1 << 1 | 1 << 7);
    l2.set_code(code);
    exits("without it", l2.run(), Reason::Vmcall)?;
    equal("what L2 read", l2.registers[reg::RAX], 0x77u64)
}

fn descriptor_tables() -> Verdict {
    let table = Reason::GdtrIdtrAccess;
    exit(2, code!("sgdt [rdi]", "vmcall"), table)?;
    exit(2, code!("sidt [rdi]", "vmcall"), table)?;
    exit(2, code!("sldt ax", "vmcall"), Reason::LdtrTrAccess)?;
    exit(2, code!("str ax", "vmcall"), Reason::LdtrTrAccess)
}

fn x2apic() -> Verdict {
    let code = code!("mov ecx, 0x808", "rdmsr", "vmcall");
    let mut l2 = l2_with(SECONDARY, 1 << 4, code);
    l2.add(PRIMARY, 1 << 21);
    let page = memory::page();
    memory::write(page + 0x80, 0x70u32);
    l2.set(Field::VIRTUAL_APIC_ADDRESS, page);
    l2.set(Field::TPR_THRESHOLD, 0);
    open_msrs(&l2);
    exits("RDMSR", l2.run(), Reason::Vmcall)?;
    equal("the TPR", l2.registers[reg::RAX] & 0xffff_ffff, 0x70u64)?;
    l2.set_code(code!(
        "mov ecx, 0x808",
        "mov eax, 0x30",
        "xor edx, edx",
        "wrmsr",
        "vmcall"
    ));
    exits("WRMSR", l2.run(), Reason::Vmcall)?;
    equal("the page", memory::read::<u32>(page + 0x80), 0x30u32)?;
    l2.modify(PRIMARY, 0, 1 << 21);
    ends("without the TPR shadow", l2.run(), INVALID_CONTROLS)
}

fn vpid() -> Verdict {
    let mut l2 = l2_with(SECONDARY, 1 << 5, code!("vmcall"));
    l2.set(Field::VPID, 1);
    exits("VPID 1", l2.run(), Reason::Vmcall)?;
    l2.set(Field::VPID, 0);
    ends("VPID 0", l2.run(), INVALID_CONTROLS)
}

/// 32-bit code without paging, at the addresses where L1's own tables have it.
fn unrestricted() -> Verdict {
    // The same bytes move EAX in 32-bit code.
    let code = code!("mov rax, cr0", "vmcall");
    let mut l2 = l2_with(SECONDARY, 1 << 7, code);
    let paging = cpu::CR0_PG;
    l2.modify(Field::GUEST_CR0, 0, paging);
    l2.modify(Field::ENTRY_CONTROLS, 0, 1 << 9);
    l2.modify(Field::GUEST_EFER, 0, 1 << 8 | 1 << 10);
    // 32-bit code: D/B in place of L.
    l2.modify(Field::GUEST_CS_ACCESS_RIGHTS, 1 << 14, 1 << 13);
    holds(code >> 32 == 0, "the code lies too high for this")?;
    exits("with it", l2.run(), Reason::Vmcall)?;
    equal("L2's CR0.PG", l2.registers[reg::RAX] >> 31 & 1, 0u64)?;
    l2.modify(SECONDARY, 0, 1 << 7);
    ends("without it", l2.run(), INVALID_GUEST)
}

fn pause_loop() -> Verdict {
    let mut l2 = l2_with(SECONDARY, 1 << 10, code!("2: pause", "jmp 2b"));
    l2.set(Field::PLE_GAP, 1000);
    l2.set(Field::PLE_WINDOW, 10_000);
    exits("with it", l2.run(), Reason::Pause)
}

fn xsaves() -> Verdict {
    let code = code!("mov eax, 1", "xor edx, edx", "xsaves [rdi]", "vmcall");
    let osxsave = cpu::CR4_OSXSAVE;
    let mut l2 = l2_with(SECONDARY, 1 << 20, code);
    l2.set(Field::XSS_EXITING_BITMAP, 0);
    l2.add(Field::GUEST_CR4, osxsave);
    l2.registers[reg::RDI] = memory::page();
    exits("with it", l2.run(), Reason::Vmcall)?;
    equal("exceptions", super::is_in_handler(&l2), false)?;
    l2.modify(SECONDARY, 0, 1 << 20);
    l2.set_code(code);
    takes(&mut l2, "without it", UD)
}

fn tsc_scaling() -> Verdict {
    let mut l2 = l2_with(SECONDARY, 1 << 25, code!("rdtsc", "vmcall"));
    l2.add(PRIMARY, 1 << 3);
    l2.set(Field::TSC_MULTIPLIER, 2 << 48);
    let before = cpu::tsc();
    exits("RDTSC", l2.run(), Reason::Vmcall)?;
    let after = cpu::tsc();
    let value = l2.registers[reg::RAX] & 0xffff_ffff | l2.registers[reg::RDX] << 32;
    holds(
        (2 * before..=2 * after).contains(&value),
        "another time than expected",
    )?;
    l2.set(Field::TSC_MULTIPLIER, 0);
    ends("a multiplier of 0", l2.run(), INVALID_CONTROLS)
}
