//! Leaf 0x4000000A: what a guest hypervisor is offered.

use bitfield_struct::bitfield;

/// EBX:EAX of leaf 0x4000000A, nested virtualization features.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct NestedFeatures {
    /// Lowest version of the enlightened VMCS understood.
    pub evmcs_version_low: u8,
    /// Highest version of the enlightened VMCS understood.
    pub evmcs_version_high: u8,
    #[bits(1)]
    __: u8,
    /// L2's flush hypercalls are handled here, without an exit to L1.
    pub direct_flush: bool,
    /// FlushGuestPhysicalAddressSpace and -List.
    pub guest_physical_flush: bool,
    /// The enlightened MSR bitmap.
    pub msr_bitmap: bool,
    /// Virtualization exceptions are folded into the page fault class.
    pub virtualization_exceptions: bool,
    /// GuestIa32DebugCtl of the enlightened VMCS may be other than zero.
    pub guest_debugctl: bool,
    /// Enlightened NPT TLB (AMD).
    pub enlightened_npt_tlb: bool,
    #[bits(9)]
    __: u16,
    /// The enlightened VMCS holds GuestPerfGlobalCtrl and HostPerfGlobalCtrl
    /// (EBX bit 0).
    pub evmcs_perf_global_ctrl: bool,
    #[bits(31)]
    __: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_features_lie_where_the_tlfs_puts_them() {
        let word = NestedFeatures::new()
            .with_evmcs_version_low(1)
            .with_evmcs_version_high(2);
        assert_eq!(word.into_bits(), 0x0201);
        for (bit, word) in [
            (17, NestedFeatures::new().with_direct_flush(true)),
            (18, NestedFeatures::new().with_guest_physical_flush(true)),
            (19, NestedFeatures::new().with_msr_bitmap(true)),
            (
                20,
                NestedFeatures::new().with_virtualization_exceptions(true),
            ),
            (21, NestedFeatures::new().with_guest_debugctl(true)),
            (22, NestedFeatures::new().with_enlightened_npt_tlb(true)),
            (32, NestedFeatures::new().with_evmcs_perf_global_ctrl(true)),
        ] {
            assert_eq!(word.into_bits(), 1 << bit, "{word:?}");
        }
    }
}
