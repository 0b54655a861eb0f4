//! Guest/host masks and read shadows, and the other control-register accesses.

use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls};

use super::{expect, expect_qualified};
use crate::rt::cpu::{self, CR0_AM, CR0_MP, CR0_TS, CR0_WP, CR4_DE, CR4_PGE, CR4_TSD};
use crate::rt::harness::Check;
use crate::rt::memory;
use crate::vm::L2;
use crate::vm::guest::code;
use crate::vm::l2::reg;

/// CR0: what L2 reads, what exits, what goes through.
pub fn cr0(check: &Check) {
    let mut l2 = L2::new(code!("mov rax, cr0", "vmcall", "mov cr0, rbx", "vmcall",));
    let real = cpu::cr0();
    l2.set(Field::GUEST_CR0, real | CR0_WP);
    l2.set(Field::CR0_GUEST_HOST_MASK, CR0_TS | CR0_WP);
    l2.set(Field::CR0_READ_SHADOW, CR0_TS);
    expect(check, "read", &mut l2, Reason::Vmcall);
    check.equal(
        "L2 reads the mix",
        l2.registers[reg::RAX],
        real & !CR0_WP | CR0_TS,
    );
    l2.skip_instruction();
    // The same masked bits as in the shadow, another one that L2 owns.
    l2.registers[reg::RBX] = real & !CR0_WP | CR0_TS | CR0_AM ^ (real & CR0_AM);
    expect(check, "write of its own bits", &mut l2, Reason::Vmcall);
    check.equal(
        "masked bits keep L1's value, others L2's",
        l2.get(Field::GUEST_CR0),
        (real | CR0_WP) & !CR0_TS & !CR0_AM | l2.registers[reg::RBX] & CR0_AM,
    );
    check.equal("the shadow stays", l2.get(Field::CR0_READ_SHADOW), CR0_TS);
    l2.set_code(code!("mov cr0, r11", "vmcall"));
    l2.registers[reg::R11] = real & !CR0_WP & !CR0_TS;
    expect_qualified(
        check,
        "write against the shadow",
        &mut l2,
        Reason::CrAccess,
        0xb00,
    );
    check.equal("length", l2.get(Field::EXIT_INSTRUCTION_LENGTH), 4);
    l2.registers[reg::R11] = (real | CR0_TS) & !CR0_WP;
    expect(check, "write as the shadow", &mut l2, Reason::Vmcall);
    // Everything L2's own.
    l2.set(Field::CR0_GUEST_HOST_MASK, 0);
    l2.set(Field::CR0_READ_SHADOW, u64::MAX);
    l2.set(Field::GUEST_CR0, real);
    l2.set_code(code!("mov cr0, rbx", "mov rax, cr0", "vmcall"));
    l2.registers[reg::RBX] = real ^ CR0_MP;
    expect(check, "no mask", &mut l2, Reason::Vmcall);
    check.equal("L2 reads it", l2.registers[reg::RAX], real ^ CR0_MP);
    check.equal("saved", l2.get(Field::GUEST_CR0), real ^ CR0_MP);
    // CD and NW, which a hypervisor may have to keep to itself, are L2's too.
    let cd = 1 << 30;
    l2.set_code(code!("mov cr0, rbx", "mov rax, cr0", "vmcall"));
    l2.registers[reg::RBX] = real | cd;
    expect(check, "CD", &mut l2, Reason::Vmcall);
    check.equal("L2 reads CD", l2.registers[reg::RAX], real | cd);
    check.equal("CD is saved", l2.get(Field::GUEST_CR0) & cd, cd);
    l2.set_code(code!("mov cr0, rbx", "mov rax, cr0", "vmcall"));
    l2.registers[reg::RBX] = real;
    expect(check, "CD off", &mut l2, Reason::Vmcall);
    check.equal("L2 reads CD off", l2.registers[reg::RAX], real);
}

