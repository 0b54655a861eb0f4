//! Events that L1 injects into L2.

use ::vmx::{BasicExitReason as Reason, EventType, Field, InterruptionInfo, PinControls};

use super::expect;
use crate::rt::cpu::RFLAGS_IF;
use crate::rt::harness::Check;
use crate::rt::memory;
use crate::vm::guest::{self, VMCALL_BYTES, code};
use crate::vm::l2::reg;
use crate::vm::{L2, operation};

/// An event: its name, information, error code, and by how much the saved RIP is ahead.
pub const EVENTS: &[(&str, InterruptionInfo, u64, u64)] = &[
    (
        "interrupt",
        InterruptionInfo::external_interrupt(0x55),
        0,
        0,
    ),
    ("NMI", InterruptionInfo::nmi(), 0, 0),
    ("#UD", InterruptionInfo::exception(6), 0, 0),
    ("#GP", InterruptionInfo::exception(13), 0x1234, 0),
    ("#PF", InterruptionInfo::exception(14), 0x6, 0),
    (
        "INT n",
        InterruptionInfo::new(EventType::SoftwareInterrupt, 0x77),
        0,
        2,
    ),
    (
        "INT3",
        InterruptionInfo::new(EventType::SoftwareException, 3),
        0,
        1,
    ),
    (
        "INT1",
        InterruptionInfo::new(EventType::PrivilegedSoftwareException, 1),
        0,
        1,
    ),
];

/// Puts an event into the VM-entry fields.
pub fn inject(l2: &L2, info: InterruptionInfo, error: u64, length: u64) {
    l2.set(Field::ENTRY_INTERRUPTION_INFO, u64::from(info.raw()));
    l2.set(Field::ENTRY_EXCEPTION_ERROR_CODE, error);
    l2.set(Field::ENTRY_INSTRUCTION_LENGTH, length);
}

/// Each type arrives, with the right stack frame, once.
pub fn every_type(check: &Check) {
    let mark = memory::mark();
    let code = code!("nop", "nop", "nop", "mov eax, 0x600d", "cpuid");
    for (name, info, error, length) in EVENTS {
        memory::release(mark);
        operation::leave();
        let mut l2 = L2::new(code);
        l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
        inject(&l2, *info, *error, *length);
        if !expect(check, name, &mut l2, Reason::Vmcall) {
            continue;
        }
        check.equal(
            format_args!("{name}: handler"),
            guest::vector_at(l2.get(Field::GUEST_RIP)),
            Some(info.vector()),
        );
        check.equal(
            format_args!("{name}: no longer to inject"),
            l2.get(Field::ENTRY_INTERRUPTION_INFO) >> 31,
            0,
        );
        check.equal(
            format_args!("{name}: IF"),
            l2.get(Field::GUEST_RFLAGS) & RFLAGS_IF,
            0,
        );
        let mut frame = l2.get(Field::GUEST_RSP);
        if info.has_error_code() {
            check.equal(
                format_args!("{name}: error code"),
                memory::read::<u64>(frame),
                *error,
            );
            frame += 8;
        }
        check.equal(
            format_args!("{name}: saved RIP"),
            memory::read::<u64>(frame),
            code + length,
        );
        check.equal(
            format_args!("{name}: saved CS"),
            memory::read::<u64>(frame + 8),
            8,
        );
        check.equal(
            format_args!("{name}: saved IF"),
            memory::read::<u64>(frame + 16) & RFLAGS_IF,
            RFLAGS_IF,
        );
        check.equal(
            format_args!("{name}: saved RSP"),
            memory::read::<u64>(frame + 24),
            l2.stack,
        );
        // Back behind the VMCALL, to IRETQ, and on to the end.
        l2.set(Field::GUEST_RSP, frame);
        l2.set(Field::GUEST_RIP, l2.get(Field::GUEST_RIP) + VMCALL_BYTES);
        memory::write(frame, code);
        expect(
            check,
            "the interrupted code goes on",
            &mut l2,
            Reason::Cpuid,
        );
        check.equal(
            format_args!("{name}: to its end"),
            l2.registers[reg::RAX],
            0x600d,
        );
    }
}

/// An injected NMI blocks NMIs until IRET.
pub fn nmi_blocking(check: &Check) {
    let mut l2 = L2::new(code!("nop", "vmcall"));
    let pin = PinControls::NMI_EXITING | PinControls::VIRTUAL_NMIS;
    l2.add(Field::PIN_BASED_CONTROLS, u64::from(pin.bits()));
    inject(&l2, InterruptionInfo::nmi(), 0, 0);
    expect(check, "in the handler", &mut l2, Reason::Vmcall);
    check.equal("NMIs are blocked", l2.get(Field::GUEST_INTERRUPTIBILITY), 8);
    l2.skip_instruction();
    expect(check, "after IRET", &mut l2, Reason::Vmcall);
    check.equal(
        "NMIs are not blocked",
        l2.get(Field::GUEST_INTERRUPTIBILITY),
        0,
    );
}
