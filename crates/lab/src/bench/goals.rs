//! What the figures are held against: constants, measured once, and goals.

/// An operation, with what it costs elsewhere and what it should cost here. Instructions of all levels together, as
/// L2's RDTSC counts them in Bochs 2.7 (of L1, for L1's own operations).
pub struct Operation {
    /// Its name for `vmm measure`.
    pub name: &'static str,
    /// What it is, for people.
    pub label: &'static str,
    /// Without nesting: the same operation of a guest of Linux 6.1's KVM on the bare emulator. The floor.
    pub one_level: Option<i64>,
    /// With Linux 6.1's KVM as L0 at its best, which is with eVMCS and MSR bitmap. The peer.
    pub peer: Option<i64>,
    /// What hynest should reach with all enlightenments.
    pub goal: Option<i64>,
}

/// Every operation of the table, in its order.
pub const OPERATIONS: &[Operation] = &[
    row("cpuid", "CPUID", 975, 12_069, 1_800),
    row("rdmsr", "RDMSR that L1 emulates", 1_085, 12_245, 1_900),
    row("wrmsr", "WRMSR that L1 emulates", 1_121, 12_483, 1_950),
    row("rdmsr-fs-base", "RDMSR of FS_BASE", 4, 4, 4),
    row("vmcall", "VMCALL", 1_011, 12_036, 1_850),
    row("out", "OUT to L1's user space", 3_245, 14_382, 4_200),
    row(
        "mmio-read",
        "MMIO read to L1's user space",
        5_960,
        18_618,
        7_000,
    ),
    row("hlt", "HLT to L1's user space", 2_801, 13_911, 3_800),
    row(
        "ept-present",
        "EPT fault, page present in L1",
        3_381,
        21_025,
        5_500,
    ),
    row(
        "ept-fresh",
        "EPT fault, page fresh in L1",
        6_568,
        24_765,
        9_000,
    ),
    row(
        "zap",
        "L1 takes a page away, L2 touches it",
        15_407,
        402_612,
        25_000,
    ),
    row("hv-flush", "Hv TLB flush, by L1", 1_955, 15_858, 2_900),
    Operation {
        name: "hv-flush-direct",
        label: "Hv TLB flush, direct",
        one_level: None,
        peer: None,
        goal: Some(500),
    },
    row(
        "self-ipi",
        "self-IPI with its handler",
        4_191,
        28_836,
        6_500,
    ),
    row(
        "tsc-deadline",
        "TSC-deadline timer and HLT",
        7_369,
        55_664,
        11_000,
    ),
    row("l1-cpuid", "CPUID of L1 itself", 6, 1_052, 150),
];

/// How many times cheaper L2's CPUID should be enlightened than plain: what the enlightened VMCS brought on
/// Hyper-V, in cycles (18890 to 8304, by the Linux commit that made KVM use it).
pub const RATIO: f64 = 2.27;

const fn row(
    name: &'static str,
    label: &'static str,
    one_level: i64,
    peer: i64,
    goal: i64,
) -> Operation {
    Operation {
        name,
        label,
        one_level: Some(one_level),
        peer: Some(peer),
        goal: Some(goal),
    }
}

/// An operation of the table by its name.
pub fn operation(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}
