//! Windows, and L1's own interrupts while L2 runs.

use ::vmx::{
    BasicExitReason as Reason, ExitControls, Field, InterruptionInfo, PinControls, PrimaryControls,
};

use super::expect;
use super::injection::inject;
use crate::rt::apic::{self, Delivery, register, timer};
use crate::rt::cpu::RFLAGS_IF;
use crate::rt::fault;
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::guest::{self, code};
use crate::vm::l2::reg;
use crate::vm::{L2, operation};

const VECTOR: u8 = 0x61;

fn use_pin(l2: &L2, controls: PinControls) {
    l2.add(Field::PIN_BASED_CONTROLS, u64::from(controls.bits()));
}

/// Interrupt-window and NMI-window exiting.
pub fn windows(check: &Check) {
    let code = code!("nop", "sti", "nop", "nop", "vmcall");
    let mut l2 = L2::new(code);
    l2.use_primary(PrimaryControls::INTERRUPT_WINDOW_EXITING);
    expect(check, "opens by STI", &mut l2, Reason::InterruptWindow);
    check.equal(
        "one instruction after it",
        l2.get(Field::GUEST_RIP),
        code + 3,
    );
    check.equal("no blocking", l2.get(Field::GUEST_INTERRUPTIBILITY), 0);
    expect(check, "again at once", &mut l2, Reason::InterruptWindow);
    check.equal("at the same place", l2.get(Field::GUEST_RIP), code + 3);
    l2.set(Field::GUEST_INTERRUPTIBILITY, 1);
    expect(
        check,
        "not in the shadow of STI",
        &mut l2,
        Reason::InterruptWindow,
    );
    check.equal("one instruction later", l2.get(Field::GUEST_RIP), code + 4);
    inject(&l2, InterruptionInfo::external_interrupt(0x55), 0, 0);
    expect(check, "the handler has IF clear", &mut l2, Reason::Vmcall);
    check.equal(
        "in it",
        guest::vector_at(l2.get(Field::GUEST_RIP)),
        Some(0x55),
    );

    operation::leave();
    let mut l2 = L2::new(code!("nop", "vmcall"));
    use_pin(&l2, PinControls::NMI_EXITING | PinControls::VIRTUAL_NMIS);
    l2.use_primary(PrimaryControls::NMI_WINDOW_EXITING);
    expect(check, "NMI window, open", &mut l2, Reason::NmiWindow);
    l2.set(Field::GUEST_INTERRUPTIBILITY, 8);
    expect(check, "NMI window, blocked", &mut l2, Reason::Vmcall);
    operation::leave();
    let mut l2 = L2::new(code!("nop", "vmcall"));
    use_pin(&l2, PinControls::NMI_EXITING | PinControls::VIRTUAL_NMIS);
    inject(&l2, InterruptionInfo::nmi(), 0, 0);
    expect(check, "NMI handler", &mut l2, Reason::Vmcall);
    l2.skip_instruction();
    l2.use_primary(PrimaryControls::NMI_WINDOW_EXITING);
    expect(check, "NMI window after IRET", &mut l2, Reason::NmiWindow);
}

