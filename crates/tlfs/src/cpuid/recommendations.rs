//! Leaves 0x40000004 and 0x40000006: what the guest had better use, and what
//! the hypervisor itself uses of the hardware.

use bitfield_struct::bitfield;

/// EBX of leaf 0x40000004 for "never call NotifyLongSpinWait".
pub const NEVER_NOTIFY_LONG_SPIN: u32 = u32::MAX;

/// EAX of leaf 0x40000004: what the hypervisor recommends (Linux says "hints").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Recommendations {
    /// SwitchVirtualAddressSpace rather than MOV to CR3.
    pub address_space_switch: bool,
    /// Hypercalls rather than INVLPG for this VP's TLB. An L1 that lets its L2
    /// flush directly sets it for that L2.
    pub local_flush: bool,
    /// FlushVirtualAddressSpace and -List rather than IPIs.
    pub remote_flush: bool,
    /// The EOI, ICR and TPR MSRs rather than the APIC's own registers.
    pub apic_msrs: bool,
    /// The RESET MSR.
    pub reset_msr: bool,
    /// Not taking lateness for a failure: no watchdogs on timer ticks.
    pub relaxed_timing: bool,
    /// DMA remapping.
    pub dma_remapping: bool,
    /// Interrupt remapping.
    pub interrupt_remapping: bool,
    /// x2APIC MSRs.
    pub x2apic_msrs: bool,
    /// Not using AutoEOI.
    pub deprecate_auto_eoi: bool,
    /// SendSyntheticClusterIpi.
    pub cluster_ipi: bool,
    /// The Ex forms of calls that take VP sets.
    pub ex_processor_masks: bool,
    /// Nothing to use: this hypervisor runs under another Hv#1.
    pub nested_hypervisor: bool,
    /// INT rather than SYSCALL for mode-based execution control.
    pub int_for_mbec: bool,
    /// The enlightened VMCS; leaf 0x4000000A is then valid.
    pub enlightened_vmcs: bool,
    /// Synced timelines.
    pub synced_timeline: bool,
    #[bits(1)]
    __: u8,
    /// Flushing this VP's TLB directly.
    pub direct_local_flush: bool,
    /// Nothing to use: no core is shared with a foreign sibling.
    pub no_foreign_core_sharing: bool,
    #[bits(13)]
    __: u16,
}

/// EAX of leaf 0x40000006: hardware features in use by the hypervisor.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct HardwareFeatures {
    /// APIC virtualization.
    pub apic_overlay_assist: bool,
    /// MSR bitmaps.
    pub msr_bitmaps: bool,
    /// The architectural performance counters.
    pub performance_counters: bool,
    /// Second-level address translation.
    pub second_level_translation: bool,
    /// DMA remapping.
    pub dma_remapping: bool,
    /// Interrupt remapping.
    pub interrupt_remapping: bool,
    /// Memory patrol scrubber.
    pub memory_patrol_scrubber: bool,
    /// DMA protection.
    pub dma_protection: bool,
    /// HPET.
    pub hpet: bool,
    /// Synthetic timers are volatile.
    pub volatile_synthetic_timers: bool,
    /// How deep the guest is nested: 0 for a guest of the base hypervisor.
    #[bits(4)]
    pub hypervisor_level: u8,
    #[bits(3)]
    __: u8,
    /// Unrestricted guest.
    pub unrestricted_guest: bool,
    #[bits(14)]
    __: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recommendations_lie_where_the_tlfs_puts_them() {
        for (bit, word) in [
            (0, Recommendations::new().with_address_space_switch(true)),
            (1, Recommendations::new().with_local_flush(true)),
            (2, Recommendations::new().with_remote_flush(true)),
            (3, Recommendations::new().with_apic_msrs(true)),
            (4, Recommendations::new().with_reset_msr(true)),
            (5, Recommendations::new().with_relaxed_timing(true)),
            (9, Recommendations::new().with_deprecate_auto_eoi(true)),
            (10, Recommendations::new().with_cluster_ipi(true)),
            (11, Recommendations::new().with_ex_processor_masks(true)),
            (14, Recommendations::new().with_enlightened_vmcs(true)),
            (17, Recommendations::new().with_direct_local_flush(true)),
            (
                18,
                Recommendations::new().with_no_foreign_core_sharing(true),
            ),
        ] {
            assert_eq!(word.into_bits(), 1 << bit, "{word:?}");
        }
    }

    #[test]
    fn hardware_features_lie_where_the_tlfs_puts_them() {
        let word = HardwareFeatures::new()
            .with_msr_bitmaps(true)
            .with_second_level_translation(true)
            .with_volatile_synthetic_timers(true)
            .with_hypervisor_level(0xF)
            .with_unrestricted_guest(true);
        assert_eq!(
            word.into_bits(),
            1 << 1 | 1 << 3 | 1 << 9 | 0xF << 10 | 1 << 17
        );
    }
}
