//! L2's time-stamp counter.

use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls, SecondaryControls};

use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, operation};

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

/// A multiplier of 1.
const ONE: u64 = 1 << 48;

/// What L1's TSC is by a multiplier.
fn scaled(tsc: u64, multiplier: u64) -> u64 {
    ((u128::from(tsc) * u128::from(multiplier)) >> 48) as u64
}

/// Whether TSC scaling is offered.
fn can_scale() -> bool {
    let scaling = SecondaryControls::TSC_SCALING.bits();
    operation::capabilities().secondary.missing(scaling) == 0
}

/// An L2 that reads its TSC, which L1 scales.
fn scaled_l2() -> L2 {
    let l2 = L2::new(code!("vmcall"));
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS | PrimaryControls::USE_TSC_OFFSETTING);
    l2.add(
        Field::SECONDARY_CONTROLS,
        SecondaryControls::TSC_SCALING.bits().into(),
    );
    l2
}

/// Whether a TSC comes between two others, each modulo 2^64, or a tick before: L0's own offset is
/// scaled and rounded down apart from the rest.
fn is_from_to(tsc: u64, low: u64, high: u64) -> bool {
    tsc.wrapping_sub(low).wrapping_add(1) <= high.wrapping_sub(low).wrapping_add(1)
}

/// What L2 found in EDX:EAX.
fn edx_eax(l2: &L2) -> u64 {
    l2.registers[reg::RAX] & 0xffff_ffff | l2.registers[reg::RDX] << 32
}

/// TSC scaling, for RDTSC and for RDMSR, beside offsets.
pub fn scale(check: &Check) {
    if !can_scale() {
        return check.skip("all", "no TSC scaling");
    }
    let mut l2 = scaled_l2();
    let codes = [
        ("rdtsc", code!("rdtsc", "vmcall")),
        ("rdmsr", code!("mov ecx, 0x10", "rdmsr", "vmcall")),
    ];
    let multipliers = [ONE, ONE / 2, 3 * ONE, ONE + ONE / 3, 1 << 30, 1, u64::MAX];
    for multiplier in multipliers {
        l2.set(Field::TSC_MULTIPLIER, multiplier);
        for offset in [0, 1u64 << 40, (1u64 << 50).wrapping_neg()] {
            l2.set(Field::TSC_OFFSET, offset);
            for (name, code) in codes {
                l2.set_code(code);
                let before = cpu::tsc();
                let outcome = l2.run();
                let after = cpu::tsc();
                let value = edx_eax(&l2).wrapping_sub(offset);
                let (low, high) = (scaled(before, multiplier), scaled(after, multiplier));
                check.that(
                    format_args!("{name}, by {multiplier:#x}, offset {offset:#x}"),
                    outcome == Outcome::exit(Reason::Vmcall) && is_from_to(value, low, high),
                    format_args!("{value:#x} is not in {low:#x}..={high:#x}; {outcome:?}"),
                );
            }
        }
    }
    l2.set(Field::TSC_MULTIPLIER, 2 * ONE);
    l2.set(Field::TSC_OFFSET, 1 << 40);
    for (what, field, bit) in [
        (
            "offsetting",
            Field::PRIMARY_CONTROLS,
            PrimaryControls::USE_TSC_OFFSETTING.bits(),
        ),
        (
            "scaling",
            Field::SECONDARY_CONTROLS,
            SecondaryControls::TSC_SCALING.bits(),
        ),
    ] {
        l2.modify(field, 0, bit.into());
        l2.set_code(codes[0].1);
        let before = cpu::tsc();
        let _ = l2.run();
        let after = cpu::tsc();
        let offset = if what == "offsetting" { 0 } else { 1 << 40 };
        let value = edx_eax(&l2).wrapping_sub(offset);
        check.that(
            format_args!("no scale without {what}"),
            (before..=after).contains(&value),
            format_args!("{value:#x} is not in {before:#x}..={after:#x}"),
        );
        l2.modify(field, bit.into(), 0);
    }
    l2.set(Field::TSC_MULTIPLIER, 0);
    check.equal("a multiplier of 0", l2.run(), Outcome::FailValid(7));
    l2.modify(
        Field::PRIMARY_CONTROLS,
        0,
        PrimaryControls::USE_TSC_OFFSETTING.bits().into(),
    );
    check.equal("though it is not used", l2.run(), Outcome::FailValid(7));
}

/// L2 writes the TSC, which L1 lets it: L1's own, which L2 goes on to see by scale and offset.
pub fn written(check: &Check) {
    let multiplier = if can_scale() { 3 * ONE } else { ONE };
    let mut l2 = if can_scale() {
        scaled_l2()
    } else {
        let l2 = L2::new(code!("vmcall"));
        l2.set(Field::MSR_BITMAP, memory::page());
        l2.use_primary(PrimaryControls::USE_MSR_BITMAPS | PrimaryControls::USE_TSC_OFFSETTING);
        l2
    };
    l2.set(Field::TSC_OFFSET, 1 << 40);
    if can_scale() {
        l2.set(Field::TSC_MULTIPLIER, multiplier);
    }
    let adjusted = cpu::msr(cpu::MSR_TSC_ADJUST);
    let began = cpu::tsc();
    for value in [1u64 << 50, 5, 1 << 63, u64::MAX - (1 << 40)] {
        let code = code!(
            "mov eax, esi",
            "mov rdx, rsi",
            "shr rdx, 32",
            "mov ecx, 0x10",
            "wrmsr",
            "rdtsc",
            "vmcall"
        );
        l2.registers[reg::RSI] = value;
        l2.set_code(code);
        let outcome = l2.run();
        let l1 = cpu::tsc();
        check.equal(
            format_args!("WRMSR of {value:#x} by L2"),
            outcome,
            Outcome::exit(Reason::Vmcall),
        );
        check.that(
            "L1's TSC is that",
            (value..value + (1 << 32)).contains(&l1),
            format_args!("{l1:#x}"),
        );
        let seen = edx_eax(&l2).wrapping_sub(1 << 40);
        let (low, high) = (scaled(value, multiplier), scaled(l1, multiplier));
        check.that(
            "L2's is that by L1's scale and offset",
            is_from_to(seen, low, high),
            format_args!("{seen:#x} is not in {low:#x}..={high:#x}"),
        );
    }
    // Back to where it was, by the MSR that has kept it.
    let code = code!(
        "mov eax, esi",
        "mov rdx, rsi",
        "shr rdx, 32",
        "mov ecx, 0x3b",
        "wrmsr",
        "rdmsr",
        "vmcall"
    );
    l2.registers[reg::RSI] = adjusted;
    l2.set_code(code);
    check.equal(
        "WRMSR of TSC_ADJUST by L2",
        l2.run(),
        Outcome::exit(Reason::Vmcall),
    );
    check.equal("RDMSR of it", edx_eax(&l2), adjusted);
    let later = cpu::tsc().wrapping_sub(began);
    check.that(
        "L1's TSC is back",
        later < 1 << 32,
        format_args!("{later:#x} ticks later"),
    );
}