/// An interrupt that is pending for L1 when it enters L2.
pub fn pending(check: &Check) {
    let mark = memory::mark();
    for (acknowledges, with_if) in [(false, true), (true, true), (false, false), (true, false)] {
        if !with_if && !cpu::is_virtual() {
            check.skip("IF clear", "Bochs holds the exit back");
            continue;
        }
        memory::release(mark);
        operation::leave();
        let code = code!("mov eax, 1", "2: pause", "jmp 2b");
        let mut l2 = L2::new(code);
        use_pin(&l2, PinControls::EXTERNAL_INTERRUPT_EXITING);
        if acknowledges {
            l2.add(
                Field::EXIT_CONTROLS,
                u64::from(ExitControls::ACK_INTERRUPT.bits()),
            );
        }
        if with_if {
            l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
        }
        apic::send_self(VECTOR);
        check.equal("is requested", apic::is_requested(VECTOR), true);
        let name = match (acknowledges, with_if) {
            (false, true) => "IF set",
            (true, true) => "IF set, acknowledged",
            (false, false) => "IF clear",
            (true, false) => "IF clear, acknowledged",
        };
        let counted = fault::count(VECTOR);
        expect(check, name, &mut l2, Reason::ExternalInterrupt);
        check.equal(
            format_args!("{name}: before any instruction"),
            l2.get(Field::GUEST_RIP),
            code,
        );
        let info = l2.get(Field::EXIT_INTERRUPTION_INFO);
        if acknowledges {
            check.equal(
                format_args!("{name}: information"),
                info,
                0x8000_0000 | u64::from(VECTOR),
            );
            check.equal(
                format_args!("{name}: requested"),
                apic::is_requested(VECTOR),
                false,
            );
            check.equal(
                format_args!("{name}: in service"),
                apic::is_in_service(VECTOR),
                true,
            );
            apic::eoi();
            check.equal(
                format_args!("{name}: not after EOI"),
                apic::is_in_service(VECTOR),
                false,
            );
        } else {
            check.equal(format_args!("{name}: no information"), info >> 31, 0);
            check.equal(
                format_args!("{name}: still requested"),
                apic::is_requested(VECTOR),
                true,
            );
            cpu::interrupt_window();
            check.equal(
                format_args!("{name}: L1 takes it"),
                fault::count(VECTOR),
                counted + 1,
            );
        }
    }
}

fn arm(ticks: u32) {
    apic::write(register::DIVIDE, timer::DIVIDE_BY_1);
    apic::write(register::LVT_TIMER, timer::ONE_SHOT | u32::from(VECTOR));
    apic::write(register::INITIAL_COUNT, ticks);
}

/// An interrupt that comes while L2 spins.
pub fn while_spinning(check: &Check) {
    let mark = memory::mark();
    for with_if in [true, false] {
        if !with_if && !cpu::is_virtual() {
            check.skip("IF clear", "Bochs holds the exit back");
            continue;
        }
        memory::release(mark);
        operation::leave();
        let mut l2 = L2::new(code!("2: inc rax", "jmp 2b"));
        use_pin(&l2, PinControls::EXTERNAL_INTERRUPT_EXITING);
        l2.set(Field::GUEST_RFLAGS, if with_if { RFLAGS_IF | 2 } else { 2 });
        let counted = fault::count(VECTOR);
        arm(500_000);
        let name = if with_if { "IF set" } else { "IF clear" };
        expect(check, name, &mut l2, Reason::ExternalInterrupt);
        check.that(
            format_args!("{name}: L2 ran"),
            l2.registers[reg::RAX] > 0,
            "it did not",
        );
        cpu::interrupt_window();
        check.equal(
            format_args!("{name}: L1 takes it"),
            fault::count(VECTOR),
            counted + 1,
        );
        check.equal(
            format_args!("{name}: not vectoring"),
            l2.get(Field::IDT_VECTORING_INFO) >> 31,
            0,
        );
    }
}

/// Without external-interrupt exiting L1's interrupts are L2's.
pub fn to_l2(check: &Check) {
    let mut l2 = L2::new(code!("nop", "sti", "2: pause", "jmp 2b"));
    apic::send_self(VECTOR);
    expect(check, "L2's handler", &mut l2, Reason::Vmcall);
    check.equal(
        "its vector",
        guest::vector_at(l2.get(Field::GUEST_RIP)),
        Some(VECTOR),
    );
    check.equal("in service", apic::is_in_service(VECTOR), true);
    apic::eoi();
    l2.set_code(code!("2: inc rax", "jmp 2b"));
    l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
    arm(300_000);
    expect(check, "while L2 spins", &mut l2, Reason::Vmcall);
    check.equal(
        "its vector",
        guest::vector_at(l2.get(Field::GUEST_RIP)),
        Some(VECTOR),
    );
    apic::eoi();
}

