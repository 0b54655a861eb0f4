//! CPUID's leaves below the hypervisor's range and above it.

mod facts;
mod features;
mod integer;
mod paging;
mod system;
mod vectors;

pub use system::no_msr;

use super::walk::walk_all;
use crate::rt::cpu;
use crate::rt::harness::Check;

/// Each feature bit.
pub fn features(check: &Check) {
    use features as f;
    let [_, ebx_1, ecx_1, edx_1] = cpu::cpuid(1, 0);
    let [eax_7, ebx_7, ecx_7, edx_7] = cpu::cpuid(7, 0);
    let [eax_6, ebx_6, ecx_6, edx_6] = cpu::cpuid(6, 0);
    let xsave = cpu::cpuid(0xd, 0);
    let [eax_d1, _, ecx_d1, edx_d1] = cpu::cpuid(0xd, 1);
    let [eax_e1, ebx_e1, ecx_e1, edx_e1] = cpu::cpuid(0x8000_0001, 0);
    let extended_7 = cpu::cpuid(0x8000_0007, 0);
    let extended_8 = cpu::cpuid(0x8000_0008, 0);
    let all = u64::MAX;
    let wide = |word: u32| u64::from(word);
    let words = [
        ("CPUID 1 EBX", wide(ebx_1), all & !0xff, f::none as _),
        ("CPUID 1 ECX", wide(ecx_1), 0, f::leaf_1_ecx as _),
        ("CPUID 1 EDX", wide(edx_1), 0, f::leaf_1_edx as _),
        ("CPUID 6 EAX", wide(eax_6), 0, f::leaf_6_eax as _),
        ("CPUID 6 EBX", wide(ebx_6), 0, f::none as _),
        ("CPUID 6 ECX", wide(ecx_6), 0, f::none as _),
        ("CPUID 6 EDX", wide(edx_6), 0, f::none as _),
        ("CPUID 7 EAX", wide(eax_7), 0, f::none as _),
        ("CPUID 7 EBX", wide(ebx_7), 0, f::leaf_7_ebx as _),
        ("CPUID 7 ECX", wide(ecx_7), 0, f::leaf_7_ecx as _),
        ("CPUID 7 EDX", wide(edx_7), 0, f::leaf_7_edx as _),
        (
            "CPUID 0xA EAX",
            wide(cpu::cpuid(0xa, 0)[0]),
            0,
            f::leaf_a_eax as _,
        ),
        (
            "CPUID 0xD EDX:EAX",
            wide(xsave[3]) << 32 | wide(xsave[0]),
            0,
            f::xcr0 as _,
        ),
        ("CPUID 0xD.1 EAX", wide(eax_d1), 0, f::leaf_d_1_eax as _),
        (
            "CPUID 0xD.1 EDX:ECX",
            wide(edx_d1) << 32 | wide(ecx_d1),
            0,
            f::none as _,
        ),
        ("CPUID 0x80000001 EAX", wide(eax_e1), 0, f::none as _),
        ("CPUID 0x80000001 EBX", wide(ebx_e1), 0, f::none as _),
        (
            "CPUID 0x80000001 ECX",
            wide(ecx_e1),
            0,
            f::extended_1_ecx as _,
        ),
        (
            "CPUID 0x80000001 EDX",
            wide(edx_e1),
            0,
            f::extended_1_edx as _,
        ),
        ("CPUID 0x80000007 EAX", wide(extended_7[0]), 0, f::none as _),
        ("CPUID 0x80000007 EBX", wide(extended_7[1]), 0, f::none as _),
        ("CPUID 0x80000007 ECX", wide(extended_7[2]), 0, f::none as _),
        (
            "CPUID 0x80000007 EDX",
            wide(extended_7[3]),
            0,
            f::extended_7_edx as _,
        ),
        ("CPUID 0x80000008 EBX", wide(extended_8[1]), 0, f::none as _),
    ];
    walk_all(check, words);
}

/// What is no feature.
pub fn facts(check: &Check) {
    facts::all(check);
    facts::empty(check);
}