/// CR4 likewise.
pub fn cr4(check: &Check) {
    let mut l2 = L2::new(code!(
        "mov rax, cr4",
        "vmcall",
        "mov cr4, rbx",
        "mov rax, cr4",
        "vmcall"
    ));
    let real = cpu::cr4() & !(CR4_TSD | CR4_DE | CR4_PGE);
    l2.set(Field::GUEST_CR4, real | CR4_TSD);
    l2.set(Field::CR4_GUEST_HOST_MASK, CR4_TSD | cpu::CR4_VMXE);
    l2.set(Field::CR4_READ_SHADOW, 0);
    expect(check, "read", &mut l2, Reason::Vmcall);
    check.equal(
        "L2 reads the mix",
        l2.registers[reg::RAX],
        real & !cpu::CR4_VMXE,
    );
    l2.skip_instruction();
    l2.registers[reg::RBX] = real & !cpu::CR4_VMXE | CR4_PGE | CR4_DE;
    expect(check, "write of its own bits", &mut l2, Reason::Vmcall);
    check.equal(
        "L2 reads them",
        l2.registers[reg::RAX],
        l2.registers[reg::RBX],
    );
    check.equal(
        "saved",
        l2.get(Field::GUEST_CR4),
        real | CR4_TSD | CR4_PGE | CR4_DE,
    );
    l2.set_code(code!("mov cr4, r8"));
    l2.registers[reg::R8] = real & !cpu::CR4_VMXE | CR4_TSD;
    expect_qualified(
        check,
        "write against the shadow",
        &mut l2,
        Reason::CrAccess,
        0x804,
    );
    l2.registers[reg::R8] = real;
    expect_qualified(
        check,
        "VMXE against the shadow",
        &mut l2,
        Reason::CrAccess,
        0x804,
    );
}

/// CLTS and LMSW, which look at parts of the mask.
pub fn clts_lmsw(check: &Check) {
    let real = cpu::cr0() & !(CR0_TS | CR0_MP);
    let mut l2 = L2::new(code!("vmcall"));
    l2.set(Field::GUEST_CR0, real | CR0_TS);
    l2.set(Field::CR0_GUEST_HOST_MASK, CR0_TS);
    l2.set(Field::CR0_READ_SHADOW, CR0_TS);
    l2.set_code(code!("clts", "vmcall"));
    expect_qualified(
        check,
        "clts, masked, shadow set",
        &mut l2,
        Reason::CrAccess,
        0x20,
    );
    l2.set(Field::CR0_READ_SHADOW, 0);
    l2.set_code(code!("clts", "vmcall"));
    expect(check, "clts, masked, shadow clear", &mut l2, Reason::Vmcall);
    check.equal("TS stays", l2.get(Field::GUEST_CR0) & CR0_TS, CR0_TS);
    l2.set(Field::CR0_GUEST_HOST_MASK, 0);
    l2.set_code(code!("clts", "vmcall"));
    expect(check, "clts, not masked", &mut l2, Reason::Vmcall);
    check.equal("TS is clear", l2.get(Field::GUEST_CR0) & CR0_TS, 0);

    l2.set(Field::GUEST_CR0, real);
    l2.set(Field::CR0_GUEST_HOST_MASK, CR0_MP);
    l2.set(Field::CR0_READ_SHADOW, 0);
    l2.registers[reg::RAX] = 0xfff3;
    l2.set_code(code!("lmsw ax", "vmcall"));
    expect_qualified(
        check,
        "lmsw against the shadow",
        &mut l2,
        Reason::CrAccess,
        0xfff3_0030,
    );
    l2.registers[reg::RAX] = 0xfff9;
    l2.set_code(code!("lmsw ax", "smsw eax", "vmcall"));
    expect(check, "lmsw of its own bits", &mut l2, Reason::Vmcall);
    check.equal("TS is set", l2.get(Field::GUEST_CR0) & CR0_TS, CR0_TS);
    check.equal("smsw", l2.registers[reg::RAX] & 0xf, 9);
    // PE masked: setting it again is no change to the shadow's value 0 -> exit; clearing is none.
    l2.set(Field::GUEST_CR0, real);
    l2.set(Field::CR0_GUEST_HOST_MASK, 1);
    l2.set(Field::CR0_READ_SHADOW, 0);
    l2.registers[reg::RAX] = 1;
    l2.set_code(code!("lmsw ax", "vmcall"));
    expect_qualified(
        check,
        "lmsw sets PE against the shadow",
        &mut l2,
        Reason::CrAccess,
        0x1_0030,
    );
    l2.registers[reg::RAX] = 0;
    l2.set_code(code!("lmsw ax", "vmcall"));
    l2.set(Field::CR0_READ_SHADOW, 1);
    expect(check, "lmsw never clears PE", &mut l2, Reason::Vmcall);
}

