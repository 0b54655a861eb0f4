//! Pin-based and primary processor-based controls.

use ::vmx::{BasicExitReason as Reason, Field, InterruptionInfo};

use super::{Find, is_in_handler, l2_with, makes_exit, not_offered, open_msrs, takes};
use crate::groups::audit::walk::{Exercise, Verdict, equal, exits, holds};
use crate::rt::apic::{self, Delivery, register, timer};
use crate::rt::cpu::{self, RFLAGS_IF};
use crate::rt::fault::{self, attempt};
use crate::rt::memory;
use crate::vm::L2;
use crate::vm::guest::code;
use crate::vm::l2::reg;

const PIN: Field = Field::PIN_BASED_CONTROLS;
const PRIMARY: Field = Field::PRIMARY_CONTROLS;
const VECTOR: u8 = 0x62;

const REFUSED: &str = "VMfail(7)";

/// Pin-based controls.
pub fn pin(bit: u32) -> Find {
    let exercise = match bit {
        0 => Exercise::works("an interrupt of L1's ends L2, else L2 takes it", interrupts),
        3 => Exercise::works("an NMI ends L2, else L2 takes it", nmis),
        5 => Exercise::works("blocking by an injected NMI, until IRET", virtual_nmis),
        6 => Exercise::works("the timer ends L2", preemption_timer),
        _ => Exercise::default(),
    };
    Some(exercise.or_bit_refused(REFUSED, not_offered::<0x4000>))
}

/// Primary processor-based controls.
pub fn primary(bit: u32) -> Find {
    let exercise = match bit {
        2 => Exercise::works("exits where interrupts are open", interrupt_window),
        3 => Exercise::works("RDTSC with an offset, and without", tsc_offset),
        7 => Exercise::works("HLT exits, else L2 halts", hlt),
        9 => Exercise::works("INVLPG", || {
            exit(9, code!("invlpg [rdi]", "vmcall"), Reason::Invlpg)
        }),
        10 => Exercise::works("MWAIT exits, else it is undefined", || {
            undefined_or_exit(10, code!("mwait", "vmcall"), Reason::Mwait)
        }),
        11 => Exercise::works("RDPMC exits, else L2 gets #GP", rdpmc),
        12 => Exercise::works("RDTSC", || {
            exit(12, code!("rdtsc", "vmcall"), Reason::Rdtsc)
        }),
        15 => Exercise::works("MOV to CR3", || {
            exit(
                15,
                code!("mov rax, cr3", "mov cr3, rax", "vmcall"),
                Reason::CrAccess,
            )
        }),
        16 => Exercise::works("MOV from CR3", || {
            exit(16, code!("mov rax, cr3", "vmcall"), Reason::CrAccess)
        }),
        19 => Exercise::works("MOV to CR8", || {
            exit(
                19,
                code!("xor eax, eax", "mov cr8, rax", "vmcall"),
                Reason::CrAccess,
            )
        }),
        20 => Exercise::works("MOV from CR8", || {
            exit(20, code!("mov rax, cr8", "vmcall"), Reason::CrAccess)
        }),
        21 => Exercise::works(
            "CR8 is the virtual APIC page's, with a threshold",
            tpr_shadow,
        ),
        22 => Exercise::works("exits where NMIs are open", nmi_window),
        23 => Exercise::works("MOV to and from DR", || {
            exit(23, code!("mov dr3, rsi", "vmcall"), Reason::MovDr)?;
            exit(23, code!("mov rax, dr7", "vmcall"), Reason::MovDr)
        }),
        24 => Exercise::works("IN and OUT", || {
            exit(24, code!("in al, 0x80", "vmcall"), Reason::IoInstruction)?;
            exit(24, code!("out 0x80, al", "vmcall"), Reason::IoInstruction)
        }),
        25 => Exercise::works("a port exits by its bit", io_bitmaps),
        27 => Exercise::works("exits after one instruction", monitor_trap),
        28 => Exercise::works("an MSR exits by its bit, all without", msr_bitmaps),
        29 => Exercise::works("MONITOR exits, else it is undefined", || {
            undefined_or_exit(
                29,
                code!("mov rax, rdi", "monitor", "vmcall"),
                Reason::Monitor,
            )
        }),
        30 => Exercise::works("PAUSE", || {
            exit(30, code!("pause", "vmcall"), Reason::Pause)
        }),
        31 => Exercise::works(
            "the secondary controls count with it only",
            secondary_in_use,
        ),
        _ => Exercise::default(),
    };
    Some(exercise.or_bit_refused(REFUSED, not_offered::<0x4002>))
}

fn exit(bit: u32, code: u64, reason: Reason) -> Verdict {
    makes_exit(PRIMARY, bit, code, reason)
}

/// MONITOR and MWAIT: L1's CPUID does not show them, so L2 has them as little.
fn undefined_or_exit(bit: u32, code: u64, reason: Reason) -> Verdict {
    let mut l2 = l2_with(PRIMARY, 1 << bit, code);
    l2.registers[reg::RDI] = memory::page();
    exits("with it", l2.run(), reason)?;
    l2.modify(PRIMARY, 0, 1 << bit);
    if cpu::cpuid(1, 0)[2] >> 3 & 1 != 0 {
        return exits("without it", l2.run(), Reason::Vmcall);
    }
    takes(&mut l2, "without it", super::UD)
}

