//! Leaf 0x40000003: what the partition may touch and what is there.

use bitfield_struct::bitfield;

/// The partition's privilege mask, EBX:EAX of leaf 0x40000003
/// (HV_PARTITION_PRIVILEGE_MASK). The low half says which MSRs it may access,
/// the high half which hypercalls it may make.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Privileges {
    /// VP_RUNTIME.
    pub access_vp_runtime: bool,
    /// TIME_REF_COUNT.
    pub access_reference_counter: bool,
    /// SCONTROL to EOM, SINT0 to SINT15.
    pub access_synic: bool,
    /// STIMER0 to STIMER3.
    pub access_synthetic_timers: bool,
    /// EOI, ICR, TPR and VP_ASSIST_PAGE.
    pub access_interrupt_control: bool,
    /// GUEST_OS_ID and HYPERCALL. Linux uses no Hv#1 at all without it.
    pub access_hypercall: bool,
    /// VP_INDEX. Linux uses no Hv#1 at all without it.
    pub access_vp_index: bool,
    /// RESET.
    pub access_reset: bool,
    /// The statistics pages.
    pub access_statistics: bool,
    /// REFERENCE_TSC.
    pub access_reference_tsc: bool,
    /// GUEST_IDLE.
    pub access_guest_idle: bool,
    /// TSC_FREQUENCY and APIC_FREQUENCY.
    pub access_frequencies: bool,
    /// The debugging MSRs.
    pub access_debug: bool,
    /// REENLIGHTENMENT_CONTROL, TSC_EMULATION_CONTROL and _STATUS. The same
    /// privilege is bit 12 in leaf 0x40000009.
    pub access_reenlightenment: bool,
    /// The root scheduler's MSR.
    pub access_root_scheduler: bool,
    /// TSC_INVARIANT_CONTROL.
    pub access_tsc_invariant: bool,
    #[bits(16)]
    __: u16,
    /// Creating partitions.
    pub create_partitions: bool,
    /// GetPartitionId. Linux calls it at boot where it is offered, through an
    /// output page that only a root partition has.
    pub access_partition_id: bool,
    /// The partition's memory pool.
    pub access_memory_pool: bool,
    #[bits(1)]
    __: u8,
    /// PostMessage.
    pub post_messages: bool,
    /// SignalEvent.
    pub signal_events: bool,
    /// CreatePort.
    pub create_port: bool,
    /// ConnectPort.
    pub connect_port: bool,
    /// The statistics hypercalls.
    pub access_stats: bool,
    #[bits(2)]
    __: u8,
    /// The debugging hypercalls.
    pub debugging: bool,
    /// Managing the machine's processors: makes Linux a root partition.
    pub cpu_management: bool,
    #[bits(3)]
    __: u8,
    /// Virtual secure mode.
    pub access_vsm: bool,
    /// GetVpRegisters and SetVpRegisters on the partition's own VPs.
    pub access_vp_registers: bool,
    #[bits(2)]
    __: u8,
    /// The extended hypercalls, codes from 0x8000.
    pub enable_extended_hypercalls: bool,
    /// StartVirtualProcessor and GetVpIndexFromApicId.
    pub start_virtual_processor: bool,
    /// The partition is isolated (a confidential VM).
    pub isolation: bool,
    #[bits(9)]
    __: u16,
}

