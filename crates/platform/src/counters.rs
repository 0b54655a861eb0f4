//! The counters that L0 keeps per VP and shows through the counter port.
//!
//! Shared by L0 (which counts), the vmm (which reads them around a
//! measurement) and the lab (which names them in reports).

/// I/O port that identifies the counter device and selects a counter.
pub const SELECT_PORT: u16 = 0x5C0;
/// I/O port that gives the latched counter's low, then high, 32 bits. A 32-bit
/// write is a rate in Hz that the machine's TSC is taken to run at from then on,
/// where L0 was told to allow that.
pub const DATA_PORT: u16 = 0x5C4;
/// What a 32-bit read of [`SELECT_PORT`] gives where the device exists: "HYN1".
pub const IDENTITY: u32 = 0x314E_5948;

/// What L1 writes to [`SELECT_PORT`] to be saved, where L0 has a place for that: "SAVE". The next
/// instruction is the first after the restore.
pub const SAVE: u32 = u32::from_le_bytes(*b"SAVE");

/// What the counter port gives for a counter that L0 does not keep.
pub const NO_COUNTER: u64 = u64::MAX;

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One counter of a VP. Its number on the counter port is its discriminant.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// Every counter, in the order of its number.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// The name used in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Counter::$variant => $name,)*
                }
            }
        }
    };
}

counters! {
    /// All VM exits to L0, from L1 and from L2.
    Exits = "exits",
    /// VM exits to L0 while L1 ran.
    L1Exits = "l1-exits",
    /// VM exits to L0 while L2 ran.
    L2Exits = "l2-exits",
    /// L2 exits that L0 handed to L1.
    Reflected = "reflected",
    /// VM entries of L2 that L1 asked for (VMLAUNCH and VMRESUME).
    NestedEntries = "nested-entries",
    /// VMREADs of L1 that exited to L0.
    Vmreads = "vmreads",
    /// VMWRITEs of L1 that exited to L0.
    Vmwrites = "vmwrites",
    /// VMPTRLDs of L1.
    Vmptrlds = "vmptrlds",
    /// VMCLEARs of L1.
    Vmclears = "vmclears",
    /// INVEPTs of L1.
    Invepts = "invepts",
    /// INVVPIDs of L1.
    Invvpids = "invvpids",
    /// RDMSR and WRMSR exits of L1.
    L1Msrs = "l1-msrs",
    /// Hypercalls of L1.
    Hypercalls = "hypercalls",
    /// Those that flush an address space of L2's, or ranges of it.
    GpaFlushes = "gpa-flushes",
    /// Those that flush VPs' TLBs.
    TlbFlushes = "tlb-flushes",
    /// Those that send an interrupt.
    Ipis = "ipis",
    /// Flush hypercalls of L2 that L0 answered.
    DirectFlushes = "direct-flushes",
    /// VMCALLs of L2 that L1 answers.
    ReflectedVmcalls = "reflected-vmcalls",
    /// Reads of TIME_REF_COUNT, which the reference TSC page makes needless.
    ReferenceReads = "reference-reads",
    /// EPT violations of L2 that L0 answered by filling its shadow.
    ShadowFills = "shadow-fills",
    /// MSR bitmap merges done at nested entries.
    MsrBitmapMerges = "msr-bitmap-merges",
    /// Fields of VMCS 12 copied into VMCS 02 at nested entries that go the long way.
    MergedFields = "merged-fields",
    /// Interrupts injected into L1.
    Interrupts = "interrupts",
    /// Those that L1 ended by its VP assist page, without an exit.
    SparedEois = "spared-eois",
    /// Enlightened VMCSs that the clean-field auditor looked at.
    AuditedEntries = "audited-entries",
    /// Fields that it found changed in a group declared clean, at each of these entries.
    StaleFields = "stale-fields",
    /// RDTSCs, RDTSCPs and RDMSRs of the TSC that L0 answered, L1's and L2's, while it emulates.
    EmulatedTscReads = "emulated-tsc-reads",
    /// Changes of the machine's TSC rate, at the VP that saw to them.
    TscRateChanges = "tsc-rate-changes",
    /// VMREADs that L0 executed. This and the rest L0 keeps only when it is built with the feature
    /// `count-accesses`; without it, the counter port has no such counter.
    Reads02 = "l0-vmreads",
    /// VMWRITEs that L0 executed.
    Writes02 = "l0-vmwrites",
    /// Words that L0 read from pages of L1's: enlightened VMCSs and MSR bitmaps.
    PageReads = "l1-page-reads",
    /// Words that L0 wrote to an enlightened VMCS.
    PageWrites = "l1-page-writes",
}

impl Counter {
    /// Whether L0 keeps this counter only when it is built to count its own accesses, which costs time.
    pub const fn is_access(self) -> bool {
        self as usize >= Counter::Reads02 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_come_last() {
        let first = Counter::ALL.iter().position(|c| c.is_access());
        assert_eq!(first, Some(Counter::ALL.len() - 4));
        assert!(!Counter::Interrupts.is_access() && Counter::PageWrites.is_access());
    }
}
