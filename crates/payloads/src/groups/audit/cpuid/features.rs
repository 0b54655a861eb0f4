//! What each feature bit is put to, word by word. SDM vol. 2A, CPUID.

use core::arch::asm;

use super::integer as i;
use super::paging as p;
use super::system::{self as s, cr4_refuses, cr4_takes, msr_keeps, msr_takes, no_msr, undefined};
use super::vectors as v;
use crate::groups::audit::walk::{Exercise, Verdict, equal, holds};
use crate::rt::cpu;

type Find = Option<Exercise>;

const fn works(how: &'static str, run: fn() -> Verdict) -> Find {
    Some(Exercise::works(how, run))
}

const fn refused(how: &'static str, run: fn() -> Verdict) -> Find {
    Some(Exercise::refused(how, run))
}

/// An instruction as a function; what it does to registers is of no interest.
macro_rules! instruction {
    ($($text:literal),+) => {
        // SAFETY: it is to fault, or harms nothing where it does not.
        || unsafe { asm!($($text,)+ out("rax") _, out("rcx") _, out("rdx") _) }
    };
}

/// Leaf 1, ECX.
pub fn leaf_1_ecx(bit: u32) -> Find {
    match bit {
        0 => works("MOVDDUP", v::sse3),
        1 => works("PCLMULQDQ", v::pclmulqdq),
        2 => refused("IA32_DS_AREA is no MSR", || no_msr(0x600)),
        3 => refused("MONITOR is undefined", || {
            undefined(instruction!(
                "xor ecx, ecx",
                "xor edx, edx",
                "lea rax, [rsp]",
                "monitor"
            ))?;
            undefined(instruction!("xor eax, eax", "xor ecx, ecx", "mwait"))
        }),
        5 => Some(
            Exercise::works("VMXON", s::vmx).or_refused("CR4.VMXE gives #GP", || cr4_refuses(13)),
        ),
        6 => refused("CR4.SMXE gives #GP", || cr4_refuses(14)),
        7 => refused("IA32_PERF_CTL is no MSR", || no_msr(0x199)),
        8 => refused("IA32_THERM_INTERRUPT is no MSR", || no_msr(0x19b)),
        9 => works("PABSB", v::ssse3),
        11 => refused("IA32_DEBUG_INTERFACE is no MSR", || no_msr(0xc80)),
        12 => works("VFMADD231PS", v::fma),
        13 => works("CMPXCHG16B", i::cmpxchg16b),
        15 => refused("IA32_PERF_CAPABILITIES is no MSR", || no_msr(0x345)),
        17 => Some(
            Exercise::works("CR4.PCIDE, CR3 with identifiers", p::process_context)
                .or_refused("CR4.PCIDE gives #GP", p::no_process_context),
        ),
        18 => refused("IA32_PLATFORM_DCA_CAP is no MSR", || no_msr(0x1f8)),
        19 => works("PMOVZXBW", v::sse41),
        20 => works("PCMPGTQ, CRC32", v::sse42),
        21 => works("its MSRs, a self-IPI", s::x2apic),
        22 => works("MOVBE", i::movbe),
        23 => works("POPCNT", i::popcnt),
        24 => works("a deadline ends HLT, not early", s::tsc_deadline),
        25 => works("AESENCLAST", v::aes),
        26 => Some(
            Exercise::works("XSETBV, XSAVE, XRSTOR", s::xsave)
                .or_refused("CR4.OSXSAVE gives #GP", || cr4_refuses(18)),
        ),
        27 => Some(
            Exercise::works("follows CR4.OSXSAVE", osxsave)
                .or_refused("follows CR4.OSXSAVE", osxsave),
        ),
        28 => Some(
            Exercise::works("the upper half of YMM0", v::avx).or_refused(
                "XSETBV refuses its state, VADDPS is undefined",
                || {
                    s::no_component(2)?;
                    undefined(instruction!("vaddps xmm0, xmm0, xmm0"))
                },
            ),
        ),
        29 => works("VCVTPH2PS", v::f16c),
        30 => works("numbers, and not all the same", i::rdrand),
        31 => works("the counter port answers", s::hypervisor),
        _ => None,
    }
}

