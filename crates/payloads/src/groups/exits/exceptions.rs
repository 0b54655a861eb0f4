//! Exceptions of L2: intercepted, or delivered through its IDT.

use ::vmx::{BasicExitReason as Reason, Field};

use super::expect;
use crate::rt::harness::Check;
use crate::rt::{cpu, memory, paging};
use crate::vm::guest::{self, code};
use crate::vm::l2::reg;
use crate::vm::{L2, operation};

/// The vector whose handler L2 is in, after a VMCALL.
fn vector(l2: &L2) -> Option<u8> {
    guest::vector_at(l2.get(Field::GUEST_RIP))
}

/// Name, code, vector, information, error code, instruction length for software's events.
type Case = (&'static str, u64, u8, u64, Option<u64>, Option<u64>);

/// Each vector's bit: an exit with the event's information, or delivery.
pub fn bitmap(check: &Check) {
    let cases: [Case; 7] = [
        ("#UD", code!("ud2"), 6, 0x8000_0306, None, None),
        (
            "#GP",
            code!("mov ax, 0x1230", "mov ds, ax"),
            13,
            0x8000_0b0d,
            Some(0x1230),
            None,
        ),
        ("#BP", code!("int3"), 3, 0x8000_0603, None, Some(1)),
        (
            "#DE",
            code!("xor ecx, ecx", "div ecx"),
            0,
            0x8000_0300,
            None,
            None,
        ),
        (
            "#DB by INT1",
            code!(".byte 0xf1"),
            1,
            0x8000_0501,
            None,
            Some(1),
        ),
        (
            "#NM",
            code!("mov rax, cr0", "or eax, 8", "mov cr0, rax", "fninit"),
            7,
            0x8000_0307,
            None,
            None,
        ),
        (
            "#SS",
            code!("mov rbp, 0x8000000000000000", "mov rax, [rbp]"),
            12,
            0x8000_0b0c,
            Some(0),
            None,
        ),
    ];
    let mark = memory::mark();
    for (name, code, vector_number, info, error, length) in cases {
        memory::release(mark);
        operation::leave();
        let mut l2 = L2::new(code);
        l2.set(Field::EXCEPTION_BITMAP, 1 << vector_number);
        if expect(check, name, &mut l2, Reason::ExceptionOrNmi) {
            check.equal(
                format_args!("{name}: information"),
                l2.get(Field::EXIT_INTERRUPTION_INFO),
                info,
            );
            if let Some(error) = error {
                check.equal(
                    format_args!("{name}: error code"),
                    l2.get(Field::EXIT_INTERRUPTION_ERROR_CODE),
                    error,
                );
            }
            if let Some(length) = length {
                check.equal(
                    format_args!("{name}: length"),
                    l2.get(Field::EXIT_INSTRUCTION_LENGTH),
                    length,
                );
            }
            check.equal(
                format_args!("{name}: not vectoring"),
                l2.get(Field::IDT_VECTORING_INFO) >> 31,
                0,
            );
        }
        l2.set(Field::EXCEPTION_BITMAP, !(1 << vector_number) & 0xffff_ffff);
        l2.set_code(code);
        l2.set(Field::GUEST_CR0, cpu::cr0());
        if expect(check, name, &mut l2, Reason::Vmcall) {
            check.equal(
                format_args!("{name}: delivered"),
                vector(&l2),
                Some(vector_number),
            );
        }
    }
    memory::release(mark);
    operation::leave();
    let mut l2 = L2::new(code!(
        "pushfq",
        "or qword ptr [rsp], 0x100",
        "popfq",
        "nop",
        "nop",
        "vmcall"
    ));
    l2.set(Field::EXCEPTION_BITMAP, 1 << 1);
    let dr6 = cpu::dr6();
    if expect(check, "single step", &mut l2, Reason::ExceptionOrNmi) {
        check.equal(
            "single step: information",
            l2.get(Field::EXIT_INTERRUPTION_INFO),
            0x8000_0301,
        );
        check.equal(
            "single step: qualification",
            l2.get(Field::EXIT_QUALIFICATION),
            0x4000,
        );
        check.equal("single step: DR6 stays", cpu::dr6(), dr6);
    }
    // The same with L1 not asking for it: it is L2's, with its DR6.
    l2.set(Field::EXCEPTION_BITMAP, 0);
    l2.set(Field::GUEST_RFLAGS, 2);
    l2.set_code(code!(
        "pushfq",
        "or qword ptr [rsp], 0x100",
        "popfq",
        "nop",
        "nop",
        "vmcall"
    ));
    let _ = cpu::set_dr6(0xffff_0ff0);
    if expect(check, "single step, delivered", &mut l2, Reason::Vmcall) {
        check.equal("single step: vector", vector(&l2), Some(1));
        check.equal("single step: DR6", cpu::dr6(), 0xffff_4ff0);
    }
    let _ = cpu::set_dr6(0xffff_0ff0);
}

/// Page faults go by the bitmap and the error code's mask and match.
pub fn page_faults(check: &Check) {
    let mut l2 = L2::new(code!("vmcall"));
    let read = code!("mov rax, [rdi]", "vmcall");
    let write = code!("mov [rdi], rax", "vmcall");
    // Bit 14, mask, match, and whether a read (error 0) and a write (error 2) exit.
    let cases: [(u64, u64, u64, bool, bool); 8] = [
        (1, 0, 0, true, true),
        (1, 0, 1, false, false),
        (0, 0, 0, false, false),
        (0, 0, 1, true, true),
        (1, 2, 2, false, true),
        (1, 2, 0, true, false),
        (0, 2, 2, true, false),
        (1, 0xffff_ffff, 2, false, true),
    ];
    l2.registers[reg::RDI] = paging::UNMAPPED + 0x123;
    for (bit, mask, matched, read_exits, write_exits) in cases {
        l2.set(Field::EXCEPTION_BITMAP, bit << 14);
        l2.set(Field::PAGE_FAULT_ERROR_CODE_MASK, mask);
        l2.set(Field::PAGE_FAULT_ERROR_CODE_MATCH, matched);
        for (code, error, exits) in [(read, 0, read_exits), (write, 2, write_exits)] {
            let _ = cpu::set_cr2(0x777);
            l2.set_code(code);
            let name = format_args!("bit {bit}, mask {mask:#x}, match {matched:#x}, error {error}");
            let reason = if exits {
                Reason::ExceptionOrNmi
            } else {
                Reason::Vmcall
            };
            let outcome = l2.run();
            check.equal(name, outcome, crate::vm::Outcome::exit(reason));
            if outcome != crate::vm::Outcome::exit(reason) {
                continue;
            }
            if exits {
                check.equal(
                    "information",
                    l2.get(Field::EXIT_INTERRUPTION_INFO),
                    0x8000_0b0e,
                );
                check.equal(
                    "error code",
                    l2.get(Field::EXIT_INTERRUPTION_ERROR_CODE),
                    error,
                );
                check.equal(
                    "address",
                    l2.get(Field::EXIT_QUALIFICATION),
                    paging::UNMAPPED + 0x123,
                );
                check.equal("CR2 stays", cpu::cr2(), 0x777);
            } else {
                check.equal("delivered", vector(&l2), Some(14));
                check.equal(
                    "pushed",
                    memory::read::<u64>(l2.get(Field::GUEST_RSP)),
                    error,
                );
                check.equal("CR2", cpu::cr2(), paging::UNMAPPED + 0x123);
            }
        }
    }
}

/// An exception without an IDT ends in a triple fault.
pub fn triple_fault(check: &Check) {
    let mut l2 = L2::new(code!("ud2"));
    l2.set(Field::GUEST_IDTR_LIMIT, 0);
    expect(check, "triple fault", &mut l2, Reason::TripleFault);
    check.equal("qualification", l2.get(Field::EXIT_QUALIFICATION), 0);
    check.equal("not vectoring", l2.get(Field::IDT_VECTORING_INFO) >> 31, 0);
    l2.set(Field::GUEST_IDTR_LIMIT, 0xfff);
    l2.set(Field::GUEST_ACTIVITY_STATE, 0);
    l2.set_code(code!("vmcall"));
    expect(check, "L2 runs again", &mut l2, Reason::Vmcall);
}
