//! The names of single bits, for reports: those of the fields of the types beside this module,
//! which a test holds them to.

/// A bit's number and name.
pub type BitName = (u32, &'static str);

/// Bits of [`super::Privileges`].
pub const PRIVILEGES: &[BitName] = &[
    (0, "access_vp_runtime"),
    (1, "access_reference_counter"),
    (2, "access_synic"),
    (3, "access_synthetic_timers"),
    (4, "access_interrupt_control"),
    (5, "access_hypercall"),
    (6, "access_vp_index"),
    (7, "access_reset"),
    (8, "access_statistics"),
    (9, "access_reference_tsc"),
    (10, "access_guest_idle"),
    (11, "access_frequencies"),
    (12, "access_debug"),
    (13, "access_reenlightenment"),
    (14, "access_root_scheduler"),
    (15, "access_tsc_invariant"),
    (32, "create_partitions"),
    (33, "access_partition_id"),
    (34, "access_memory_pool"),
    (36, "post_messages"),
    (37, "signal_events"),
    (38, "create_port"),
    (39, "connect_port"),
    (40, "access_stats"),
    (43, "debugging"),
    (44, "cpu_management"),
    (48, "access_vsm"),
    (49, "access_vp_registers"),
    (52, "enable_extended_hypercalls"),
    (53, "start_virtual_processor"),
    (54, "isolation"),
];

/// Bits of [`super::Features`].
pub const FEATURES: &[BitName] = &[
    (1, "guest_debugging"),
    (2, "performance_monitor"),
    (3, "dynamic_partitioning"),
    (4, "xmm_input"),
    (5, "guest_idle_state"),
    (6, "sleep_state"),
    (7, "numa_distances"),
    (8, "frequencies"),
    (9, "synthetic_machine_checks"),
    (10, "guest_crash"),
    (11, "debug_msrs"),
    (12, "npiep"),
    (13, "disable_hypervisor"),
    (14, "extended_gva_ranges"),
    (15, "xmm_output"),
    (17, "sint_polling"),
    (18, "hypercall_msr_lock"),
    (19, "direct_synthetic_timers"),
    (20, "vsm_pat_register"),
    (21, "vsm_bndcfgs"),
    (23, "time_unhalted_timer"),
];

/// Bits of [`super::Recommendations`].
pub const RECOMMENDATIONS: &[BitName] = &[
    (0, "address_space_switch"),
    (1, "local_flush"),
    (2, "remote_flush"),
    (3, "apic_msrs"),
    (4, "reset_msr"),
    (5, "relaxed_timing"),
    (6, "dma_remapping"),
    (7, "interrupt_remapping"),
    (8, "x2apic_msrs"),
    (9, "deprecate_auto_eoi"),
    (10, "cluster_ipi"),
    (11, "ex_processor_masks"),
    (12, "nested_hypervisor"),
    (13, "int_for_mbec"),
    (14, "enlightened_vmcs"),
    (15, "synced_timeline"),
    (17, "direct_local_flush"),
    (18, "no_foreign_core_sharing"),
];

/// Bits of [`super::HardwareFeatures`], but for the level, which is a number.
pub const HARDWARE: &[BitName] = &[
    (0, "apic_overlay_assist"),
    (1, "msr_bitmaps"),
    (2, "performance_counters"),
    (3, "second_level_translation"),
    (4, "dma_remapping"),
    (5, "interrupt_remapping"),
    (6, "memory_patrol_scrubber"),
    (7, "dma_protection"),
    (8, "hpet"),
    (9, "volatile_synthetic_timers"),
    (17, "unrestricted_guest"),
];

/// Bits of [`super::NestedFeatures`], but for the versions, which are numbers.
pub const NESTED: &[BitName] = &[
    (17, "direct_flush"),
    (18, "guest_physical_flush"),
    (19, "msr_bitmap"),
    (20, "virtualization_exceptions"),
    (21, "guest_debugctl"),
    (22, "enlightened_npt_tlb"),
    (32, "evmcs_perf_global_ctrl"),
];

#[cfg(test)]
mod tests {
    extern crate std;
    use super::super::{Features, HardwareFeatures, NestedFeatures, Privileges, Recommendations};
    use super::*;
    use std::format;
    use std::string::String;

    /// Each bit alone, shown by its type, is true under the name in the table, and a bit without
    /// a name is true under none.
    fn agree(table: &[BitName], bits: u32, shown: impl Fn(u64) -> String) {
        for bit in 0..bits {
            let shown = shown(1 << bit);
            let name = table.iter().find(|(number, _)| *number == bit);
            match name {
                Some((_, name)) => assert!(shown.contains(&format!(" {name}: true")), "{shown}"),
                None => assert!(!shown.contains("true"), "bit {bit}: {shown}"),
            }
        }
    }

    #[test]
    fn names_are_those_of_the_fields() {
        agree(PRIVILEGES, 64, |w| {
            format!("{:?}", Privileges::from_bits(w))
        });
        agree(FEATURES, 32, |w| {
            format!("{:?}", Features::from_bits(w as u32))
        });
        agree(RECOMMENDATIONS, 32, |w| {
            format!("{:?}", Recommendations::from_bits(w as u32))
        });
        agree(HARDWARE, 32, |w| {
            format!("{:?}", HardwareFeatures::from_bits(w as u32))
        });
        agree(NESTED, 64, |w| {
            format!("{:?}", NestedFeatures::from_bits(w))
        });
    }
}