/// CR4.OSXSAVE and its copy in leaf 1 agree, set and clear.
fn osxsave() -> Verdict {
    let copy = || cpu::cpuid(1, 0)[2] >> 27 & 1;
    let set = |on: bool| {
        let bit = cpu::CR4_OSXSAVE;
        cpu::set_cr4(if on {
            cpu::cr4() | bit
        } else {
            cpu::cr4() & !bit
        })
        .is_ok()
    };
    holds(set(false), "CR4.OSXSAVE cannot be cleared")?;
    equal("clear", copy(), 0u32)?;
    if set(true) {
        equal("set", copy(), 1u32)?;
        holds(set(false), "CR4.OSXSAVE cannot be cleared")?;
    }
    equal("clear again", copy(), 0u32)
}

/// Leaf 1, EDX.
pub fn leaf_1_edx(bit: u32) -> Find {
    match bit {
        0 => works("1 + 1 on the x87 stack", v::x87),
        1 => works("CR4.VME and PVI can be set", || {
            cr4_takes(0)?;
            cr4_takes(1)
        }),
        2 => works("with CR4.DE DR4 is undefined", s::debugging_extensions),
        3 => works("CR4.PSE; large pages are in use", || {
            cr4_takes(4)?;
            p::page_2m()
        }),
        4 => works("RDTSC; CR4.TSD keeps ring 3 from it", s::time_stamp),
        5 => works("RDMSR, WRMSR", || {
            msr_keeps(cpu::MSR_KERNEL_GS_BASE, 0x4242_0000)
        }),
        6 => works("in use", s::long_mode),
        7 => works("CR4.MCE can be set", || cr4_takes(6)),
        8 => works("CMPXCHG8B", i::cmpxchg8b),
        9 => works("a self-IPI", s::local_apic),
        11 => works("SYSENTER from ring 3", s::system_enter),
        12 => works("the MSRs that IA32_MTRRCAP promises", s::mtrr),
        13 => works("a global page and its end by CR4.PGE", p::global_pages),
        14 => works("the MSRs that IA32_MCG_CAP promises", s::machine_check),
        15 => works("CMOVC", i::cmov),
        16 => works("IA32_PAT", s::pat),
        17 => works("36 bits of physical address or more", || {
            holds(cpu::physical_bits() >= 36, "there are fewer")
        }),
        18 => refused("leaf 3 is empty", || {
            equal(
                "leaf 3",
                cpu::cpuid(3, 0).iter().fold(0, |a, b| a | b),
                0u32,
            )
        }),
        19 => works("CLFLUSH", i::clflush),
        21 => refused("IA32_DS_AREA is no MSR", || no_msr(0x600)),
        22 => refused("IA32_CLOCK_MODULATION is no MSR", || no_msr(0x19a)),
        23 => works("PADDB on MM0", v::mmx),
        24 => works("FXSAVE and FXRSTOR carry XMM0", v::fxsr),
        25 => works("ADDPS", v::sse),
        26 => works("PADDQ", v::sse2),
        27 => works("two mappings of a page agree", p::self_snoop),
        28 => works("the second processor starts", s::second_processor),
        29 => refused("IA32_THERM_STATUS is no MSR", || no_msr(0x19c)),
        _ => None,
    }
}

/// Leaf 6, EAX.
pub fn leaf_6_eax(bit: u32) -> Find {
    match bit {
        0 => refused("IA32_THERM_STATUS is no MSR", || no_msr(0x19c)),
        2 => works("the timer and the TSC go on in HLT", s::timer_in_halt),
        7 => refused("IA32_PM_ENABLE is no MSR", || no_msr(0x770)),
        _ => None,
    }
}

