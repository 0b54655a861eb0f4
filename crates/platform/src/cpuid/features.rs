//! The feature bits L1 may see, leaf by leaf. SDM vol. 2A, CPUID.
//!
//! Each list is what passes; the comment after it says what does not, and why.

const fn bits(list: &[u32]) -> u32 {
    let mut word = 0;
    let mut index = 0;
    while index < list.len() {
        word |= 1 << list[index];
        index += 1;
    }
    word
}

pub(crate) const VMX: u32 = 1 << 5;
pub(super) const XSAVE: u32 = 1 << 26;
pub(super) const HTT: u32 = 1 << 28;
pub(super) const RDTSCP: u32 = 1 << 27;
pub(super) const AVX2: u32 = 1 << 5;
pub(super) const INVPCID: u32 = 1 << 10;
pub(super) const RDPID: u32 = 1 << 22;

/// Leaf 1, ECX.
pub(super) const LEAF_1_ECX: u32 = bits(&[
    0,  // SSE3
    1,  // PCLMULQDQ
    9,  // SSSE3
    12, // FMA
    13, // CMPXCHG16B
    17, // PCID
    19, // SSE4.1
    20, // SSE4.2
    22, // MOVBE
    23, // POPCNT
    25, // AES
    26, // XSAVE
    28, // AVX
    29, // F16C
    30, // RDRAND
]);
// Hidden: DTES64, DS-CPL, PDCM (debug store and PMU: L1 has no performance
// monitoring); MONITOR (MWAIT would put a CPU to sleep that L0 must be able
// to wake); SMX (no measured launch from a guest); EIST, TM2 (power is
// L0's); CNXT-ID, SDBG, xTPR, DCA (chipset and debug-port matters).
// OSXSAVE follows CR4; VMX follows the configuration.

/// Shown whatever the hardware has: L0 emulates the x2APIC and the TSC-deadline timer,
/// and there is always a hypervisor.
pub(super) const EMULATED_LEAF_1_ECX: u32 = bits(&[21, 24, 31]);

/// Leaf 1, ECX: instructions on AVX state (FMA, AVX, F16C).
pub(super) const NEEDS_AVX_LEAF_1_ECX: u32 = bits(&[12, 28, 29]);

/// Leaf 1, EDX.
pub(super) const LEAF_1_EDX: u32 = bits(&[
    0,  // FPU
    1,  // VME
    2,  // DE
    3,  // PSE
    4,  // TSC
    5,  // MSR
    6,  // PAE
    7,  // MCE
    8,  // CMPXCHG8B
    11, // SEP
    12, // MTRR: without ranges, see `msr`
    13, // PGE
    14, // MCA: without banks, see `msr`
    15, // CMOV
    16, // PAT
    17, // PSE-36
    19, // CLFLUSH
    23, // MMX
    24, // FXSR
    25, // SSE
    26, // SSE2
    27, // self-snoop
]);
// Hidden: PSN (identifies the machine); DS (debug store); ACPI, TM, PBE (thermal control is
// L0's). APIC follows IA32_APIC_BASE; HTT follows the number of VPs.

/// Leaf 7, EBX.
pub(super) const LEAF_7_EBX: u32 = bits(&[
    0,  // FSGSBASE
    3,  // BMI1
    5,  // AVX2
    6,  // FDP_EXCPTN_ONLY
    7,  // SMEP
    8,  // BMI2
    9,  // ERMS
    10, // INVPCID
    13, // no FPU CS and DS
    16, // AVX512F
    17, // AVX512DQ
    18, // RDSEED
    19, // ADX
    20, // SMAP
    21, // AVX512_IFMA
    23, // CLFLUSHOPT
    24, // CLWB
    28, // AVX512CD
    29, // SHA
    30, // AVX512BW
    31, // AVX512VL
]);
// Hidden: SGX; HLE and RTM
// (aborts by exits, and TSX_CTRL, are not handled); RDT-M, RDT-A (caches are
// L0's to divide); MPX (its state component is not offered); PT (its output
// would need L0's translation).

/// Shown whatever the hardware has: L0 emulates IA32_TSC_ADJUST.
pub(super) const EMULATED_LEAF_7_EBX: u32 = bits(&[1]);

/// Leaf 7, EBX: instructions on AVX-512 state.
pub(super) const AVX512_LEAF_7_EBX: u32 = bits(&[16, 17, 21, 28, 30, 31]);

/// Leaf 7, ECX.
pub(super) const LEAF_7_ECX: u32 = bits(&[
    0,  // PREFETCHWT1
    1,  // AVX512_VBMI
    2,  // UMIP: only where the hardware has it, so that it costs no exits
    6,  // AVX512_VBMI2
    8,  // GFNI
    9,  // VAES
    10, // VPCLMULQDQ
    11, // AVX512_VNNI
    12, // AVX512_BITALG
    14, // AVX512_VPOPCNTDQ
    22, // RDPID
    25, // CLDEMOTE
    27, // MOVDIRI
    28, // MOVDIR64B
]);
// Hidden: PKU and PKS (component and MSR not offered; emulators get it wrong); WAITPKG (needs
// its own control); CET (MSRs and state not offered); TME; LA57 (L0 walks L1's
// tables with four levels); KL (key state is not switched); ENQCMD (PASID state);
// SGX_LC.

/// Leaf 7, ECX: instructions on AVX state (VAES, VPCLMULQDQ).
pub(super) const NEEDS_AVX_LEAF_7_ECX: u32 = bits(&[9, 10]);
/// Leaf 7, ECX: instructions on AVX-512 state.
pub(super) const AVX512_LEAF_7_ECX: u32 = bits(&[1, 6, 11, 12, 14]);

pub(crate) const IBRS_IBPB: u32 = 1 << 26;
pub(crate) const STIBP: u32 = 1 << 27;
pub(crate) const L1D_FLUSH: u32 = 1 << 28;
pub(crate) const ARCH_CAPABILITIES: u32 = 1 << 29;
pub(crate) const SSBD: u32 = 1 << 31;

/// Leaf 7, EDX.
pub(super) const LEAF_7_EDX: u32 = bits(&[
    2,  // AVX512_4VNNIW
    3,  // AVX512_4FMAPS
    4,  // FSRM
    8,  // AVX512_VP2INTERSECT
    10, // MD_CLEAR
    14, // SERIALIZE
    23, // AVX512_FP16
    26, // IBRS, IBPB
    27, // STIBP
    28, // L1D_FLUSH
    29, // IA32_ARCH_CAPABILITIES
    31, // SSBD
]);
// Hidden: SRBDS_CTRL, RTM_ALWAYS_ABORT, TSX_FORCE_ABORT, CORE_CAPABILITIES (MSRs not offered);
// HYBRID (VPs are alike); TSXLDTRK; PCONFIG; ARCH_LBR; IBT; AMX (state not offered).

/// Leaf 7, EDX: instructions on AVX-512 state.
pub(super) const AVX512_LEAF_7_EDX: u32 = bits(&[2, 3, 8, 23]);

/// Leaf 0x80000001, ECX: LAHF in 64-bit mode, LZCNT, PREFETCHW.
pub(super) const EXTENDED_1_ECX: u32 = bits(&[0, 5, 8]);
/// Leaf 0x80000001, EDX: SYSCALL, NX, 1-GiB pages, RDTSCP, long mode.
pub(super) const EXTENDED_1_EDX: u32 = bits(&[11, 20, 26, 27, 29]);
