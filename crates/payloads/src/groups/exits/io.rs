//! Port I/O in L2.

use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls};

use crate::rt::harness::Check;
use crate::rt::memory;
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome};

fn with_bitmaps() -> (L2, u64, u64) {
    let l2 = L2::new(code!("vmcall"));
    let (a, b) = (memory::page(), memory::page());
    l2.set(Field::IO_BITMAP_A, a);
    l2.set(Field::IO_BITMAP_B, b);
    l2.use_primary(PrimaryControls::USE_IO_BITMAPS);
    (l2, a, b)
}

fn set_bit(a: u64, b: u64, port: u16, on: bool) {
    let (page, index) = if port < 0x8000 {
        (a, port)
    } else {
        (b, port & 0x7fff)
    };
    memory::write(page + u64::from(index / 8), u8::from(on) << (index % 8));
}

fn read_port(l2: &mut L2, port: u16, size: u8) -> Outcome {
    l2.set_code(match size {
        1 => code!("in al, dx", "vmcall"),
        2 => code!("in ax, dx", "vmcall"),
        _ => code!("in eax, dx", "vmcall"),
    });
    l2.registers[reg::RDX] = u64::from(port);
    l2.run()
}

/// An access exits when any of its ports' bits is set, or when it wraps around.
pub fn bitmap(check: &Check) {
    let (mut l2, a, b) = with_bitmaps();
    let exits = Outcome::exit(Reason::IoInstruction);
    let runs = Outcome::exit(Reason::Vmcall);
    // Ports where nothing answers, here or under a hypervisor.
    let cases: [(u16, u8, u16, Outcome); 12] = [
        (0x510, 1, 0x510, exits),
        (0x510, 1, 0x511, runs),
        (0x510, 1, 0x50f, runs),
        (0x510, 2, 0x511, exits),
        (0x510, 2, 0x512, runs),
        (0x510, 4, 0x513, exits),
        (0x510, 4, 0x514, runs),
        (0x7fff, 1, 0x7fff, exits),
        (0x7ffe, 4, 0x8000, exits),
        (0x7fff, 2, 0x8000, exits),
        (0x8000, 1, 0x7fff, runs),
        (0xfff0, 1, 0xfff0, exits),
    ];
    for (port, size, bit, expected) in cases {
        set_bit(a, b, bit, true);
        check.equal(
            format_args!("{size} bytes at {port:#x}, bit {bit:#x}"),
            read_port(&mut l2, port, size),
            expected,
        );
        set_bit(a, b, bit, false);
    }
    check.equal(
        "2 bytes at 0xffff wrap",
        read_port(&mut l2, 0xffff, 2),
        exits,
    );
    check.equal(
        "4 bytes at 0xfffd wrap",
        read_port(&mut l2, 0xfffd, 4),
        exits,
    );
    check.equal(
        "4 bytes at 0xfffc do not",
        read_port(&mut l2, 0xfffc, 4),
        runs,
    );
    // With bitmaps, unconditional exiting is ignored; without, it decides.
    l2.use_primary(PrimaryControls::UNCONDITIONAL_IO_EXITING);
    check.equal(
        "both controls, bit clear",
        read_port(&mut l2, 0x510, 1),
        runs,
    );
    let bitmaps = u64::from(PrimaryControls::USE_IO_BITMAPS.bits());
    l2.modify(Field::PRIMARY_CONTROLS, 0, bitmaps);
    check.equal("unconditional", read_port(&mut l2, 0x510, 1), exits);
    let unconditional = u64::from(PrimaryControls::UNCONDITIONAL_IO_EXITING.bits());
    l2.modify(Field::PRIMARY_CONTROLS, 0, unconditional);
    check.equal("neither", read_port(&mut l2, 0x510, 1), runs);
}

/// Qualification, length, and for strings the linear address and the instruction information.
pub fn information(check: &Check) {
    let mut l2 = L2::new(code!("vmcall"));
    l2.use_primary(PrimaryControls::UNCONDITIONAL_IO_EXITING);
    let buffer = memory::page();
    let cases: [(&str, u64, u64, u64); 10] = [
        ("in al, dx", code!("in al, dx"), 0x1234_0008, 1),
        ("in ax, dx", code!("in ax, dx"), 0x1234_0009, 2),
        ("in eax, dx", code!("in eax, dx"), 0x1234_000b, 1),
        ("out dx, al", code!("out dx, al"), 0x1234_0000, 1),
        ("in al, imm", code!("in al, 0x99"), 0x0099_0048, 2),
        ("out imm, eax", code!("out 0x98, eax"), 0x0098_0043, 2),
        ("insb", code!("insb"), 0x1234_0018, 1),
        ("outsd", code!("outsd"), 0x1234_0013, 1),
        ("rep insw", code!("rep insw"), 0x1234_0039, 3),
        ("rep outsb", code!("rep outsb"), 0x1234_0030, 2),
    ];
    for (name, code, qualification, length) in cases {
        l2.set_code(code);
        l2.registers[reg::RDX] = 0xffff_1234;
        l2.registers[reg::RCX] = 5;
        l2.registers[reg::RSI] = buffer + 0x10;
        l2.registers[reg::RDI] = buffer + 0x20;
        let outcome = l2.run();
        check.equal(name, outcome, Outcome::exit(Reason::IoInstruction));
        if outcome != Outcome::exit(Reason::IoInstruction) {
            continue;
        }
        check.equal(
            format_args!("{name}: qualification"),
            l2.get(Field::EXIT_QUALIFICATION),
            qualification,
        );
        check.equal(
            format_args!("{name}: length"),
            l2.get(Field::EXIT_INSTRUCTION_LENGTH),
            length,
        );
        if qualification & 0x10 != 0 {
            let is_in = qualification & 8 != 0;
            let address = buffer + if is_in { 0x20 } else { 0x10 };
            check.equal(
                format_args!("{name}: linear address"),
                l2.get(Field::GUEST_LINEAR_ADDRESS),
                address,
            );
            if l2.caps.basic & 1 << 54 != 0 {
                let info = l2.get(Field::EXIT_INSTRUCTION_INFO);
                check.equal(format_args!("{name}: address size"), info >> 7 & 7, 2);
                if !is_in {
                    check.equal(format_args!("{name}: segment"), info >> 15 & 7, 3);
                }
            }
            check.equal(format_args!("{name}: RCX"), l2.registers[reg::RCX], 5);
        }
    }
}

/// Ports that L1 leaves open are L1's machine's.
pub fn open(check: &Check) {
    let (mut l2, _, _) = with_bitmaps();
    // COM1's scratch register.
    let saved = crate::rt::cpu::in8(0x3ff);
    crate::rt::cpu::out8(0x3ff, 0x5a);
    check.equal(
        "in",
        read_port(&mut l2, 0x3ff, 1),
        Outcome::exit(Reason::Vmcall),
    );
    check.equal(
        "L2 reads what L1 wrote",
        l2.registers[reg::RAX] & 0xff,
        0x5a,
    );
    l2.set_code(code!(
        "mov dx, 0x3ff",
        "mov al, 0xa5",
        "out dx, al",
        "vmcall"
    ));
    check.equal("out", l2.run(), Outcome::exit(Reason::Vmcall));
    check.equal("L1 reads what L2 wrote", crate::rt::cpu::in8(0x3ff), 0xa5);
    crate::rt::cpu::out8(0x3ff, saved);
}
