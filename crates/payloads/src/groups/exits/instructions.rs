//! Instructions that exit, always or when a control says so.

use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls, SecondaryControls};

use super::expect;
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, operation};

/// Instructions that exit whatever the controls are, with their lengths.
pub fn always(check: &Check) {
    let mark = memory::mark();
    let cases: [(&str, u64, Reason, u64); 4] = [
        ("cpuid", code!("cpuid"), Reason::Cpuid, 2),
        ("invd", code!("invd"), Reason::Invd, 2),
        ("vmcall", code!("vmcall"), Reason::Vmcall, 3),
        (
            "cpuid with prefixes",
            code!(".byte 0x66, 0x48, 0x0f, 0xa2"),
            Reason::Cpuid,
            4,
        ),
    ];
    for (name, code, reason, length) in cases {
        memory::release(mark);
        operation::leave();
        let mut l2 = L2::new(code);
        if expect(check, name, &mut l2, reason) {
            check.equal(
                format_args!("{name}: length"),
                l2.get(Field::EXIT_INSTRUCTION_LENGTH),
                length,
            );
            check.equal(
                format_args!("{name}: RIP stays"),
                l2.get(Field::GUEST_RIP),
                code,
            );
            check.equal(
                format_args!("{name}: qualification"),
                l2.get(Field::EXIT_QUALIFICATION),
                0,
            );
            check.equal(
                format_args!("{name}: no event"),
                (
                    l2.get(Field::IDT_VECTORING_INFO) >> 31,
                    l2.get(Field::EXIT_INTERRUPTION_INFO) >> 31,
                ),
                (0, 0),
            );
        }
    }
    if cpu::cpuid(1, 0)[2] & 1 << 26 == 0 {
        return check.skip("xsetbv", "no XSAVE");
    }
    let mut l2 = L2::new(code!(
        "xor ecx, ecx",
        "mov eax, 1",
        "xor edx, edx",
        "xsetbv"
    ));
    l2.add(Field::GUEST_CR4, cpu::CR4_OSXSAVE);
    expect(check, "xsetbv", &mut l2, Reason::Xsetbv);
}

/// A control that makes an instruction exit.
enum Control {
    Primary(PrimaryControls),
    Secondary(SecondaryControls),
}

/// Exits with the control, and goes on to VMCALL without it.
pub fn controlled(check: &Check) {
    use Control::{Primary, Secondary};
    let has = |leaf: u32, register: usize, bit: u32| cpu::cpuid(leaf, 0)[register] >> bit & 1 != 0;
    let mut stored = [0u8; 16];
    let at = &raw mut stored as u64;
    let cases: [(&str, bool, u64, Control, Reason, u64); 13] = [
        (
            "hlt",
            true,
            code!("hlt"),
            Primary(PrimaryControls::HLT_EXITING),
            Reason::Hlt,
            0,
        ),
        (
            "invlpg",
            true,
            code!("invlpg [rdi]", "vmcall"),
            Primary(PrimaryControls::INVLPG_EXITING),
            Reason::Invlpg,
            at,
        ),
        (
            "rdtsc",
            true,
            code!("rdtsc", "vmcall"),
            Primary(PrimaryControls::RDTSC_EXITING),
            Reason::Rdtsc,
            0,
        ),
        (
            "rdpmc",
            false,
            code!("xor ecx, ecx", "rdpmc", "vmcall"),
            Primary(PrimaryControls::RDPMC_EXITING),
            Reason::Rdpmc,
            0,
        ),
        (
            "pause",
            true,
            code!("pause", "vmcall"),
            Primary(PrimaryControls::PAUSE_EXITING),
            Reason::Pause,
            0,
        ),
        (
            "mov to DR",
            true,
            code!("mov dr3, rsi", "vmcall"),
            Primary(PrimaryControls::MOV_DR_EXITING),
            Reason::MovDr,
            0x603,
        ),
        (
            "mov from DR",
            true,
            code!("mov r9, dr7", "vmcall"),
            Primary(PrimaryControls::MOV_DR_EXITING),
            Reason::MovDr,
            0x917,
        ),
        (
            "wbinvd",
            true,
            code!("wbinvd", "vmcall"),
            Secondary(SecondaryControls::WBINVD_EXITING),
            Reason::Wbinvd,
            0,
        ),
        (
            "sgdt",
            true,
            code!("sgdt [rdi]", "vmcall"),
            Secondary(SecondaryControls::DESCRIPTOR_TABLE_EXITING),
            Reason::GdtrIdtrAccess,
            0,
        ),
        (
            "sldt",
            true,
            code!("sldt ax", "vmcall"),
            Secondary(SecondaryControls::DESCRIPTOR_TABLE_EXITING),
            Reason::LdtrTrAccess,
            0,
        ),
        (
            "str",
            true,
            code!("str ax", "vmcall"),
            Secondary(SecondaryControls::DESCRIPTOR_TABLE_EXITING),
            Reason::LdtrTrAccess,
            0,
        ),
        (
            "rdrand",
            has(1, 2, 30),
            code!("rdrand eax", "vmcall"),
            Secondary(SecondaryControls::RDRAND_EXITING),
            Reason::Rdrand,
            0,
        ),
        (
            "rdseed",
            has(7, 1, 18),
            code!("rdseed eax", "vmcall"),
            Secondary(SecondaryControls::RDSEED_EXITING),
            Reason::Rdseed,
            0,
        ),
    ];
    let mark = memory::mark();
    for (name, runs_without, code, control, reason, qualification) in cases {
        memory::release(mark);
        operation::leave();
        let mut l2 = L2::new(code);
        l2.registers[reg::RDI] = at;
        let (field, bit, allowed) = match control {
            Primary(bit) => (Field::PRIMARY_CONTROLS, bit.bits(), l2.caps.true_primary),
            Secondary(bit) => (Field::SECONDARY_CONTROLS, bit.bits(), l2.caps.secondary),
        };
        if allowed.missing(bit) != 0 {
            check.skip(name, "not offered");
            continue;
        }
        l2.add(field, u64::from(bit));
        if expect(check, name, &mut l2, reason) && qualification != 0 {
            check.equal(
                format_args!("{name}: qualification"),
                l2.get(Field::EXIT_QUALIFICATION),
                qualification,
            );
        }
        if runs_without && reason != Reason::Hlt {
            l2.modify(field, 0, u64::from(bit));
            let outcome = l2.run();
            check.equal(
                format_args!("{name} without the control"),
                outcome,
                Outcome::exit(Reason::Vmcall),
            );
        }
    }
}

