//! Every port, every MSR, every APIC register.

use super::still_well;
use crate::rt::harness::Check;
use crate::rt::random::Random;
use crate::rt::{apic, cpu, memory};

/// Reads every port in each size, and writes those that do not end the machine.
pub fn ports(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "bare, it would break the machine");
    }
    let mut sum = 0u64;
    for port in 0..=0xffffu16 {
        sum = sum.wrapping_add(u64::from(cpu::in8(port)));
        if port.is_multiple_of(17) {
            sum = sum.wrapping_add(u64::from(cpu::in16(port)));
            sum = sum.wrapping_add(u64::from(cpu::in32(port)));
        }
    }
    check.that("all ports read", sum > 0, "zero");
    let mut random = Random::new(0x90);
    for port in 0..=0xffffu32 {
        let port = port as u16;
        // COM1, which this is printed on, and the power and reset registers.
        if (0x3f0..0x400).contains(&port) || (0x5cd..0x5e0).contains(&port) {
            continue;
        }
        cpu::out8(port, random.next() as u8);
        if port.is_multiple_of(13) {
            cpu::out16(port, random.next() as u16);
            cpu::out32(port, random.next() as u32);
        }
    }
    still_well(check);
}

/// Ranges in which MSRs lie.
const RANGES: &[(u32, u32)] = &[
    (0, 0x1000),
    (0x1000, 0x2000),
    (0x4000_0000, 0x4000_0200),
    (0x4000_1000, 0x4000_10a0),
    (0x4b56_4d00, 0x4b56_4d10),
    (0xc000_0000, 0xc000_0200),
    (0xc001_0000, 0xc001_0200),
    (0xffff_ff00, 0xffff_ffff),
];

/// RDMSR of all of them.
pub fn read_msrs(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "the emulator answers to any");
    }
    let (mut there, mut absent, mut others) = (0, 0, 0);
    for &(first, end) in RANGES {
        for msr in first..end {
            // Reading this one waits for an interrupt.
            if msr == tlfs::msr::Msr::GUEST_IDLE.0 {
                continue;
            }
            match cpu::rdmsr(msr) {
                Ok(_) => there += 1,
                Err(crate::rt::fault::Fault::GP) => absent += 1,
                Err(_) => others += 1,
            }
        }
    }
    check.note(format_args!("{there} MSRs, {absent} are none"));
    check.equal("faults other than #GP", others, 0);
    still_well(check);
}

/// WRMSR of nasty values to all but those whose meaning is to stop; then the old values.
pub fn write_msrs(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "bare, it would break the machine");
    }
    let mut random = Random::new(0x3543);
    let mut taken = 0;
    for &(first, end) in RANGES {
        for msr in first..end {
            let is_spared = matches!(
                msr,
                // Time, EFER, the APIC's place, segment bases, crash and reset.
                0x10 | 0x1b | 0x6e0 | 0x800..=0x8ff | 0xc000_0080 | 0xc000_0100 | 0xc000_0101
                    | 0x4000_0003 | 0x4000_00f0 | 0x4000_0100..=0x4000_0105 | 0x3b
            );
            if is_spared {
                continue;
            }
            let old = cpu::rdmsr(msr);
            for _ in 0..3 {
                taken += u32::from(cpu::wrmsr(msr, random.nasty()).is_ok());
            }
            if let Ok(value) = old {
                let _ = cpu::wrmsr(msr, value);
            } else {
                let _ = cpu::wrmsr(msr, 0);
            }
        }
    }
    check.note(format_args!("{taken} writes were taken"));
    still_well(check);
}

/// Nasty values in every APIC register but the command register, in whichever mode it is in.
pub fn apic_registers(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "bare, an error interrupt of vector 0 would come");
    }
    let mut random = Random::new(0xa91c);
    for _ in 0..2000 {
        let register = random.below(0x40) as u32 * 0x10;
        if matches!(
            register,
            apic::register::ICR | apic::register::ICR_HIGH | apic::register::SELF_IPI
        ) {
            continue;
        }
        apic::write(register, random.nasty() as u32);
        let _ = apic::read(register);
    }
    // Odd places and sizes in xAPIC mode's page: not mapped to anything in x2APIC mode.
    if cpu::msr(cpu::MSR_APIC_BASE) & apic::BASE_X2APIC == 0 {
        for offset in [1, 2, 4, 0x21, 0xffc] {
            let _ = memory::read::<u8>(apic::BASE + offset);
            let _ = memory::read::<u64>(apic::BASE + (offset & !7));
        }
    }
    apic::initialise();
    for lvt in [0x320, 0x330, 0x340, 0x350, 0x360, 0x370] {
        apic::write(lvt, 0x1_0000);
    }
    apic::stop_timer();
    // What was requested meanwhile is taken and answered, whichever vector it has.
    for _ in 0..256 {
        cpu::interrupt_window();
    }
    still_well(check);
}
