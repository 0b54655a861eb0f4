//! L2's time-stamp counter.

use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls};

use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome};

/// TSC offsetting, for RDTSC and for RDMSR.
pub fn offset(check: &Check) {
    let mut l2 = L2::new(code!("vmcall"));
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS);
    let codes = [
        ("rdtsc", code!("rdtsc", "vmcall")),
        ("rdmsr", code!("mov ecx, 0x10", "rdmsr", "vmcall")),
    ];
    for (name, code) in codes {
        let mut measure = |check: &Check, what: &str, offset: u64| {
            l2.set_code(code);
            let before = cpu::tsc();
            let outcome = l2.run();
            let after = cpu::tsc();
            check.equal(
                format_args!("{name}, {what}"),
                outcome,
                Outcome::exit(Reason::Vmcall),
            );
            let l2_tsc = l2.registers[reg::RAX] & 0xffff_ffff | l2.registers[reg::RDX] << 32;
            let as_l1 = l2_tsc.wrapping_sub(offset);
            check.that(
                format_args!("{name}, {what}: value"),
                (before..=after).contains(&as_l1),
                format_args!("{as_l1} is not in {before}..={after}"),
            );
        };
        measure(check, "no offset", 0);
    }
    l2.set(Field::TSC_OFFSET, 1 << 40);
    for (name, code) in codes {
        l2.set_code(code);
        let before = cpu::tsc();
        let _ = l2.run();
        let value = l2.registers[reg::RAX] & 0xffff_ffff | l2.registers[reg::RDX] << 32;
        check.that(
            format_args!("{name}: the offset does not count without its control"),
            value.wrapping_sub(before) < 1 << 30,
            format_args!("{value}"),
        );
    }
    l2.use_primary(PrimaryControls::USE_TSC_OFFSETTING);
    for offset in [1u64 << 40, (1u64 << 50).wrapping_neg(), 12345] {
        l2.set(Field::TSC_OFFSET, offset);
        for (name, code) in codes {
            l2.set_code(code);
            let before = cpu::tsc();
            let _ = l2.run();
            let after = cpu::tsc();
            let value = (l2.registers[reg::RAX] & 0xffff_ffff | l2.registers[reg::RDX] << 32)
                .wrapping_sub(offset);
            check.that(
                format_args!("{name}, offset {offset:#x}"),
                (before..=after).contains(&value),
                format_args!("{value} is not in {before}..={after}"),
            );
        }
    }
}
