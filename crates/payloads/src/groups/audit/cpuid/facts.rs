//! What CPUID says that is no feature: numbers that have to agree with each other and with the
//! machine.

use crate::groups::audit::walk::{Fact, Verdict, equal, fact, faults, holds, works};
use crate::rt::fault::Fault;
use crate::rt::harness::Check;
use crate::rt::{apic, cpu};

/// All of it.
pub fn all(check: &Check) {
    let facts: [Fact; 17] = [
        (
            "CPUID 0 EAX",
            (0, 31),
            "the last basic leaf repeats beyond",
            last_basic,
        ),
        ("CPUID 0 EBX", (0, 31), "letters", vendor),
        ("CPUID 1 EAX", (0, 31), "a family", family),
        (
            "CPUID 1 EBX",
            (8, 15),
            "CLFLUSH's line is that of the caches",
            line_size,
        ),
        (
            "CPUID 1 EBX",
            (16, 23),
            "room for each processor",
            identifiers,
        ),
        (
            "CPUID 1 EBX",
            (24, 31),
            "the APIC's identifier",
            initial_identifier,
        ),
        (
            "CPUID 2 EAX",
            (0, 31),
            "one round, descriptors",
            descriptors,
        ),
        (
            "CPUID 4 EAX",
            (0, 31),
            "each cache has a level and a size",
            caches,
        ),
        (
            "CPUID 0xB EAX",
            (0, 31),
            "levels rise, identifiers fit",
            topology,
        ),
        (
            "CPUID 0xD EBX",
            (0, 31),
            "the area's size for XCR0 as it is",
            area_now,
        ),
        (
            "CPUID 0xD ECX",
            (0, 31),
            "the area's largest size",
            area_largest,
        ),
        (
            "CPUID 0x15 EBX",
            (0, 31),
            "the TSC ticks as the APIC timer does",
            tsc_ratio,
        ),
        (
            "CPUID 0x80000000 EAX",
            (0, 31),
            "leaf 8 is there",
            last_extended,
        ),
        ("CPUID 0x80000002 EAX", (0, 31), "the brand is text", brand),
        (
            "CPUID 0x80000006 ECX",
            (0, 31),
            "the line is that of leaf 4",
            second_level,
        ),
        (
            "CPUID 0x80000008 EAX",
            (0, 7),
            "CR3 refuses bits above",
            physical_width,
        ),
        (
            "CPUID 0x80000008 EAX",
            (8, 15),
            "bases refuse what is not canonical",
            linear_width,
        ),
    ];
    for (register, bits, how, run) in facts {
        fact(check, register, bits, how, run);
    }
}