fn rdpmc() -> Verdict {
    let mut l2 = l2_with(PRIMARY, 1 << 11, code!("xor ecx, ecx", "rdpmc", "vmcall"));
    exits("with it", l2.run(), Reason::Rdpmc)?;
    l2.modify(PRIMARY, 0, 1 << 11);
    if cpu::cpuid(0xa, 0)[0] & 0xff != 0 {
        return exits("without it", l2.run(), Reason::Vmcall);
    }
    takes(&mut l2, "without it", 13)
}

fn interrupts() -> Verdict {
    let code = code!("2: pause", "jmp 2b");
    let mut l2 = l2_with(PIN, 1, code);
    l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
    apic::send_self(VECTOR);
    exits("with it", l2.run(), Reason::ExternalInterrupt)?;
    let before = fault::count(VECTOR);
    cpu::interrupt_window();
    equal("L1's interrupts", fault::count(VECTOR), before + 1)?;
    l2.modify(PIN, 0, 1);
    apic::send_self(VECTOR);
    let taken = takes(&mut l2, "without it", VECTOR);
    apic::eoi();
    taken
}

/// An L2 that sends an NMI to itself by L1's APIC, which is open to it.
fn nmi_sender() -> L2 {
    let mut l2 = L2::new(code!(
        "mov ecx, 0x830",
        "xor edx, edx",
        "wrmsr",
        "2: pause",
        "jmp 2b"
    ));
    open_msrs(&l2);
    l2.registers[reg::RAX] = Delivery::Nmi as u64;
    l2
}

/// NMIs are blocked after an exit by one: an exception's IRET unblocks them.
fn unblock_nmis() {
    // SAFETY: the exception ends up in `attempt`.
    let _ = attempt(|| unsafe { core::arch::asm!("ud2") });
}

fn nmis() -> Verdict {
    let mut l2 = nmi_sender();
    l2.add(PIN, 1 << 3);
    let before = fault::count(2);
    let outcome = l2.run();
    unblock_nmis();
    exits("with it", outcome, Reason::ExceptionOrNmi)?;
    equal(
        "information",
        l2.get(Field::EXIT_INTERRUPTION_INFO),
        0x8000_0202u64,
    )?;
    equal("L1's own NMIs", fault::count(2), before)?;
    let mut l2 = nmi_sender();
    let taken = takes(&mut l2, "without it", 2);
    unblock_nmis();
    taken
}

/// Puts an NMI into the VM-entry fields.
fn inject_nmi(l2: &L2) {
    let info = InterruptionInfo::nmi();
    l2.set(Field::ENTRY_INTERRUPTION_INFO, u64::from(info.raw()));
}

fn virtual_nmis() -> Verdict {
    let mut l2 = l2_with(PIN, 1 << 3 | 1 << 5, code!("nop", "vmcall"));
    inject_nmi(&l2);
    takes(&mut l2, "injection", 2)?;
    equal(
        "blocking in the handler",
        l2.get(Field::GUEST_INTERRUPTIBILITY),
        8u64,
    )?;
    l2.skip_instruction();
    exits("behind IRET", l2.run(), Reason::Vmcall)?;
    equal(
        "blocking behind IRET",
        l2.get(Field::GUEST_INTERRUPTIBILITY),
        0u64,
    )
}

fn preemption_timer() -> Verdict {
    let mut l2 = l2_with(PIN, 1 << 6, code!("2: pause", "jmp 2b"));
    l2.set(Field::VMX_PREEMPTION_TIMER_VALUE, 1000);
    exits("with it", l2.run(), Reason::PreemptionTimer)
}

fn interrupt_window() -> Verdict {
    let mut l2 = l2_with(PRIMARY, 1 << 2, code!("nop", "vmcall"));
    exits("with IF clear", l2.run(), Reason::Vmcall)?;
    l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
    exits("with IF set", l2.run(), Reason::InterruptWindow)?;
    l2.modify(PRIMARY, 0, 1 << 2);
    exits("without it", l2.run(), Reason::Vmcall)
}

fn nmi_window() -> Verdict {
    let mut l2 = l2_with(PIN, 1 << 3 | 1 << 5, code!("nop", "vmcall"));
    l2.add(PRIMARY, 1 << 22);
    exits("with NMIs open", l2.run(), Reason::NmiWindow)?;
    l2.set(Field::GUEST_INTERRUPTIBILITY, 8);
    exits("with NMIs blocked", l2.run(), Reason::Vmcall)
}

