//! What a partition is created with and never changes.

use crate::enlightenments::Set;
use tlfs::cpuid::{HardwareFeatures, Version};

/// A partition's constants, as the image that runs it found or chose them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// What is offered.
    pub enlightenments: Set,
    /// Virtual processors; their indices are 0 to `vps - 1`. At most
    /// [`crate::MAX_VPS`].
    pub vps: u32,
    /// The TSC's frequency in Hz when the partition begins.
    pub tsc_hz: u64,
    /// The frequency of the local APIC's timer in Hz, before its divider.
    pub apic_hz: u64,
    /// Physical address bits that L1 has.
    pub physical_address_bits: u8,
    /// The hardware features that L0 runs on.
    pub hardware: HardwareFeatures,
    /// L1's VM-entry and VM-exit controls include "load
    /// IA32_PERF_GLOBAL_CTRL", so the enlightened VMCS holds that field.
    pub evmcs_perf_global_ctrl: bool,
}

/// The version that leaf 0x40000002 tells. Guests print it and decide nothing
/// by it; 10.0 is the interface's generation.
pub const VERSION: Version = Version {
    major: 10,
    minor: 0,
    build: 1,
};
