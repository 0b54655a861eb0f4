//! String I/O of L2 on ports that L1 leaves open.

use ::vmx::ept::Access;
use ::vmx::{BasicExitReason as Reason, Field};

use crate::rt::harness::Check;
use crate::rt::{cpu, memory, paging};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, instruction};

/// The second UART's scratch register.
const SCRATCH: u16 = 0x2ff;
/// Bits 7 and 8 of a qualification: the linear address is valid, and was translated to the end.
const OPERAND: u64 = 0x180;

const RUNS: Outcome = Outcome::exit(Reason::Vmcall);

/// An L2 that has open ports, the scratch register in DX, and a buffer in RSI and RDI.
fn with_buffer() -> (L2, u64) {
    let mut l2 = L2::new(code!("vmcall"));
    let buffer = memory::page();
    l2.registers[reg::RDX] = SCRATCH.into();
    l2.registers[reg::RSI] = buffer;
    l2.registers[reg::RDI] = buffer;
    (l2, buffer)
}

/// Bytes go between L2's memory and the port.
pub fn open(check: &Check) {
    let saved = cpu::in8(SCRATCH);
    let (mut l2, buffer) = with_buffer();
    memory::write(buffer, [0x5au8, 0xa5]);
    l2.set_code(code!("outsb", "vmcall"));
    check.equal("outsb", l2.run(), RUNS);
    check.equal("L1 reads what L2 wrote", cpu::in8(SCRATCH), 0x5a);
    check.equal("RSI moves on", l2.registers[reg::RSI], buffer + 1);

    l2.registers[reg::RCX] = 2;
    l2.set_code(code!("rep outsb", "vmcall"));
    memory::write(buffer + 2, 0xc3u8);
    check.equal("rep outsb", l2.run(), RUNS);
    check.equal("the last byte", cpu::in8(SCRATCH), 0xc3);
    check.equal("RCX is used up", l2.registers[reg::RCX], 0);

    // Across the border of two pages.
    let low = memory::pages(2, 1);
    l2.registers[reg::RCX] = 3;
    l2.registers[reg::RDI] = low + 0xffe;
    l2.set_code(code!("rep insb", "vmcall"));
    check.equal("rep insb", l2.run(), RUNS);
    check.equal(
        "the buffer is filled",
        memory::read::<[u8; 4]>(low + 0xffd),
        [0, 0xc3, 0xc3, 0xc3],
    );
    check.equal("RDI moves on", l2.registers[reg::RDI], low + 0x1001);
    cpu::out8(SCRATCH, saved);
}

/// The memory operand is not there: for L1, or for L2 itself.
pub fn faults(check: &Check) {
    let (mut l2, buffer) = with_buffer();
    let saved = cpu::in8(SCRATCH);
    l2.ept.unmap(buffer);
    let invept = instruction::invept(1, l2.ept.eptp());
    check.equal("INVEPT", invept, Outcome::Success);
    for (name, code, access) in [
        ("outsb", code!("outsb", "vmcall"), 1),
        ("insb", code!("insb", "vmcall"), 2),
    ] {
        l2.set_code(code);
        check.equal(name, l2.run(), Outcome::exit(Reason::EptViolation));
        check.equal(
            format_args!("{name}: qualification"),
            l2.get(Field::EXIT_QUALIFICATION),
            OPERAND | access,
        );
        check.equal(
            format_args!("{name}: physical address"),
            l2.get(Field::GUEST_PHYSICAL_ADDRESS),
            buffer,
        );
        check.equal(
            format_args!("{name}: linear address"),
            l2.get(Field::GUEST_LINEAR_ADDRESS),
            buffer,
        );
        check.equal(
            format_args!("{name}: RIP stays"),
            l2.get(Field::GUEST_RIP),
            code,
        );
    }
    l2.ept.protect(buffer, Access::RWX);
    check.equal("with the page", l2.run(), RUNS);

    l2.set(Field::EXCEPTION_BITMAP, 1 << 14);
    l2.registers[reg::RDI] = paging::UNMAPPED;
    l2.set_code(code!("insb", "vmcall"));
    check.equal(
        "a page fault",
        l2.run(),
        Outcome::exit(Reason::ExceptionOrNmi),
    );
    check.equal(
        "its address",
        l2.get(Field::EXIT_QUALIFICATION),
        paging::UNMAPPED,
    );
    check.equal(
        "its error code",
        l2.get(Field::EXIT_INTERRUPTION_ERROR_CODE),
        2,
    );
    cpu::out8(SCRATCH, saved);
}
