//! Instructions on general registers and memory, each with an answer known beforehand.

use core::arch::asm;

use crate::groups::audit::walk::{Verdict, equal, holds, works};
use crate::rt::fault::attempt;
use crate::rt::{cpu, memory};

/// Runs instructions with RAX, RCX and RDX given; the answer is RAX, and whether CF is set.
macro_rules! run {
    ($rax:expr, $rcx:expr, $rdx:expr, $($text:literal),+) => {{
        let (rax, rcx, rdx): (u64, u64, u64) = ($rax, $rcx, $rdx);
        works("the instruction", attempt(|| {
            let (answer, carry): (u64, u8);
            // SAFETY: registers, and memory that the caller points to.
            unsafe {
                asm!($($text,)+ "setc {carry}", carry = out(reg_byte) carry,
                    inout("rax") rax => answer, inout("rcx") rcx => _, inout("rdx") rdx => _);
            }
            (answer, carry != 0)
        }))?
    }};
}

/// CMOVC.
pub fn cmov() -> Verdict {
    equal("moved", run!(1, 2, 0, "stc", "cmovc rax, rcx").0, 2u64)?;
    equal("not moved", run!(1, 2, 0, "clc", "cmovc rax, rcx").0, 1u64)
}

/// CMPXCHG8B.
pub fn cmpxchg8b() -> Verdict {
    let mut value = 0x2_0000_0001u64;
    let at = &raw mut value as u64;
    works(
        "the instruction",
        attempt(|| {
            // SAFETY: writes the local above; RBX is put back.
            unsafe {
                asm!("push rbx", "mov ebx, 7", "cmpxchg8b [{at}]", "pop rbx", at = in(reg) at,
                    inout("eax") 1 => _, inout("edx") 2 => _, inout("ecx") 9 => _);
            }
        }),
    )?;
    equal("exchanged", memory::read::<u64>(at), 0x9_0000_0007u64)
}

/// CMPXCHG16B.
pub fn cmpxchg16b() -> Verdict {
    let at = memory::page();
    memory::write(at, 1u64);
    memory::write(at + 8, 2u64);
    works(
        "the instruction",
        attempt(|| {
            // SAFETY: writes a page of its own; RBX is put back.
            unsafe {
                asm!("push rbx", "mov ebx, 7", "cmpxchg16b [{at}]", "pop rbx", at = in(reg) at,
                    inout("rax") 1u64 => _, inout("rdx") 2u64 => _, inout("rcx") 9u64 => _);
            }
        }),
    )?;
    equal("low half", memory::read::<u64>(at), 7u64)?;
    equal("high half", memory::read::<u64>(at + 8), 9u64)
}

/// MOVBE.
pub fn movbe() -> Verdict {
    let value = 0x0102_0304_0506_0708u64;
    let answer = run!(&raw const value as u64, 0, 0, "movbe rax, [rax]").0;
    equal("swapped", answer, 0x0807_0605_0403_0201u64)
}

/// POPCNT.
pub fn popcnt() -> Verdict {
    equal("bits", run!(0, 0xf0f0_0001, 0, "popcnt rax, rcx").0, 9u64)
}

/// LZCNT: it counts 64 in a zero, where BSR would leave the register.
pub fn lzcnt() -> Verdict {
    equal("of 1", run!(0, 1, 0, "lzcnt rax, rcx").0, 63u64)?;
    equal("of 0", run!(0, 0, 0, "lzcnt rax, rcx").0, 64u64)
}

/// ANDN, BLSR, TZCNT.
pub fn bmi1() -> Verdict {
    equal(
        "ANDN",
        run!(0, 0b1010, 0b1110, "andn rax, rcx, rdx").0,
        0b0100u64,
    )?;
    equal("BLSR", run!(0, 0b1100, 0, "blsr rax, rcx").0, 0b1000u64)?;
    equal("TZCNT of 0", run!(0, 0, 0, "tzcnt rax, rcx").0, 64u64)
}

/// PEXT, BZHI, MULX.
pub fn bmi2() -> Verdict {
    equal(
        "PEXT",
        run!(0, 0xabcd, 0x0ff0, "pext rax, rcx, rdx").0,
        0xbcu64,
    )?;
    equal("BZHI", run!(0, 0xffff, 4, "bzhi rax, rcx, rdx").0, 0xfu64)?;
    equal("MULX", run!(0, 1 << 63, 6, "mulx rax, rcx, rcx").0, 3u64)
}

/// ADCX and ADOX, each with a carry of its own.
pub fn adx() -> Verdict {
    // CF is set, OF is clear: ADCX adds 1 more, ADOX does not.
    equal(
        "ADCX",
        run!(1, 2, 0, "xor edx, edx", "stc", "adcx rax, rcx").0,
        4u64,
    )?;
    equal(
        "ADOX",
        run!(1, 2, 0, "xor edx, edx", "stc", "adox rax, rcx").0,
        3u64,
    )
}

/// LAHF and SAHF in 64-bit mode.
pub fn lahf() -> Verdict {
    equal("AH", run!(0, 0, 0, "stc", "lahf").0 >> 8 & 1, 1u64)?;
    holds(run!(0x100, 0, 0, "clc", "sahf").1, "SAHF does not set CF")
}