/// Leaf 7, EBX.
pub fn leaf_7_ebx(bit: u32) -> Find {
    match bit {
        0 => Some(
            Exercise::works("WRFSBASE, RDFSBASE", s::fs_gs_base)
                .or_refused("CR4.FSGSBASE gives #GP", || cr4_refuses(16)),
        ),
        1 => Some(
            Exercise::works("IA32_TSC_ADJUST and the TSC move each other", s::tsc_adjust)
                .or_refused("IA32_TSC_ADJUST is no MSR", || no_msr(cpu::MSR_TSC_ADJUST)),
        ),
        3 => works("ANDN, BLSR, TZCNT", i::bmi1),
        5 => works("VPADDQ in the upper half of YMM0", v::avx2),
        6 => works("a load leaves the data pointer 0", || {
            equal("the pointer", v::x87_pointers()?.1, 0u32)
        }),
        7 => Some(
            Exercise::works("ring 3's page cannot be executed", p::smep)
                .or_refused("CR4.SMEP gives #GP", || cr4_refuses(20)),
        ),
        8 => works("PEXT, BZHI, MULX", i::bmi2),
        9 => works("REP MOVSB", i::rep_movsb),
        10 => Some(
            Exercise::works("each type, and one there is not", p::invpcid).or_refused(
                "INVPCID is undefined",
                || {
                    undefined(instruction!(
                        "lea rcx, [rsp - 64]",
                        "mov eax, 2",
                        "invpcid rax, [rcx]"
                    ))
                },
            ),
        ),
        11 => refused("XBEGIN is undefined", || {
            undefined(instruction!("xbegin 2f", "2:"))
        }),
        12 => refused("IA32_QM_EVTSEL is no MSR", || no_msr(0xc8d)),
        13 => works("the selector in the environment is 0", || {
            equal("the selector", v::x87_pointers()?.0, 0u16)
        }),
        14 => refused("IA32_BNDCFGS is no MSR", || no_msr(0xd90)),
        15 => refused("IA32_L3_MASK_0 is no MSR", || no_msr(0xc90)),
        16 => works("VPADDQ in the last quarter of ZMM0", v::avx512f),
        17 => works("VPMULLQ", v::avx512dq),
        18 => works("numbers, and not all the same", i::rdseed),
        19 => works("ADCX, ADOX", i::adx),
        20 => Some(
            Exercise::works("ring 3's page cannot be read but with AC", p::smap)
                .or_refused("CR4.SMAP gives #GP", || cr4_refuses(21)),
        ),
        21 => works("VPMADD52LUQ", v::avx512_ifma),
        23 => works("CLFLUSHOPT", i::clflushopt),
        24 => works("CLWB", i::clwb),
        25 => refused("IA32_RTIT_CTL is no MSR", || no_msr(0x570)),
        28 => works("VPLZCNTQ", v::avx512cd),
        29 => works("SHA1MSG1", v::sha),
        30 => works("VPADDB on ZMM0", v::avx512bw),
        31 => works("VPTERNLOGQ on XMM0", v::avx512vl),
        _ => None,
    }
}

/// Leaf 7, ECX.
pub fn leaf_7_ecx(bit: u32) -> Find {
    match bit {
        0 => works("PREFETCHWT1", i::prefetchwt1),
        1 => works("VPERMB", v::avx512_vbmi),
        2 => Some(
            Exercise::works(
                "SGDT in ring 3 gives #GP",
                s::user_mode_instruction_prevention,
            )
            .or_refused("CR4.UMIP gives #GP", || cr4_refuses(11)),
        ),
        3 => refused("CR4.PKE gives #GP", || cr4_refuses(22)),
        5 => refused("IA32_UMWAIT_CONTROL is no MSR", || no_msr(0xe1)),
        7 => refused("CR4.CET gives #GP", || {
            cr4_refuses(23)?;
            no_msr(0x6a0)
        }),
        6 => works("VPSHLDQ", v::avx512_vbmi2),
        8 => works("GF2P8MULB", v::gfni),
        9 => works("VAESENCLAST on YMM0", v::vaes),
        10 => works("VPCLMULQDQ on YMM0", v::vpclmulqdq),
        11 => works("VPDPBUSD", v::avx512_vnni),
        12 => works("VPOPCNTB", v::avx512_bitalg),
        13 => refused("IA32_TME_ACTIVATE is no MSR", || no_msr(0x982)),
        14 => works("VPOPCNTQ", v::avx512_vpopcntdq),
        16 => refused("CR4.LA57 gives #GP", || cr4_refuses(12)),
        22 => works("RDPID gives IA32_TSC_AUX", i::rdpid),
        23 => refused("CR4.KL gives #GP", || cr4_refuses(19)),
        25 => works("CLDEMOTE", i::cldemote),
        27 => works("MOVDIRI", i::movdiri),
        28 => works("MOVDIR64B", i::movdir64b),
        30 => refused("IA32_SGXLEPUBKEYHASH0 is no MSR", || no_msr(0x8c)),
        31 => refused("CR4.PKS gives #GP, IA32_PKRS is no MSR", || {
            cr4_refuses(24)?;
            no_msr(0x6e1)
        }),
        _ => None,
    }
}

/// IA32_SPEC_CTRL keeps a bit.
const SPEC_CTRL: u32 = 0x48;