/// CR3 with its exiting controls and targets, and CR8.
pub fn cr3_cr8(check: &Check) {
    let mut l2 = L2::new(code!("vmcall"));
    let copy = memory::page();
    for i in (0..4096).step_by(8) {
        memory::write(copy + i, memory::read::<u64>((cpu::cr3() & !0xfff) + i));
    }
    l2.registers[reg::RSI] = copy;
    l2.set_code(code!("mov cr3, rsi", "mov rax, cr3", "vmcall"));
    expect(check, "cr3 without exits", &mut l2, Reason::Vmcall);
    check.equal("L2 reads it", l2.registers[reg::RAX], copy);
    l2.use_primary(PrimaryControls::CR3_LOAD_EXITING | PrimaryControls::CR3_STORE_EXITING);
    l2.set_code(code!("mov cr3, rsi", "vmcall"));
    expect_qualified(check, "mov to cr3", &mut l2, Reason::CrAccess, 0x603);
    l2.set_code(code!("mov r13, cr3", "vmcall"));
    expect_qualified(check, "mov from cr3", &mut l2, Reason::CrAccess, 0xd13);
    if l2.caps.misc >> 16 & 0x1ff >= 2 {
        l2.set(Field::CR3_TARGET_VALUE_0, 0x5000);
        l2.set(Field::CR3_TARGET_VALUE_1, copy);
        l2.set(Field::CR3_TARGET_COUNT, 2);
        l2.set_code(code!("mov cr3, rsi", "vmcall"));
        expect(check, "mov to cr3 of a target", &mut l2, Reason::Vmcall);
        l2.set(Field::CR3_TARGET_COUNT, 1);
        l2.set_code(code!("mov cr3, rsi", "vmcall"));
        expect(
            check,
            "mov to cr3 of an unused target",
            &mut l2,
            Reason::CrAccess,
        );
    } else {
        check.skip("CR3 targets", "not offered");
    }
    l2.use_primary(PrimaryControls::CR8_LOAD_EXITING | PrimaryControls::CR8_STORE_EXITING);
    l2.set_code(code!("mov cr8, rsi"));
    l2.registers[reg::RSI] = 3;
    expect_qualified(check, "mov to cr8", &mut l2, Reason::CrAccess, 0x608);
    l2.set_code(code!("mov rdi, cr8"));
    expect_qualified(check, "mov from cr8", &mut l2, Reason::CrAccess, 0x718);
    let both = PrimaryControls::CR8_LOAD_EXITING | PrimaryControls::CR8_STORE_EXITING;
    l2.modify(Field::PRIMARY_CONTROLS, 0, u64::from(both.bits()));
    l2.set_code(code!("mov cr8, rsi", "mov rax, cr8", "vmcall"));
    expect(check, "cr8 without exits", &mut l2, Reason::Vmcall);
    check.equal(
        "it is L1's",
        (l2.registers[reg::RAX], crate::rt::apic::read(0x80)),
        (3, 0x30),
    );
    crate::rt::apic::write(0x80, 0);
    // A TPR of L2's own.
    if l2
        .caps
        .true_primary
        .missing(PrimaryControls::USE_TPR_SHADOW.bits())
        == 0
    {
        let page = memory::page();
        l2.set(Field::VIRTUAL_APIC_ADDRESS, page);
        l2.set(Field::TPR_THRESHOLD, 0);
        l2.use_primary(PrimaryControls::USE_TPR_SHADOW);
        l2.registers[reg::RSI] = 7;
        l2.set_code(code!("mov cr8, rsi", "mov rax, cr8", "vmcall"));
        expect(check, "cr8 with a TPR shadow", &mut l2, Reason::Vmcall);
        check.equal(
            "it is in the page",
            (l2.registers[reg::RAX], memory::read::<u32>(page + 0x80)),
            (7, 0x70),
        );
        check.equal("L1's TPR stays", crate::rt::apic::read(0x80), 0);
        l2.set(Field::TPR_THRESHOLD, 5);
        l2.registers[reg::RSI] = 4;
        l2.set_code(code!("mov cr8, rsi", "vmcall"));
        expect(
            check,
            "TPR below the threshold",
            &mut l2,
            Reason::TprBelowThreshold,
        );
    }
}