/// EDX of leaf 0x40000003: features that are no privilege.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Features {
    #[bits(1)]
    __: u8,
    /// Guest debugging.
    pub guest_debugging: bool,
    /// Performance monitor.
    pub performance_monitor: bool,
    /// Physical CPU dynamic partitioning events.
    pub dynamic_partitioning: bool,
    /// Hypercall input in XMM registers.
    pub xmm_input: bool,
    /// A virtual guest idle state.
    pub guest_idle_state: bool,
    /// Hypervisor sleep state.
    pub sleep_state: bool,
    /// NUMA distances can be queried.
    pub numa_distances: bool,
    /// The frequencies of the TSC and the APIC timer can be read.
    pub frequencies: bool,
    /// Injecting synthetic machine checks.
    pub synthetic_machine_checks: bool,
    /// CRASH_P0 to CRASH_P4 and CRASH_CTL.
    pub guest_crash: bool,
    /// The debugging MSRs.
    pub debug_msrs: bool,
    /// NPIEP_CONFIG.
    pub npiep: bool,
    /// The hypervisor can be disabled.
    pub disable_hypervisor: bool,
    /// Large pages in the ranges of FlushVirtualAddressList.
    pub extended_gva_ranges: bool,
    /// Hypercall output in XMM registers.
    pub xmm_output: bool,
    #[bits(1)]
    __: u8,
    /// SINT polling mode.
    pub sint_polling: bool,
    /// The Locked bit of the HYPERCALL MSR.
    pub hypercall_msr_lock: bool,
    /// Direct mode of synthetic timers.
    pub direct_synthetic_timers: bool,
    /// The VSM page-access-tracking register.
    pub vsm_pat_register: bool,
    /// BNDCFGS can be read by the VSM hypercalls.
    pub vsm_bndcfgs: bool,
    #[bits(1)]
    __: u8,
    /// The synthetic time-unhalted timer.
    pub time_unhalted_timer: bool,
    #[bits(8)]
    __: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_lie_where_the_tlfs_puts_them() {
        for (bit, word) in [
            (0, Privileges::new().with_access_vp_runtime(true)),
            (1, Privileges::new().with_access_reference_counter(true)),
            (2, Privileges::new().with_access_synic(true)),
            (3, Privileges::new().with_access_synthetic_timers(true)),
            (4, Privileges::new().with_access_interrupt_control(true)),
            (5, Privileges::new().with_access_hypercall(true)),
            (6, Privileges::new().with_access_vp_index(true)),
            (7, Privileges::new().with_access_reset(true)),
            (9, Privileges::new().with_access_reference_tsc(true)),
            (10, Privileges::new().with_access_guest_idle(true)),
            (11, Privileges::new().with_access_frequencies(true)),
            (13, Privileges::new().with_access_reenlightenment(true)),
            (15, Privileges::new().with_access_tsc_invariant(true)),
            (32, Privileges::new().with_create_partitions(true)),
            (33, Privileges::new().with_access_partition_id(true)),
            (36, Privileges::new().with_post_messages(true)),
            (37, Privileges::new().with_signal_events(true)),
            (44, Privileges::new().with_cpu_management(true)),
            (48, Privileges::new().with_access_vsm(true)),
            (49, Privileges::new().with_access_vp_registers(true)),
            (52, Privileges::new().with_enable_extended_hypercalls(true)),
            (53, Privileges::new().with_start_virtual_processor(true)),
            (54, Privileges::new().with_isolation(true)),
        ] {
            assert_eq!(word.into_bits(), 1 << bit, "{word:?}");
        }
    }

    #[test]
    fn features_lie_where_the_tlfs_puts_them() {
        for (bit, word) in [
            (1, Features::new().with_guest_debugging(true)),
            (4, Features::new().with_xmm_input(true)),
            (5, Features::new().with_guest_idle_state(true)),
            (8, Features::new().with_frequencies(true)),
            (10, Features::new().with_guest_crash(true)),
            (11, Features::new().with_debug_msrs(true)),
            (13, Features::new().with_disable_hypervisor(true)),
            (14, Features::new().with_extended_gva_ranges(true)),
            (15, Features::new().with_xmm_output(true)),
            (17, Features::new().with_sint_polling(true)),
            (18, Features::new().with_hypercall_msr_lock(true)),
            (19, Features::new().with_direct_synthetic_timers(true)),
            (23, Features::new().with_time_unhalted_timer(true)),
        ] {
            assert_eq!(word.into_bits(), 1 << bit, "{word:?}");
        }
    }
}