/// RDRAND or RDSEED: succeeds, and the numbers are not all the same.
macro_rules! random {
    ($text:literal) => {{
        let (mut first, mut differs, mut came) = (None, false, 0);
        for _ in 0..32 {
            let (number, success) = run!(0, 0, 0, $text);
            if success {
                came += 1;
                differs |= *first.get_or_insert(number) != number;
            }
        }
        holds(came > 0, "no number in 32 attempts")?;
        holds(differs, "always the same number")
    }};
}

/// RDRAND.
pub fn rdrand() -> Verdict {
    random!("rdrand rax")
}

/// RDSEED.
pub fn rdseed() -> Verdict {
    random!("rdseed rax")
}

/// RDTSC goes on.
pub fn rdtsc() -> Verdict {
    let (first, second) = (cpu::tsc(), cpu::tsc());
    holds(second > first, "it stands still")
}

/// RDTSCP gives IA32_TSC_AUX.
pub fn rdtscp() -> Verdict {
    works("IA32_TSC_AUX", cpu::wrmsr(TSC_AUX, 0x1234_5678))?;
    let answer = run!(0, 0, 0, "rdtscp", "mov eax, ecx").0;
    works("IA32_TSC_AUX", cpu::wrmsr(TSC_AUX, 0))?;
    equal("ECX", answer, 0x1234_5678u64)
}

/// RDPID gives IA32_TSC_AUX.
pub fn rdpid() -> Verdict {
    works("IA32_TSC_AUX", cpu::wrmsr(TSC_AUX, 0x8765_4321))?;
    // rdpid rax
    let answer = run!(0, 0, 0, ".byte 0xf3, 0x0f, 0xc7, 0xf8").0;
    works("IA32_TSC_AUX", cpu::wrmsr(TSC_AUX, 0))?;
    equal("the number", answer, 0x8765_4321u64)
}

/// IA32_TSC_AUX.
pub const TSC_AUX: u32 = 0xc000_0103;

/// REP MOVSB copies, a short and a long piece.
pub fn rep_movsb() -> Verdict {
    let (from, to) = (memory::pages(2, 1), memory::pages(2, 1));
    memory::fill(from, 2 * memory::PAGE, 0x1122_3344_5566_7788);
    for length in [3u64, 5000] {
        memory::fill(to, 2 * memory::PAGE, 0);
        works(
            "REP MOVSB",
            attempt(|| {
                // SAFETY: inside of two pieces of our own.
                unsafe {
                    asm!("rep movsb", inout("rcx") length => _, inout("rsi") from => _,
                        inout("rdi") to => _);
                }
            }),
        )?;
        let at = to + length - 1;
        equal(
            "the last byte",
            memory::read::<u8>(at),
            memory::read::<u8>(from + length - 1),
        )?;
        equal("the byte behind it", memory::read::<u8>(at + 1), 0u8)?;
    }
    Ok(())
}

/// An instruction on a line of memory leaves the memory as it is.
macro_rules! line {
    ($name:ident, $doc:literal, $text:literal) => {
        #[doc = $doc]
        pub fn $name() -> Verdict {
            let at = memory::page();
            memory::write(at, 0x1234_5678u64);
            // SAFETY: changes no content.
            let result = attempt(|| unsafe { asm!($text, in("rax") at) });
            works("the instruction", result)?;
            equal("the memory", memory::read::<u64>(at), 0x1234_5678u64)
        }
    };
}
line!(clflush, "CLFLUSH.", "clflush [rax]");
line!(clflushopt, "CLFLUSHOPT.", "clflushopt [rax]");
line!(clwb, "CLWB.", "clwb [rax]");
line!(cldemote, "CLDEMOTE.", ".byte 0x0f, 0x1c, 0x00");
line!(prefetchw, "PREFETCHW.", "prefetchw [rax]");
line!(prefetchwt1, "PREFETCHWT1.", ".byte 0x0f, 0x0d, 0x10");
line!(serialize, "SERIALIZE.", ".byte 0x0f, 0x01, 0xe8");

/// VERW, which overwrites buffers where MD_CLEAR is shown.
pub fn verw() -> Verdict {
    let selector = crate::rt::segments::DATA;
    works(
        "VERW",
        // SAFETY: sets a flag.
        attempt(|| unsafe { asm!("verw word ptr [{}]", in(reg) &raw const selector) }),
    )
}

/// MOVDIRI.
pub fn movdiri() -> Verdict {
    let at = memory::page();
    // movdiri [rax], rcx
    run!(at, 77, 0, ".byte 0x48, 0x0f, 0x38, 0xf9, 0x08");
    equal("stored", memory::read::<u64>(at), 77u64)
}

/// MOVDIR64B.
pub fn movdir64b() -> Verdict {
    let (from, to) = (memory::page(), memory::page());
    memory::fill(from, 64, 99);
    // movdir64b rax, [rcx]
    run!(to, from, 0, ".byte 0x66, 0x0f, 0x38, 0xf8, 0x01");
    equal("the last word", memory::read::<u64>(to + 56), 99u64)?;
    equal("behind it", memory::read::<u64>(to + 64), 0u64)
}