/// The leaves that have nothing for L1.
pub fn empty(check: &Check) {
    const EMPTY: [(&str, u32); 15] = [
        ("CPUID 3", 3),
        ("CPUID 5", 5),
        ("CPUID 8", 8),
        ("CPUID 9", 9),
        ("CPUID 0xA", 0xa),
        ("CPUID 0xC", 0xc),
        ("CPUID 0xE", 0xe),
        ("CPUID 0xF", 0xf),
        ("CPUID 0x10", 0x10),
        ("CPUID 0x11", 0x11),
        ("CPUID 0x12", 0x12),
        ("CPUID 0x13", 0x13),
        ("CPUID 0x14", 0x14),
        ("CPUID 0x80000005", 0x8000_0005),
        ("CPUID 7.1", 7),
    ];
    macro_rules! leaf {
        ($($index:literal)+) => {
            $(
                fact(check, EMPTY[$index].0, (0, 31), "empty", || {
                    let leaf = EMPTY[$index].1;
                    let words = cpu::cpuid(leaf, u32::from(leaf == 7));
                    equal("the leaf", words.iter().fold(0, |a, b| a | b), 0u32)
                });
            )+
        };
    }
    leaf!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

fn last_basic() -> Verdict {
    let last = cpu::cpuid(0, 0)[0];
    holds((0xd..0x100).contains(&last), "an odd number")?;
    holds(
        cpu::cpuid(last + 1, 0) == cpu::cpuid(last, 0),
        "a leaf beyond is another",
    )
}

fn is_text(words: &[u32]) -> bool {
    words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .all(|byte| byte == 0 || (0x20..0x7f).contains(&byte))
}

fn vendor() -> Verdict {
    let words = cpu::cpuid(0, 0);
    holds(words[1] != 0 && is_text(&words[1..]), "no letters")
}

fn family() -> Verdict {
    holds(cpu::cpuid(1, 0)[0] >> 8 & 15 != 0, "no family")
}

/// Bytes of a line of the first cache in leaf 4.
fn cache_line() -> u32 {
    (cpu::cpuid(4, 0)[1] & 0xfff) + 1
}

fn line_size() -> Verdict {
    equal(
        "the line",
        (cpu::cpuid(1, 0)[1] >> 8 & 0xff) * 8,
        cache_line(),
    )
}

fn identifiers() -> Verdict {
    let (ids, processors) = (cpu::cpuid(1, 0)[1] >> 16 & 0xff, cpu::cpuid(0xb, 1)[1]);
    holds(ids >= processors, "less than leaf 0xB has processors")
}

fn initial_identifier() -> Verdict {
    equal("the identifier", cpu::cpuid(1, 0)[1] >> 24, apic::id())
}

fn descriptors() -> Verdict {
    let leaf = cpu::cpuid(2, 0)[0];
    holds(leaf == 0 || leaf & 0xff == 1, "more than one round")
}

fn caches() -> Verdict {
    let mut last = 0;
    for index in 0.. {
        let [eax, ..] = cpu::cpuid(4, index);
        if eax & 0x1f == 0 {
            return holds(index > 0, "no cache at all");
        }
        holds(eax & 0x1f <= 3 && index < 8, "no such type of cache")?;
        let level = eax >> 5 & 7;
        holds(level >= last && level > 0, "levels do not rise")?;
        last = level;
    }
    Ok(())
}

fn topology() -> Verdict {
    let (threads, cores, end) = (cpu::cpuid(0xb, 0), cpu::cpuid(0xb, 1), cpu::cpuid(0xb, 2));
    equal("the first level's type", threads[2] >> 8 & 0xff, 1u32)?;
    equal("the second level's type", cores[2] >> 8 & 0xff, 2u32)?;
    equal("the third level's type", end[2] >> 8 & 0xff, 0u32)?;
    holds(cores[0] >= threads[0], "shifts do not rise")?;
    holds(
        1 << cores[0] >= cores[1],
        "identifiers do not fit the shift",
    )?;
    equal("the identifier", threads[3], apic::id())
}

/// What the components' sub-leaves add up to, for a mask of components.
fn area(components: u64) -> u32 {
    (2..63)
        .filter(|n| components >> n & 1 != 0)
        .fold(576, |size, n| {
            let [bytes, offset, ..] = cpu::cpuid(0xd, n);
            size.max(bytes + offset)
        })
}

fn area_now() -> Verdict {
    // XCR0 is as after a reset: x87 alone.
    equal("the size", cpu::cpuid(0xd, 0)[1], area(1))
}

fn area_largest() -> Verdict {
    let [low, _, largest, high] = cpu::cpuid(0xd, 0);
    equal(
        "the size",
        largest,
        area(u64::from(low) | u64::from(high) << 32),
    )
}

fn tsc_ratio() -> Verdict {
    use apic::{register as reg, timer};
    let [denominator, numerator, hertz, _] = cpu::cpuid(0x15, 0);
    holds(denominator != 0 && numerator != 0 && hertz != 0, "no ratio")?;
    apic::write(reg::DIVIDE, timer::DIVIDE_BY_1);
    apic::write(reg::LVT_TIMER, timer::MASKED | 0x57);
    let start = cpu::tsc();
    apic::write(reg::INITIAL_COUNT, u32::MAX);
    cpu::spin(2_000_000);
    let (left, end) = (apic::read(reg::CURRENT_COUNT), cpu::tsc());
    let (apic, tsc) = (u64::from(u32::MAX - left), end - start);
    let expected = apic * u64::from(numerator) / u64::from(denominator);
    holds(tsc.abs_diff(expected) * 100 <= expected, "another rate")
}

fn last_extended() -> Verdict {
    let last = cpu::cpuid(0x8000_0000, 0)[0];
    holds((0x8000_0008..0x8000_0100).contains(&last), "it is not")
}

fn brand() -> Verdict {
    for leaf in 0x8000_0002..=0x8000_0004 {
        holds(is_text(&cpu::cpuid(leaf, 0)), "it is not")?;
    }
    Ok(())
}

fn second_level() -> Verdict {
    let line = cpu::cpuid(0x8000_0006, 0)[2] & 0xff;
    equal("the line", line, cache_line())
}

fn physical_width() -> Verdict {
    let bits = cpu::physical_bits();
    holds((32..=52).contains(&bits), "no possible width")?;
    if bits < 52 {
        faults(
            "CR3 beyond",
            cpu::set_cr3(cpu::cr3() | 1 << bits),
            Fault::GP,
        )?;
    }
    Ok(())
}

fn linear_width() -> Verdict {
    let bits = cpu::cpuid(0x8000_0008, 0)[0] >> 8 & 0xff;
    equal("bits", bits, 48u32)?;
    let msr = cpu::MSR_KERNEL_GS_BASE;
    faults("a base of more", cpu::wrmsr(msr, 1 << 47), Fault::GP)?;
    works("a canonical one", cpu::wrmsr(msr, u64::MAX << 47))?;
    works("0", cpu::wrmsr(msr, 0))
}
