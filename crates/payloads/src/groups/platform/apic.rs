//! The local APIC.

use crate::rt::apic::{self, Delivery, register as reg};
use crate::rt::fault::{self, Fault};
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};

const VECTOR: u8 = 0x51;

/// The registers in xAPIC mode.
pub fn xapic(check: &Check) {
    let base = cpu::msr(cpu::MSR_APIC_BASE);
    check.equal("its place", base & 0xf_ffff_f000, apic::BASE);
    check.equal("enabled, the bootstrap processor", base & 0x900, 0x900);
    if base & apic::BASE_X2APIC != 0 {
        return check.skip("the rest", "already in x2APIC mode");
    }
    if cpu::is_virtual() {
        check.equal(
            "x2APIC MSRs are none in this mode",
            cpu::rdmsr(0x802),
            Err(Fault::GP),
        );
    }
    check.equal(
        "identifier",
        apic::read(reg::ID) >> 24,
        cpu::cpuid(1, 0)[1] >> 24,
    );
    let version = apic::read(reg::VERSION);
    check.that(
        "version",
        (0x10..0x20).contains(&(version & 0xff)),
        format_args!("{version:#x}"),
    );
    for value in [0x10, 0xff, 0] {
        apic::write(reg::TPR, value);
        check.equal("task priority", apic::read(reg::TPR), value);
        check.equal("processor priority", apic::read(reg::PPR), value);
    }
    apic::write(reg::LDR, 0xffff_ffff);
    check.equal("logical destination", apic::read(reg::LDR), 0xff00_0000);
    apic::write(reg::LDR, 0x0100_0000);
    let memory_at = apic::BASE + u64::from(reg::TPR);
    // Every addressing form that a compiler may pick for device registers.
    let value: u32;
    // SAFETY: the task priority register.
    unsafe {
        core::arch::asm!("mov dword ptr [{at}], 0x30", "mov {value:e}, [{at} + {zero}]",
            at = in(reg) memory_at, zero = in(reg) 0u64, value = out(reg) value);
    }
    check.equal("stored as an immediate, loaded with an index", value, 0x30);
}

/// XCHG reads and writes a register at once.
pub fn xapic_read_modify_write(check: &Check) {
    if cpu::msr(cpu::MSR_APIC_BASE) & apic::BASE_X2APIC != 0 {
        return check.skip("all", "already in x2APIC mode");
    }
    let memory_at = apic::BASE + u64::from(reg::TPR);
    apic::write(reg::TPR, 0x30);
    let mut r11 = 0x40u64;
    // SAFETY: as above.
    unsafe { core::arch::asm!("xchg [{at}], r11d", at = in(reg) memory_at, inout("r11") r11) };
    check.equal(
        "exchanged",
        (r11, memory::read::<u32>(memory_at)),
        (0x30, 0x40),
    );
    let mut flags = 0u64;
    let mut ecx = 0x55u64;
    // SAFETY: the task-priority register, which holds back no interrupt that this test needs.
    unsafe {
        core::arch::asm!(
            "or dword ptr [{at}], 0x13",
            "and dword ptr [{at}], {mask:e}",
            "lock xor dword ptr [{at}], 1",
            "sub dword ptr [{at}], 2",
            "inc dword ptr [{at}]",
            "add ecx, [{at}]",
            "cmp dword ptr [{at}], 0x51",
            "pushfq",
            "pop {flags}",
            at = in(reg) memory_at,
            mask = in(reg) 0xf3u64,
            flags = out(reg) flags,
            inout("rcx") ecx,
        )
    };
    // 0x40 | 0x13 = 0x53; & 0xf3; ^ 1 = 0x52; - 2 = 0x50; + 1 = 0x51.
    check.equal("computed in place", memory::read::<u32>(memory_at), 0x51);
    check.equal("added to a register", ecx, 0x55 + 0x51);
    check.equal("compared: equal", flags >> 6 & 1, 1);
    apic::write(reg::TPR, 0);
}

