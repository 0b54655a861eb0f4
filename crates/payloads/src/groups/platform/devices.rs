//! IOAPIC, UART, and ports where nothing is.

use crate::rt::harness::Check;
use crate::rt::{cpu, memory};

const IOAPIC: u64 = 0xfec0_0000;

fn ioapic_read(index: u32) -> u32 {
    memory::write(IOAPIC, index);
    memory::read(IOAPIC + 0x10)
}

fn ioapic_write(index: u32, value: u32) {
    memory::write(IOAPIC, index);
    memory::write(IOAPIC + 0x10, value);
}

/// The IOAPIC's registers.
pub fn ioapic(check: &Check) {
    let version = ioapic_read(1);
    check.that(
        "version",
        version & 0xff >= 0x11,
        format_args!("{version:#x}"),
    );
    let pins = (version >> 16 & 0xff) + 1;
    check.equal("pins", pins, 24);
    for pin in 0..pins {
        let before = ioapic_read(0x10 + 2 * pin);
        ioapic_write(0x10 + 2 * pin, 0x0001_a5a5 & !(1 << 14) & !(1 << 12));
        ioapic_write(0x11 + 2 * pin, 0x0300_0000);
        let low = ioapic_read(0x10 + 2 * pin);
        check.equal(
            format_args!("pin {pin}: vector, mode, mask"),
            low & 0x1_a7ff,
            0x1_a5a5,
        );
        check.equal(
            format_args!("pin {pin}: destination"),
            ioapic_read(0x11 + 2 * pin) >> 24,
            3,
        );
        ioapic_write(0x10 + 2 * pin, before | 1 << 16);
        ioapic_write(0x11 + 2 * pin, 0);
    }
}

/// The UART's registers as a driver probes them.
pub fn uart(check: &Check) {
    let at = |register: u16| 0x3f8 + register;
    let scratch = cpu::in8(at(7));
    for value in [0, 0x55, 0xff] {
        cpu::out8(at(7), value);
        check.equal("scratch", cpu::in8(at(7)), value);
    }
    cpu::out8(at(7), scratch);
    let line = cpu::in8(at(3));
    cpu::out8(at(3), line | 0x80);
    let (low, high) = (cpu::in8(at(0)), cpu::in8(at(1)));
    cpu::out8(at(0), 0x34);
    cpu::out8(at(1), 0x12);
    check.equal("divisor", (cpu::in8(at(0)), cpu::in8(at(1))), (0x34, 0x12));
    cpu::out8(at(0), low);
    cpu::out8(at(1), high);
    cpu::out8(at(3), line);
    check.equal("line control", cpu::in8(at(3)), line);
    let enable = cpu::in8(at(1));
    cpu::out8(at(1), 0x0f);
    check.equal("interrupt enable", cpu::in8(at(1)), 0x0f);
    cpu::out8(at(1), enable);
    if cpu::is_virtual() {
        check.equal("transmitter ready", cpu::in8(at(5)) & 0x60, 0x60);
    }
    cpu::out8(at(2), 1);
    check.equal("FIFOs are there", cpu::in8(at(2)) & 0xc0, 0xc0);
    cpu::out8(at(4), 0x1f);
    let modem = cpu::in8(at(6)) >> 4;
    cpu::out8(at(4), 0x03);
    check.equal("loopback of the modem lines", modem, 0xf);
}

/// All ones, and no fault.
pub fn absent_ports(check: &Check) {
    for port in [0x510, 0x1234, 0xcfe0, 0xfffc] {
        check.equal(format_args!("{port:#x}, 1 byte"), cpu::in8(port), 0xff);
        check.equal(format_args!("{port:#x}, 2 bytes"), cpu::in16(port), 0xffff);
        check.equal(
            format_args!("{port:#x}, 4 bytes"),
            cpu::in32(port),
            0xffff_ffff,
        );
    }
}
