//! State that an exit saves and loads.

use core::arch::asm;

use ::vmx::{BasicExitReason as Reason, ExitControls, Field, PrimaryControls};

use super::expect;
use crate::rt::harness::Check;
use crate::rt::segments::TablePointer;
use crate::rt::{cpu, fault, memory, segments};
use crate::vm::L2;
use crate::vm::guest::code;
use crate::vm::l2::reg;

/// General registers pass both ways, and no other way.
pub fn registers(check: &Check) {
    let mut l2 = L2::new(code!(
        "vmcall", "not rax", "not rcx", "not rdx", "not rbx", "not rbp", "not rsi", "not rdi",
        "not r8", "not r9", "not r10", "not r11", "not r12", "not r13", "not r14", "not r15",
        "vmcall",
    ));
    let pattern = |i: usize| 0x0101_0101_0101_0101u64 * (i as u64 + 1);
    for i in 0..16 {
        l2.registers[i] = pattern(i);
    }
    expect(check, "first", &mut l2, Reason::Vmcall);
    for i in (0..16).filter(|&i| i != 4) {
        check.equal(
            format_args!("register {i} as entered"),
            l2.registers[i],
            pattern(i),
        );
    }
    l2.skip_instruction();
    expect(check, "second", &mut l2, Reason::Vmcall);
    for i in (0..16).filter(|&i| i != 4) {
        check.equal(
            format_args!("register {i} as changed"),
            l2.registers[i],
            !pattern(i),
        );
    }
}

/// What L2 changes without exits is in its VMCS afterwards.
pub fn written_back(check: &Check) {
    let mut l2 = L2::new(code!(
        // RDI: table pointers; RSI: another CR3; R8: SYSENTER value.
        "lgdt [rdi]",
        "lidt [rdi + 16]",
        "mov cr3, rsi",
        "mov ecx, 0x175",
        "mov eax, r8d",
        "xor edx, edx",
        "wrmsr",
        "mov ecx, 0x174",
        "mov eax, 0x55",
        "wrmsr",
        "mov ecx, 0xC0000080",
        "rdmsr",
        "or eax, 1",
        "wrmsr",
        "mov ecx, 0x277",
        "rdmsr",
        "xor eax, 0x00000100",
        "wrmsr",
        "mov ecx, 0xC0000100",
        "mov eax, 0x11000",
        "xor edx, edx",
        "wrmsr",
        "mov rax, cr0",
        "xor eax, 0x10000",
        "mov cr0, rax",
        "mov rax, cr4",
        "xor eax, 0x80",
        "mov cr4, rax",
        "mov eax, 0x455",
        "mov dr7, rax",
        "xor eax, eax",
        "mov es, ax",
        "mov ax, 0x23",
        "mov ds, ax",
        "lea rsp, [rsp - 0x20]",
        "stc",
        "std",
        "vmcall",
    ));
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS);
    let saves = ExitControls::SAVE_DEBUG_CONTROLS
        | ExitControls::SAVE_EFER
        | ExitControls::SAVE_PAT
        | ExitControls::LOAD_PAT;
    l2.add(Field::EXIT_CONTROLS, u64::from(saves.bits()));
    l2.add(Field::ENTRY_CONTROLS, 1 << 2 | 1 << 14);
    let tables = memory::page();
    memory::write(
        tables,
        TablePointer {
            limit: 0x1234,
            base: segments::gdt(),
        },
    );
    memory::write(
        tables + 16,
        TablePointer {
            limit: 0x567,
            base: l2.idt,
        },
    );
    let copy = memory::page();
    for i in (0..4096).step_by(8) {
        memory::write(copy + i, memory::read::<u64>((cpu::cr3() & !0xfff) + i));
    }
    let (pat, cr0, cr4, efer) = (
        cpu::msr(cpu::MSR_PAT),
        cpu::cr0(),
        cpu::cr4(),
        cpu::msr(cpu::MSR_EFER),
    );
    l2.registers[reg::RDI] = tables;
    l2.registers[reg::RSI] = copy;
    l2.registers[reg::R8] = 0x7654_3210;
    if !expect(check, "runs", &mut l2, Reason::Vmcall) {
        return;
    }
    let values = [
        (Field::GUEST_GDTR_LIMIT, 0x1234),
        (Field::GUEST_GDTR_BASE, segments::gdt()),
        (Field::GUEST_IDTR_LIMIT, 0x567),
        (Field::GUEST_IDTR_BASE, l2.idt),
        (Field::GUEST_CR3, copy),
        (Field::GUEST_SYSENTER_ESP, 0x7654_3210),
        (Field::GUEST_SYSENTER_CS, 0x55),
        (Field::GUEST_EFER, efer | 1),
        (Field::GUEST_PAT, pat ^ 0x100),
        (Field::GUEST_FS_BASE, 0x11000),
        (Field::GUEST_CR0, cr0 ^ cpu::CR0_WP),
        (Field::GUEST_CR4, cr4 ^ cpu::CR4_PGE),
        (Field::GUEST_DR7, 0x455),
        (Field::GUEST_ES_SELECTOR, 0),
        (Field::GUEST_DS_SELECTOR, 0x23),
        (Field::GUEST_RSP, l2.stack - 0x20),
    ];
    for (field, value) in values {
        check.equal(format_args!("{field:?}"), l2.get(field), value);
    }
    check.equal(
        "RFLAGS.CF and DF",
        l2.get(Field::GUEST_RFLAGS) & 0x401,
        0x401,
    );
    check.equal(
        "ES is unusable",
        l2.get(Field::GUEST_ES_ACCESS_RIGHTS) >> 16 & 1,
        1,
    );
    check.equal(
        "DS has DPL 3",
        l2.get(Field::GUEST_DS_ACCESS_RIGHTS) >> 5 & 3,
        3,
    );
    check.equal(
        "the IA-32e control",
        l2.get(Field::ENTRY_CONTROLS) >> 9 & 1,
        1,
    );
    check.equal("activity", l2.get(Field::GUEST_ACTIVITY_STATE), 0);
    check.equal("L1's CR0", cpu::cr0(), cr0);
    check.equal("L1's CR4", cpu::cr4(), cr4);
    check.equal("L1's EFER", cpu::msr(cpu::MSR_EFER), efer);
    check.equal("L1's PAT", cpu::msr(cpu::MSR_PAT), pat);
    check.equal("L1's DR7", cpu::dr7(), 0x400);
}

