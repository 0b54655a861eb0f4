//! What L0 itself asks of VMCS 02 and of VMCS 01.

use addr::Spa;
use vmx::{EntryControls, PinControls, PrimaryControls, SecondaryControls};

use crate::tsc::L1Tsc;

/// L0's own share of VMCS 02 while it runs L2: [`crate::Nested::merge`] adds L1's to it.
///
/// The image writes once what never depends on L1: host state, exit controls
/// (which save and load EFER and PAT and save the debug controls), empty MSR
/// lists, no CR3 targets, link pointer all ones.
#[derive(Clone, Copy, Debug)]
pub struct L0Policy {
    /// Pin-based controls: at least external-interrupt and NMI exiting.
    pub pin: PinControls,
    /// Primary controls: at least secondary controls and TSC offsetting.
    /// Windows, TPR shadow and MSR bitmaps are not L0's to set here.
    pub primary: PrimaryControls,
    /// Secondary controls: at least EPT and, if there are VPIDs, VPID; TSC
    /// scaling unless [`L0Policy::tsc`] has the multiplier 1.
    pub secondary: SecondaryControls,
    /// Entry controls: at least load debug controls, PAT and EFER.
    pub entry: EntryControls,
    /// Exceptions L0 wants for itself.
    pub exception_bitmap: u32,
    /// Bits of CR0 that L2 may not change without L0 (CD and NW at least,
    /// which VM entry does not switch).
    pub cr0_mask: u64,
    /// Bits of CR4 that L2 may not change without L0: those L1 is not offered.
    pub cr4_mask: u64,
    /// What L1's TSC is of the machine's.
    pub tsc: L1Tsc,
    /// The page of the merged MSR bitmap.
    pub msr_bitmap: Spa,
}

/// How L0 keeps CR0 and CR4 of L1 itself in VMCS 01.
#[derive(Clone, Copy, Debug)]
pub struct L1Registers {
    /// CR0 bits that are set whatever L1 wants.
    pub cr0_set: u64,
    /// CR0 bits that are clear whatever L1 wants.
    pub cr0_clear: u64,
    /// CR4 bits that are set whatever L1 wants.
    pub cr4_set: u64,
    /// CR4 bits that are clear whatever L1 wants.
    pub cr4_clear: u64,
}