/// Requests, priorities and ends of interrupts, in either mode.
pub fn interrupts(check: &Check) {
    let before = fault::count(VECTOR);
    apic::send_self(VECTOR);
    check.equal("requested", apic::is_requested(VECTOR), true);
    check.equal("not taken with IF clear", fault::count(VECTOR), before);
    cpu::interrupt_window();
    check.equal("taken with IF set", fault::count(VECTOR), before + 1);
    check.equal("no longer requested", apic::is_requested(VECTOR), false);
    apic::write(reg::TPR, 0x50);
    apic::send_self(VECTOR);
    cpu::interrupt_window();
    check.equal(
        "held back by the task priority",
        fault::count(VECTOR),
        before + 1,
    );
    apic::write(reg::TPR, 0x40);
    cpu::interrupt_window();
    check.equal("let through", fault::count(VECTOR), before + 2);
    apic::write(reg::TPR, 0);
    fault::set_automatic_eoi(false);
    let high = fault::count(0x91);
    apic::send_self(0x91);
    apic::send_self(VECTOR);
    cpu::interrupt_window();
    cpu::interrupt_window();
    check.equal(
        "the higher one first",
        (fault::count(0x91), fault::count(VECTOR)),
        (high + 1, before + 2),
    );
    check.equal("in service", apic::is_in_service(0x91), true);
    check.equal("processor priority", apic::read(reg::PPR) & 0xf0, 0x90);
    apic::eoi();
    cpu::interrupt_window();
    check.equal(
        "the lower one after its end",
        fault::count(VECTOR),
        before + 3,
    );
    apic::eoi();
    fault::set_automatic_eoi(true);
    check.equal("nothing in service", apic::read(reg::PPR), 0);
    let nmis = fault::count(2);
    apic::send(apic::id(), Delivery::Nmi, 0);
    cpu::spin(1000);
    check.equal("an NMI to itself", fault::count(2), nmis + 1);
    apic::send_raw(0, 2 << 18 | u32::from(VECTOR));
    cpu::interrupt_window();
    check.equal("all, with itself", fault::count(VECTOR), before + 4);
    apic::send_raw(0, 3 << 18 | u32::from(VECTOR));
    cpu::interrupt_window();
    check.equal("all but itself", fault::count(VECTOR), before + 4);
    apic::send(0xfe, Delivery::Fixed, VECTOR);
    cpu::interrupt_window();
    check.equal("nobody", fault::count(VECTOR), before + 4);
}

/// Into x2APIC mode, its MSRs, and what is refused there.
pub fn x2apic(check: &Check) {
    if cpu::cpuid(1, 0)[2] >> 21 & 1 == 0 {
        return check.skip("all", "CPUID shows none");
    }
    apic::use_x2apic();
    check.equal("in the mode", cpu::msr(cpu::MSR_APIC_BASE) & 0xc00, 0xc00);
    check.equal(
        "identifier",
        cpu::msr(0x802),
        u64::from(cpu::cpuid(0xb, 0)[3]),
    );
    let id = cpu::msr(0x802);
    check.equal(
        "logical destination",
        cpu::msr(0x80d),
        (id >> 4) << 16 | 1 << (id & 15),
    );
    let refused = [
        ("write the identifier", 0x802, 1),
        ("write the version", 0x803, 0),
        ("write the logical destination", 0x80d, 0),
        ("TPR beyond 8 bits", 0x808, 0x100),
        ("EOI other than 0", 0x80b, 1),
        ("SVR reserved bits", 0x80f, 1 << 31),
        ("ESR other than 0", 0x828, 1),
        ("LVT reserved bits", 0x832, 1 << 31),
        ("write the current count", 0x839, 1),
        ("self-IPI reserved bits", 0x83f, 0x100),
        ("DFR does not exist", 0x80e, 0),
        ("ICR high does not exist", 0x831, 0),
        ("back to xAPIC mode", cpu::MSR_APIC_BASE, apic::BASE | 0x900),
        (
            "x2APIC without enable",
            cpu::MSR_APIC_BASE,
            apic::BASE | 0x500,
        ),
    ];
    for (name, msr, value) in refused {
        // Bochs does not check each.
        if cpu::is_virtual() {
            check.equal(name, cpu::wrmsr(msr, value), Err(Fault::GP));
        }
    }
    for msr in [0x80b, 0x83f] {
        if cpu::is_virtual() {
            check.equal(
                format_args!("read {msr:#x}"),
                cpu::rdmsr(msr),
                Err(Fault::GP),
            );
        }
    }
    let before = fault::count(0x52);
    check.equal("self-IPI", cpu::wrmsr(0x83f, 0x52), Ok(()));
    cpu::interrupt_window();
    check.equal("taken", fault::count(0x52), before + 1);
}

/// Disabled and enabled again: xAPIC mode, everything at reset.
pub fn off(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "the emulator does not come back");
    }
    apic::write(reg::TPR, 0x20);
    check.equal(
        "off",
        cpu::wrmsr(cpu::MSR_APIC_BASE, apic::BASE | apic::BASE_BSP),
        Ok(()),
    );
    check.equal("CPUID shows none", cpu::cpuid(1, 0)[3] >> 9 & 1, 0);
    check.equal("x2APIC MSRs are none", cpu::rdmsr(0x802), Err(Fault::GP));
    check.equal(
        "on, in xAPIC mode",
        cpu::wrmsr(cpu::MSR_APIC_BASE, apic::BASE | 0x900),
        Ok(()),
    );
    apic::initialise();
    check.equal("task priority at reset", apic::read(reg::TPR), 0);
    check.equal("CPUID shows one", cpu::cpuid(1, 0)[3] >> 9 & 1, 1);
    interrupts(check);
    apic::use_x2apic();
}