/// VMX instructions in L2 exit, with their operands described.
pub fn vmx(check: &Check) {
    const ADDRESS_64: u64 = 2 << 7;
    const DS: u64 = 3 << 15;
    const NO_INDEX: u64 = 1 << 22;
    const NO_BASE: u64 = 1 << 27;
    // Base RDI (7), no index, 64-bit address, DS.
    let memory_rdi = ADDRESS_64 | DS | NO_INDEX | 7 << 23;
    let cases: [(&str, u64, Reason, u64, Option<u64>); 14] = [
        (
            "vmclear",
            code!("vmclear [rdi + 0x40]"),
            Reason::Vmclear,
            0x40,
            Some(memory_rdi),
        ),
        (
            "vmptrld",
            code!("vmptrld [rdi - 8]"),
            Reason::Vmptrld,
            (-8i64) as u64,
            Some(memory_rdi),
        ),
        (
            "vmptrst",
            code!("vmptrst [rdi]"),
            Reason::Vmptrst,
            0,
            Some(memory_rdi),
        ),
        (
            "vmxon",
            code!("vmxon [rdi + r9 * 4 + 0x1000]"),
            Reason::Vmxon,
            0x1000,
            Some(2 | ADDRESS_64 | DS | 9 << 18 | 7 << 23),
        ),
        (
            "vmxon fs:",
            code!("vmxon fs:[rdi]"),
            Reason::Vmxon,
            0,
            Some(ADDRESS_64 | 4 << 15 | NO_INDEX | 7 << 23),
        ),
        (
            "vmclear, absolute",
            code!("vmclear [0x1230]"),
            Reason::Vmclear,
            0x1230,
            None,
        ),
        (
            "vmread to a register",
            code!("vmread rax, rdi"),
            Reason::Vmread,
            0,
            None,
        ),
        (
            "vmwrite from a register",
            code!("vmwrite rdi, rax"),
            Reason::Vmwrite,
            0,
            None,
        ),
        ("vmlaunch", code!("vmlaunch"), Reason::Vmlaunch, 0, None),
        ("vmresume", code!("vmresume"), Reason::Vmresume, 0, None),
        ("vmxoff", code!("vmxoff"), Reason::Vmxoff, 0, None),
        (
            "invept",
            code!("invept r10, [rdi]"),
            Reason::Invept,
            0,
            Some(memory_rdi | 10 << 28),
        ),
        (
            "invvpid",
            code!("invvpid rdx, [rdi + 1]"),
            Reason::Invvpid,
            1,
            Some(memory_rdi | 2 << 28),
        ),
        ("vmcall", code!("vmcall"), Reason::Vmcall, 0, None),
    ];
    let mark = memory::mark();
    let mut page = [0u64; 32];
    for (name, code, reason, qualification, info) in cases {
        memory::release(mark);
        operation::leave();
        let mut l2 = L2::new(code);
        l2.registers[reg::RDI] = &raw mut page as u64;
        l2.registers[reg::R9] = 0;
        if !expect(check, name, &mut l2, reason) {
            continue;
        }
        if !matches!(reason, Reason::Vmread | Reason::Vmwrite) {
            // The register forms have no displacement, and leave the field undefined.
            check.equal(
                format_args!("{name}: qualification"),
                l2.get(Field::EXIT_QUALIFICATION),
                qualification,
            );
        }
        let got = l2.get(Field::EXIT_INSTRUCTION_INFO);
        if let Some(info) = info {
            // Bits that a form does not define (register 1, scale without an index) may be anything.
            let mut defined = 0xffff_ffff & !(0xf << 3 | 1 << 2 | 0x1f << 10);
            if info & NO_INDEX != 0 {
                defined &= !(3 | 0xf << 18);
            }
            if info & NO_BASE != 0 {
                defined &= !(0xf << 23);
            }
            if !matches!(reason, Reason::Invept | Reason::Invvpid) {
                defined &= !(0xf << 28);
            }
            check.equal(
                format_args!("{name}: information"),
                got & defined,
                info & defined,
            );
        }
        match reason {
            Reason::Vmread | Reason::Vmwrite => {
                check.equal(format_args!("{name}: register form"), got >> 10 & 1, 1);
                check.equal(format_args!("{name}: register 1"), got >> 3 & 15, 0);
                check.equal(format_args!("{name}: register 2"), got >> 28 & 15, 7);
            }
            _ => {}
        }
    }
}