/// NMIs of L1's own.
pub fn nmi(check: &Check) {
    let before = fault::count(2);
    apic::send(apic::id(), Delivery::Nmi, 0);
    cpu::spin(2000);
    check.equal("an NMI without L2", fault::count(2), before + 1);
    let mut l2 = L2::new(code!("2: pause", "jmp 2b"));
    use_pin(&l2, PinControls::NMI_EXITING);
    // L2 sends it, by L1's APIC, which is in x2APIC mode and open to it.
    l2.set_code(code!(
        "mov ecx, 0x830",
        "xor edx, edx",
        "wrmsr",
        "2: pause",
        "jmp 2b"
    ));
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS);
    l2.registers[reg::RAX] = Delivery::Nmi as u64;
    let before = fault::count(2);
    if expect(check, "an NMI in L2", &mut l2, Reason::ExceptionOrNmi) {
        check.equal(
            "information",
            l2.get(Field::EXIT_INTERRUPTION_INFO),
            0x8000_0202,
        );
        check.equal("L1's handler did not run", fault::count(2), before);
        apic::send(apic::id(), Delivery::Nmi, 0);
        cpu::spin(2000);
        check.equal("NMIs are blocked after the exit", fault::count(2), before);
        iret();
        cpu::spin(2000);
        check.equal("and come after IRET", fault::count(2), before + 1);
    }
}

/// IRETQ to the next instruction.
fn iret() {
    // SAFETY: the frame leads on with the same stack and segments.
    unsafe {
        core::arch::asm!(
            "mov {old}, rsp", "push {ss}", "push {old}", "pushfq", "push {cs}",
            "lea {next}, [rip + 2f]", "push {next}", "iretq", "2:",
            old = out(reg) _, next = out(reg) _,
            ss = in(reg) u64::from(crate::rt::segments::DATA),
            cs = in(reg) u64::from(crate::rt::segments::CODE),
        );
    }
}

/// HLT without HLT exiting, and the activity state HLT.
pub fn hlt(check: &Check) {
    let mut l2 = L2::new(code!("hlt", "vmcall"));
    let exiting = u64::from(PrimaryControls::HLT_EXITING.bits());
    l2.modify(Field::PRIMARY_CONTROLS, 0, exiting);
    use_pin(&l2, PinControls::EXTERNAL_INTERRUPT_EXITING);
    l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
    arm(500_000);
    if expect(
        check,
        "L2 halts, the timer wakes",
        &mut l2,
        Reason::ExternalInterrupt,
    ) {
        if cpu::is_virtual() {
            // Bochs leaves the state before it exits.
            check.equal(
                "activity state HLT is saved",
                l2.get(Field::GUEST_ACTIVITY_STATE),
                1,
            );
        }
        cpu::interrupt_window();
        l2.set(Field::GUEST_ACTIVITY_STATE, 0);
        expect(check, "goes on behind HLT", &mut l2, Reason::Vmcall);
    }
    if !cpu::is_virtual() {
        return check.skip("entry into HLT", "the emulator may hang");
    }
    operation::leave();
    let mut l2 = L2::new(code!("vmcall"));
    use_pin(&l2, PinControls::EXTERNAL_INTERRUPT_EXITING);
    l2.set(Field::GUEST_ACTIVITY_STATE, 1);
    arm(500_000);
    expect(
        check,
        "entered halted, the timer wakes",
        &mut l2,
        Reason::ExternalInterrupt,
    );
    check.equal("no instruction ran", l2.get(Field::GUEST_ACTIVITY_STATE), 1);
    cpu::interrupt_window();
    // An injected event wakes at once.
    l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
    inject(&l2, InterruptionInfo::external_interrupt(0x70), 0, 0);
    expect(
        check,
        "entered halted, with an interrupt",
        &mut l2,
        Reason::Vmcall,
    );
    check.equal(
        "its handler",
        guest::vector_at(l2.get(Field::GUEST_RIP)),
        Some(0x70),
    );
    check.equal("active", l2.get(Field::GUEST_ACTIVITY_STATE), 0);
    // So does an open window that L1 asked for.
    l2.set(Field::GUEST_ACTIVITY_STATE, 1);
    l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
    l2.use_primary(PrimaryControls::INTERRUPT_WINDOW_EXITING);
    arm(5_000_000);
    expect(
        check,
        "entered halted, with an open window",
        &mut l2,
        Reason::InterruptWindow,
    );
    apic::stop_timer();
}
