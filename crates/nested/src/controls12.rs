//! What VMCS 12 says, decoded: the words that decisions are made of.

use addr::Gpa1;
use vmx::{
    EntryControls, ExitControls, Interruptibility, InterruptionInfo, PinControls, PrimaryControls,
    SecondaryControls,
};

use crate::Nested;
use crate::state::Current;
use crate::vmcs12::get;

impl Nested {
    /// L1's pin-based controls.
    #[inline(always)]
    pub fn pin_controls(&self) -> PinControls {
        PinControls::from_bits_retain(get!(self.vmcs12, PIN_BASED_CONTROLS) as u32)
    }

    /// L1's primary controls.
    #[inline(always)]
    pub fn primary_controls(&self) -> PrimaryControls {
        PrimaryControls::from_bits_retain(get!(self.vmcs12, PRIMARY_CONTROLS) as u32)
    }

    /// L1's secondary controls as they are in force: none unless activated.
    #[inline(always)]
    pub fn secondary_controls(&self) -> SecondaryControls {
        if self
            .primary_controls()
            .contains(PrimaryControls::ACTIVATE_SECONDARY)
        {
            SecondaryControls::from_bits_retain(get!(self.vmcs12, SECONDARY_CONTROLS) as u32)
        } else {
            SecondaryControls::empty()
        }
    }

    /// L1's exit controls.
    #[inline(always)]
    pub fn exit_controls(&self) -> ExitControls {
        ExitControls::from_bits_retain(get!(self.vmcs12, EXIT_CONTROLS) as u32)
    }

    /// L1's entry controls; IA-32e mode guest follows L2 at exits to L1.
    #[inline(always)]
    pub fn entry_controls(&self) -> EntryControls {
        EntryControls::from_bits_retain(get!(self.vmcs12, ENTRY_CONTROLS) as u32)
    }

    /// The event that L1 injects; not valid when there is none.
    #[inline(always)]
    pub(crate) fn event(&self) -> InterruptionInfo {
        InterruptionInfo::from_raw(get!(self.vmcs12, ENTRY_INTERRUPTION_INFO) as u32)
    }

    /// What blocks events in L2, as L1 last said.
    #[inline(always)]
    pub(crate) fn interruptibility(&self) -> Interruptibility {
        Interruptibility::from_bits_retain(get!(self.vmcs12, GUEST_INTERRUPTIBILITY) as u32)
    }

    /// L1's EPT pointer; `None` when L1 does not use EPT: L2's physical
    /// addresses are then L1's.
    #[inline]
    pub fn ept_pointer(&self) -> Option<u64> {
        self.secondary_controls()
            .contains(SecondaryControls::ENABLE_EPT)
            .then(|| get!(self.vmcs12, EPT_POINTER))
    }

    /// L1's VPID for L2; `None` when L1 does not use VPIDs.
    #[inline]
    pub fn vpid(&self) -> Option<u16> {
        self.secondary_controls()
            .contains(SecondaryControls::ENABLE_VPID)
            .then(|| get!(self.vmcs12, VPID) as u16)
    }

    /// L1's MSR bitmap; `None` when every access exits.
    #[inline]
    pub fn msr_bitmap(&self) -> Option<Gpa1> {
        self.primary_controls()
            .contains(PrimaryControls::USE_MSR_BITMAPS)
            .then(|| Gpa1::new(get!(self.vmcs12, MSR_BITMAP)))
    }

    /// L1's I/O bitmaps A and B; `None` when
    /// [`PrimaryControls::UNCONDITIONAL_IO_EXITING`] decides.
    #[inline]
    pub fn io_bitmaps(&self) -> Option<(Gpa1, Gpa1)> {
        self.primary_controls()
            .contains(PrimaryControls::USE_IO_BITMAPS)
            .then(|| {
                (
                    Gpa1::new(get!(self.vmcs12, IO_BITMAP_A)),
                    Gpa1::new(get!(self.vmcs12, IO_BITMAP_B)),
                )
            })
    }

    /// Whether the MSR bitmap's contents are covered by its clean bit, so that
    /// a merged bitmap can be kept. Never so with a plain VMCS.
    #[inline(always)]
    pub fn has_msr_bitmap_enlightenment(&self) -> bool {
        matches!(self.current, Current::Enlightened(_))
            && self.enlightenments().control.msr_bitmap()
    }
}