/// What an exit loads into L1.
pub fn host(check: &Check) {
    let mut l2 = L2::new(code!("vmcall"));
    let saved = [
        cpu::MSR_FS_BASE,
        cpu::MSR_GS_BASE,
        cpu::MSR_SYSENTER_CS,
        cpu::MSR_SYSENTER_ESP,
        cpu::MSR_SYSENTER_EIP,
        cpu::MSR_PAT,
        cpu::MSR_EFER,
    ]
    .map(|msr| (msr, cpu::msr(msr)));
    l2.set(Field::HOST_FS_BASE, 0x1111_1000);
    l2.set(Field::HOST_GS_BASE, 0xffff_8888_0000_0000);
    l2.set(Field::HOST_SYSENTER_CS, 0x98);
    l2.set(Field::HOST_SYSENTER_ESP, 0xffff_9999_0000_0000);
    l2.set(Field::HOST_SYSENTER_EIP, 0x7777_0000);
    l2.set(Field::HOST_PAT, 0x0007_0406_0001_0006);
    l2.add(
        Field::EXIT_CONTROLS,
        u64::from(ExitControls::LOAD_PAT.bits()),
    );
    l2.set(Field::HOST_EFER, cpu::msr(cpu::MSR_EFER) | 1);
    l2.set(Field::HOST_DS_SELECTOR, 0);
    let _ = cpu::set_dr7(0x455);
    if expect(check, "runs", &mut l2, Reason::Vmcall) {
        let (mut gdt, mut idt) = (TablePointer::default(), TablePointer::default());
        let (ds, es, tr, flags): (u16, u16, u16, u64);
        // SAFETY: stores state.
        unsafe {
            asm!("sgdt [{}]", in(reg) &raw mut gdt);
            asm!("sidt [{}]", in(reg) &raw mut idt);
            asm!("mov {0:x}, ds", "mov {1:x}, es", "str {2:x}", "pushfq", "pop {3}",
                out(reg) ds, out(reg) es, out(reg) tr, out(reg) flags);
        }
        check.equal("GDTR limit", gdt.limit, 0xffff);
        check.equal("GDTR base", gdt.base, segments::gdt());
        check.equal("IDTR limit", idt.limit, 0xffff);
        check.equal("IDTR base", idt.base, fault::idt());
        check.equal(
            "DS, ES, TR",
            (ds, es, tr),
            (0, segments::DATA, segments::task_selector(cpu::number())),
        );
        check.equal("RFLAGS.IF", flags & cpu::RFLAGS_IF, 0);
        check.equal("FS base", cpu::msr(cpu::MSR_FS_BASE), 0x1111_1000);
        check.equal("GS base", cpu::msr(cpu::MSR_GS_BASE), 0xffff_8888_0000_0000);
        check.equal("SYSENTER CS", cpu::msr(cpu::MSR_SYSENTER_CS), 0x98);
        check.equal(
            "SYSENTER ESP",
            cpu::msr(cpu::MSR_SYSENTER_ESP),
            0xffff_9999_0000_0000,
        );
        check.equal("SYSENTER EIP", cpu::msr(cpu::MSR_SYSENTER_EIP), 0x7777_0000);
        check.equal("PAT", cpu::msr(cpu::MSR_PAT), 0x0007_0406_0001_0006);
        check.equal("EFER.SCE", cpu::msr(cpu::MSR_EFER) & 1, 1);
        check.equal("DR7", cpu::dr7(), 0x400);
    }
    for (msr, value) in saved {
        let _ = cpu::wrmsr(msr, value);
    }
    fault::load();
    // SAFETY: the selector of our data segment.
    unsafe { asm!("mov ds, {0:x}", in(reg) segments::DATA) };
}
