//! The names of CPUID's feature bits, for reports: those that the lists of features may show, and
//! the hidden ones that a reader may ask about. SDM vol. 2A, CPUID.

/// A bit's number and name.
pub type BitName = (u32, &'static str);

/// Leaf 1, ECX.
pub const LEAF_1_ECX: &[BitName] = &[
    (0, "SSE3"),
    (1, "PCLMULQDQ"),
    (2, "DTES64"),
    (3, "MONITOR"),
    (4, "DS-CPL"),
    (5, "VMX"),
    (6, "SMX"),
    (7, "EIST"),
    (8, "TM2"),
    (9, "SSSE3"),
    (10, "CNXT-ID"),
    (11, "SDBG"),
    (12, "FMA"),
    (13, "CMPXCHG16B"),
    (14, "xTPR"),
    (15, "PDCM"),
    (17, "PCID"),
    (18, "DCA"),
    (19, "SSE4.1"),
    (20, "SSE4.2"),
    (21, "x2APIC"),
    (22, "MOVBE"),
    (23, "POPCNT"),
    (24, "TSC-deadline"),
    (25, "AES"),
    (26, "XSAVE"),
    (27, "OSXSAVE"),
    (28, "AVX"),
    (29, "F16C"),
    (30, "RDRAND"),
    (31, "hypervisor"),
];

/// Leaf 1, EDX.
pub const LEAF_1_EDX: &[BitName] = &[
    (0, "FPU"),
    (1, "VME"),
    (2, "DE"),
    (3, "PSE"),
    (4, "TSC"),
    (5, "MSR"),
    (6, "PAE"),
    (7, "MCE"),
    (8, "CMPXCHG8B"),
    (9, "APIC"),
    (11, "SEP"),
    (12, "MTRR"),
    (13, "PGE"),
    (14, "MCA"),
    (15, "CMOV"),
    (16, "PAT"),
    (17, "PSE-36"),
    (18, "PSN"),
    (19, "CLFLUSH"),
    (21, "DS"),
    (22, "ACPI"),
    (23, "MMX"),
    (24, "FXSR"),
    (25, "SSE"),
    (26, "SSE2"),
    (27, "self-snoop"),
    (28, "HTT"),
    (29, "TM"),
    (31, "PBE"),
];

/// Leaf 6, EAX.
pub const LEAF_6_EAX: &[BitName] = &[(0, "thermal sensor"), (2, "ARAT"), (7, "HWP")];

/// Leaf 7, EBX.
pub const LEAF_7_EBX: &[BitName] = &[
    (0, "FSGSBASE"),
    (1, "TSC_ADJUST"),
    (2, "SGX"),
    (3, "BMI1"),
    (4, "HLE"),
    (5, "AVX2"),
    (6, "FDP_EXCPTN_ONLY"),
    (7, "SMEP"),
    (8, "BMI2"),
    (9, "ERMS"),
    (10, "INVPCID"),
    (11, "RTM"),
    (12, "RDT-M"),
    (13, "no FPU CS and DS"),
    (14, "MPX"),
    (15, "RDT-A"),
    (16, "AVX512F"),
    (17, "AVX512DQ"),
    (18, "RDSEED"),
    (19, "ADX"),
    (20, "SMAP"),
    (21, "AVX512_IFMA"),
    (23, "CLFLUSHOPT"),
    (24, "CLWB"),
    (25, "PT"),
    (28, "AVX512CD"),
    (29, "SHA"),
    (30, "AVX512BW"),
    (31, "AVX512VL"),
];

/// Leaf 7, ECX.
pub const LEAF_7_ECX: &[BitName] = &[
    (0, "PREFETCHWT1"),
    (1, "AVX512_VBMI"),
    (2, "UMIP"),
    (3, "PKU"),
    (5, "WAITPKG"),
    (6, "AVX512_VBMI2"),
    (7, "CET_SS"),
    (8, "GFNI"),
    (9, "VAES"),
    (10, "VPCLMULQDQ"),
    (11, "AVX512_VNNI"),
    (12, "AVX512_BITALG"),
    (13, "TME"),
    (14, "AVX512_VPOPCNTDQ"),
    (16, "LA57"),
    (22, "RDPID"),
    (23, "KL"),
    (25, "CLDEMOTE"),
    (27, "MOVDIRI"),
    (28, "MOVDIR64B"),
    (29, "ENQCMD"),
    (30, "SGX_LC"),
    (31, "PKS"),
];

/// Leaf 7, EDX.
pub const LEAF_7_EDX: &[BitName] = &[
    (2, "AVX512_4VNNIW"),
    (3, "AVX512_4FMAPS"),
    (4, "FSRM"),
    (5, "UINTR"),
    (8, "AVX512_VP2INTERSECT"),
    (9, "SRBDS_CTRL"),
    (10, "MD_CLEAR"),
    (13, "TSX_FORCE_ABORT"),
    (14, "SERIALIZE"),
    (15, "HYBRID"),
    (18, "PCONFIG"),
    (19, "ARCH_LBR"),
    (20, "CET_IBT"),
    (23, "AVX512_FP16"),
    (26, "IBRS, IBPB"),
    (27, "STIBP"),
    (28, "L1D_FLUSH"),
    (29, "ARCH_CAPABILITIES"),
    (30, "CORE_CAPABILITIES"),
    (31, "SSBD"),
];

/// Leaf 0xD, EDX:EAX: the state components of XCR0.
pub const XCR0: &[BitName] = &[
    (0, "x87"),
    (1, "SSE"),
    (2, "AVX"),
    (3, "MPX bounds"),
    (4, "MPX control"),
    (5, "AVX-512 opmask"),
    (6, "AVX-512 ZMM_Hi256"),
    (7, "AVX-512 Hi16_ZMM"),
    (9, "PKRU"),
    (17, "AMX TILECFG"),
    (18, "AMX TILEDATA"),
];

/// Leaf 0xD, sub-leaf 1, EAX.
pub const LEAF_D_1_EAX: &[BitName] = &[
    (0, "XSAVEOPT"),
    (1, "XSAVEC"),
    (2, "XGETBV of 1"),
    (3, "XSAVES"),
    (4, "XFD"),
];

/// Leaf 0x80000001, ECX.
pub const EXTENDED_1_ECX: &[BitName] = &[(0, "LAHF"), (5, "LZCNT"), (8, "PREFETCHW")];

/// Leaf 0x80000001, EDX.
pub const EXTENDED_1_EDX: &[BitName] = &[
    (11, "SYSCALL"),
    (20, "NX"),
    (26, "1-GiB pages"),
    (27, "RDTSCP"),
    (29, "long mode"),
];

/// Leaf 0x80000007, EDX.
pub const EXTENDED_7_EDX: &[BitName] = &[(8, "invariant TSC")];
