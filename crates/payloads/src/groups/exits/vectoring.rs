//! Exits in the middle of an event's delivery: holes in the EPT under the IDT and the stack.

use ::vmx::ept::Access;
use ::vmx::{BasicExitReason as Reason, Field};

use super::expect;
use super::injection::{EVENTS, inject};
use crate::rt::cpu::RFLAGS_IF;
use crate::rt::harness::Check;
use crate::rt::memory;
use crate::vm::guest::{self, code};
use crate::vm::{L2, operation};

/// What an exit during delivery must say, and that the event arrives when L1 puts it back.
fn deliver_in_two_steps(check: &Check, hole: fn(&L2) -> u64, where_to: fn(&L2, u8) -> u64) {
    let mark = memory::mark();
    for (name, info, error, length) in EVENTS {
        memory::release(mark);
        operation::leave();
        let mut l2 = L2::new(code!("2: pause", "jmp 2b"));
        l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
        let page = hole(&l2);
        l2.ept.unmap(page);
        inject(&l2, *info, *error, *length);
        if !expect(check, name, &mut l2, Reason::EptViolation) {
            continue;
        }
        let vectoring = l2.get(Field::IDT_VECTORING_INFO);
        check.equal(
            format_args!("{name}: vectoring information"),
            vectoring & !(1 << 12),
            u64::from(info.raw()),
        );
        if info.has_error_code() {
            check.equal(
                format_args!("{name}: vectoring error code"),
                l2.get(Field::IDT_VECTORING_ERROR_CODE),
                *error,
            );
        }
        if info.event_type().is_software() {
            check.equal(
                format_args!("{name}: instruction length"),
                l2.get(Field::EXIT_INSTRUCTION_LENGTH),
                *length,
            );
        }
        check.equal(
            format_args!("{name}: physical address"),
            l2.get(Field::GUEST_PHYSICAL_ADDRESS) & !0xf,
            where_to(&l2, info.vector()) & !0xf,
        );
        check.equal(
            format_args!("{name}: no permissions"),
            l2.get(Field::EXIT_QUALIFICATION) >> 3 & 7,
            0,
        );
        check.equal(
            format_args!("{name}: linear address valid"),
            l2.get(Field::EXIT_QUALIFICATION) >> 7 & 3,
            3,
        );
        check.equal(
            format_args!("{name}: RSP stays"),
            l2.get(Field::GUEST_RSP),
            l2.stack,
        );
        check.equal(
            format_args!("{name}: no longer to inject"),
            l2.get(Field::ENTRY_INTERRUPTION_INFO) >> 31,
            0,
        );
        // Map the page, and put the event back.
        l2.ept.protect(page, Access::RWX);
        // The processor may say that NMIs are blocked by the NMI that did not arrive.
        l2.set(Field::GUEST_INTERRUPTIBILITY, 0);
        inject(&l2, *info, *error, *length);
        if expect(check, name, &mut l2, Reason::Vmcall) {
            check.equal(
                format_args!("{name}: arrives"),
                guest::vector_at(l2.get(Field::GUEST_RIP)),
                Some(info.vector()),
            );
        }
    }
}

/// A hole under L2's IDT.
pub fn idt_hole(check: &Check) {
    deliver_in_two_steps(
        check,
        |l2| l2.idt,
        |l2, vector| l2.idt + u64::from(vector) * 16,
    );
}

/// A hole under L2's stack.
pub fn stack_hole(check: &Check) {
    deliver_in_two_steps(
        check,
        |l2| l2.stack & !0xfff,
        // Bits 3:0 aside, the frame begins right below an aligned stack pointer.
        |l2, _| l2.stack - 16,
    );
}

/// Events of L2's own making that meet a hole.
pub fn own_events(check: &Check) {
    let cases: [(&str, u64, u64, u64); 4] = [
        ("ud2", code!("ud2"), 0x8000_0306, 0),
        ("int 0x44", code!("int 0x44"), 0x8000_0444, 2),
        ("int3", code!("int3"), 0x8000_0603, 1),
        (
            "#GP",
            code!("mov eax, 0x1230", "mov ds, eax"),
            0x8000_0b0d,
            0,
        ),
    ];
    let mark = memory::mark();
    for (name, code, info, length) in cases {
        memory::release(mark);
        operation::leave();
        let mut l2 = L2::new(code);
        l2.ept.unmap(l2.idt);
        if !expect(check, name, &mut l2, Reason::EptViolation) {
            continue;
        }
        check.equal(
            format_args!("{name}: vectoring information"),
            l2.get(Field::IDT_VECTORING_INFO),
            info,
        );
        if length != 0 {
            check.equal(
                format_args!("{name}: length"),
                l2.get(Field::EXIT_INSTRUCTION_LENGTH),
                length,
            );
        }
        l2.ept.protect(l2.idt, Access::RWX);
        // Without the event the instruction runs again, and raises it again.
        if expect(check, name, &mut l2, Reason::Vmcall) {
            check.equal(
                format_args!("{name}: arrives"),
                guest::vector_at(l2.get(Field::GUEST_RIP)).map(u64::from),
                Some(info & 0xff),
            );
        }
    }
}