/// What RDTSC gives in L2 is L1's clock moved by the offset, or L1's own.
fn tsc_offset() -> Verdict {
    let mut l2 = l2_with(PRIMARY, 1 << 3, code!("rdtsc", "vmcall"));
    for offset in [1u64 << 40, (1u64 << 50).wrapping_neg()] {
        l2.set(Field::TSC_OFFSET, offset);
        l2.add(PRIMARY, 1 << 3);
        for counts in [offset, 0] {
            let before = cpu::tsc();
            exits("RDTSC", l2.run(), Reason::Vmcall)?;
            let after = cpu::tsc();
            let value = l2.registers[reg::RAX] & 0xffff_ffff | l2.registers[reg::RDX] << 32;
            let moved = value.wrapping_sub(counts);
            holds(
                (before..=after).contains(&moved),
                "another time than expected",
            )?;
            l2.set_code(code!("rdtsc", "vmcall"));
            l2.modify(PRIMARY, 0, 1 << 3);
        }
    }
    Ok(())
}

/// Arms L1's timer.
fn arm(ticks: u32) {
    apic::write(register::DIVIDE, timer::DIVIDE_BY_1);
    apic::write(register::LVT_TIMER, timer::ONE_SHOT | u32::from(VECTOR));
    apic::write(register::INITIAL_COUNT, ticks);
}

fn hlt() -> Verdict {
    let code = code!("hlt", "vmcall");
    let mut l2 = l2_with(PRIMARY, 1 << 7, code);
    exits("with it", l2.run(), Reason::Hlt)?;
    l2.modify(PRIMARY, 0, 1 << 7);
    l2.add(PIN, 1);
    l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
    arm(300_000);
    exits(
        "halted, the timer comes",
        l2.run(),
        Reason::ExternalInterrupt,
    )?;
    cpu::interrupt_window();
    equal("RIP behind HLT", l2.get(Field::GUEST_RIP), code + 1)
}

fn tpr_shadow() -> Verdict {
    let mut l2 = l2_with(PRIMARY, 1 << 21, code!("mov rax, cr8", "vmcall"));
    let page = memory::page();
    memory::write(page + 0x80, 0x50u32);
    l2.set(Field::VIRTUAL_APIC_ADDRESS, page);
    l2.set(Field::TPR_THRESHOLD, 3);
    exits("reading", l2.run(), Reason::Vmcall)?;
    equal("CR8", l2.registers[reg::RAX], 5u64)?;
    l2.set_code(code!("mov eax, 2", "mov cr8, rax", "nop", "vmcall"));
    exits(
        "falling below the threshold",
        l2.run(),
        Reason::TprBelowThreshold,
    )?;
    equal("TPR in the page", memory::read::<u32>(page + 0x80), 0x20u32)?;
    l2.modify(PRIMARY, 0, 1 << 21);
    l2.set(Field::TPR_THRESHOLD, 0);
    l2.set_code(code!("mov rax, cr8", "vmcall"));
    exits("without it", l2.run(), Reason::Vmcall)?;
    equal("L1's CR8", l2.registers[reg::RAX], 0u64)
}

fn io_bitmaps() -> Verdict {
    let code = code!("mov dx, 0x3ff", "in al, dx", "vmcall");
    let mut l2 = l2_with(PRIMARY, 1 << 25, code);
    let (low, high) = (memory::page(), memory::page());
    l2.set(Field::IO_BITMAP_A, low);
    l2.set(Field::IO_BITMAP_B, high);
    exits("the bit clear", l2.run(), Reason::Vmcall)?;
    memory::write(low + 0x3ff / 8, 1u8 << 7);
    l2.set(Field::IO_BITMAP_A, low);
    l2.set_code(code);
    exits("the bit set", l2.run(), Reason::IoInstruction)
}

fn monitor_trap() -> Verdict {
    let code = code!("nop", "nop", "vmcall");
    let mut l2 = l2_with(PRIMARY, 1 << 27, code);
    exits("with it", l2.run(), Reason::MonitorTrapFlag)?;
    equal("RIP", l2.get(Field::GUEST_RIP), code + 1)
}

fn msr_bitmaps() -> Verdict {
    let code = code!("mov ecx, 0xC0000100", "rdmsr", "vmcall");
    let mut l2 = L2::new(code);
    let bitmap = open_msrs(&l2);
    exits("the bit clear", l2.run(), Reason::Vmcall)?;
    memory::write(bitmap + 0x400 + 0x100 / 8, 1u8);
    l2.set(Field::MSR_BITMAP, bitmap);
    l2.set_code(code);
    exits("the bit set", l2.run(), Reason::Rdmsr)?;
    memory::write(bitmap + 0x400 + 0x100 / 8, 0u8);
    l2.modify(PRIMARY, 0, 1 << 28);
    l2.set_code(code);
    exits("without it", l2.run(), Reason::Rdmsr)
}

fn secondary_in_use() -> Verdict {
    let wbinvd = 1 << 6;
    let mut l2 = l2_with(Field::SECONDARY_CONTROLS, wbinvd, code!("wbinvd", "vmcall"));
    exits("with it", l2.run(), Reason::Wbinvd)?;
    l2.modify(PRIMARY, 0, 1 << 31);
    exits("without it", l2.run(), Reason::Vmcall)?;
    equal("exceptions", is_in_handler(&l2), false)
}