/// Leaf 7, EDX.
pub fn leaf_7_edx(bit: u32) -> Find {
    match bit {
        4 => works("REP MOVSB", i::rep_movsb),
        5 => refused("CR4.UINTR gives #GP", || cr4_refuses(25)),
        9 => refused("IA32_MCU_OPT_CTRL is no MSR", || no_msr(0x123)),
        10 => works("VERW", i::verw),
        13 => refused("TSX_FORCE_ABORT is no MSR", || no_msr(0x10f)),
        14 => works("SERIALIZE", i::serialize),
        19 => refused("IA32_LBR_CTL is no MSR", || no_msr(0x14ce)),
        26 => Some(
            Exercise::works("IA32_SPEC_CTRL, IA32_PRED_CMD", || {
                msr_keeps(SPEC_CTRL, 1)?;
                msr_takes(0x49, 1)
            })
            .or_refused("IA32_PRED_CMD is no MSR", || no_msr(0x49)),
        ),
        27 => works("IA32_SPEC_CTRL", || msr_keeps(SPEC_CTRL, 2)),
        28 => Some(
            Exercise::works("IA32_FLUSH_CMD", || msr_takes(0x10b, 1))
                .or_refused("IA32_FLUSH_CMD is no MSR", || no_msr(0x10b)),
        ),
        29 => Some(
            Exercise::works("the MSR can be read", || {
                holds(cpu::rdmsr(0x10a).is_ok(), "it cannot")
            })
            .or_refused("IA32_ARCH_CAPABILITIES is no MSR", || no_msr(0x10a)),
        ),
        30 => refused("IA32_CORE_CAPABILITIES is no MSR", || no_msr(0xcf)),
        31 => works("IA32_SPEC_CTRL", || msr_keeps(SPEC_CTRL, 4)),
        _ => None,
    }
}

/// Leaf 0xA: there is no performance monitoring.
pub fn leaf_a_eax(bit: u32) -> Find {
    match bit {
        0 => refused("its MSRs are none", || {
            no_msr(0x186)?;
            no_msr(0xc1)?;
            no_msr(0x38f)
        }),
        _ => None,
    }
}

/// Leaf 0xD, EDX:EAX: XCR0's components.
pub fn xcr0(bit: u32) -> Find {
    // Bit 63 can never be set.
    (bit < 63).then_some(
        Exercise::bit_works("XSETBV takes it", s::component)
            .or_bit_refused("XSETBV refuses it", s::no_component),
    )
}

/// Leaf 0xD, sub-leaf 1, EAX.
pub fn leaf_d_1_eax(bit: u32) -> Find {
    match bit {
        0 => works("XSAVEOPT, XRSTOR", s::xsaveopt),
        1 => works("XSAVEC, XRSTOR", s::xsavec),
        2 => works("XGETBV of 1", s::xgetbv_1),
        3 => Some(
            Exercise::works("IA32_XSS, XSAVES, XRSTORS", s::xsaves)
                .or_refused("IA32_XSS is no MSR", || no_msr(0xda0)),
        ),
        4 => refused("IA32_XFD is no MSR", || no_msr(0x1c4)),
        _ => None,
    }
}

/// Leaf 0x80000001, ECX.
pub fn extended_1_ecx(bit: u32) -> Find {
    match bit {
        0 => works("LAHF, SAHF", i::lahf),
        5 => works("LZCNT", i::lzcnt),
        8 => works("PREFETCHW", i::prefetchw),
        _ => None,
    }
}

/// Leaf 0x80000001, EDX.
pub fn extended_1_edx(bit: u32) -> Find {
    match bit {
        11 => works("SYSCALL from ring 3, by EFER.SCE", s::system_call),
        20 => Some(
            Exercise::works("a page that cannot be executed", p::no_execute)
                .or_refused("EFER.NXE gives #GP", s::no_execute_refused),
        ),
        26 => works("a page of 1 GiB", p::page_1g),
        27 => Some(
            Exercise::works("RDTSCP gives IA32_TSC_AUX", i::rdtscp)
                .or_refused("RDTSCP is undefined", || undefined(instruction!("rdtscp"))),
        ),
        29 => works("in use", s::long_mode),
        _ => None,
    }
}

/// Leaf 0x80000007, EDX.
pub fn extended_7_edx(bit: u32) -> Find {
    match bit {
        8 => works("the TSC goes on in HLT at its rate", s::timer_in_halt),
        _ => None,
    }
}

/// No feature of the leaf is thought of.
pub fn none(_: u32) -> Find {
    None
}
