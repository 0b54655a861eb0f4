//! VM-instruction error numbers (SDM Vol. 3, 31.4).

/// Why a VMX instruction failed, as the VM-instruction error field says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum VmInstructionError {
    /// VMCALL executed in VMX root operation.
    VmcallInRoot = 1,
    /// VMCLEAR with an invalid physical address.
    VmclearBadAddress = 2,
    /// VMCLEAR with the VMXON pointer.
    VmclearVmxonPointer = 3,
    /// VMLAUNCH with a VMCS that is not clear.
    VmlaunchNotClear = 4,
    /// VMRESUME with a VMCS that is not launched.
    VmresumeNotLaunched = 5,
    /// VMRESUME after VMXOFF (VMXOFF and VMXON between VMLAUNCH and VMRESUME).
    VmresumeAfterVmxoff = 6,
    /// VM entry with invalid control fields.
    EntryInvalidControls = 7,
    /// VM entry with invalid host-state fields.
    EntryInvalidHostState = 8,
    /// VMPTRLD with an invalid physical address.
    VmptrldBadAddress = 9,
    /// VMPTRLD with the VMXON pointer.
    VmptrldVmxonPointer = 10,
    /// VMPTRLD with a wrong VMCS revision identifier.
    VmptrldWrongRevision = 11,
    /// VMREAD or VMWRITE of an unsupported field.
    UnsupportedField = 12,
    /// VMWRITE to a read-only field.
    ReadOnlyField = 13,
    /// VMXON executed in VMX root operation.
    VmxonInRoot = 15,
    /// VM entry with an invalid executive-VMCS pointer.
    EntryBadExecutivePointer = 16,
    /// VM entry with a non-launched executive VMCS.
    EntryExecutiveNotLaunched = 17,
    /// VM entry with an executive-VMCS pointer that is not the VMXON pointer.
    EntryExecutiveNotVmxonPointer = 18,
    /// VMCALL with a VMCS that is not clear (dual-monitor treatment).
    VmcallNotClear = 19,
    /// VMCALL with invalid VM-exit control fields.
    VmcallInvalidExitControls = 20,
    /// VMCALL with a wrong MSEG revision identifier.
    VmcallWrongMsegRevision = 22,
    /// VMXOFF under the dual-monitor treatment of SMIs and SMM.
    VmxoffDualMonitor = 23,
    /// VMCALL with invalid SMM-monitor features.
    VmcallInvalidSmmFeatures = 24,
    /// VM entry with invalid VM-execution controls in the executive VMCS.
    EntryInvalidExecutiveControls = 25,
    /// VM entry with events blocked by MOV SS.
    EntryBlockedByMovSs = 26,
    /// Invalid operand to INVEPT or INVVPID.
    InvalidInvalidationOperand = 28,
}

impl VmInstructionError {
    /// Every error, in ascending order.
    pub const ALL: &'static [Self] = &[
        Self::VmcallInRoot,
        Self::VmclearBadAddress,
        Self::VmclearVmxonPointer,
        Self::VmlaunchNotClear,
        Self::VmresumeNotLaunched,
        Self::VmresumeAfterVmxoff,
        Self::EntryInvalidControls,
        Self::EntryInvalidHostState,
        Self::VmptrldBadAddress,
        Self::VmptrldVmxonPointer,
        Self::VmptrldWrongRevision,
        Self::UnsupportedField,
        Self::ReadOnlyField,
        Self::VmxonInRoot,
        Self::EntryBadExecutivePointer,
        Self::EntryExecutiveNotLaunched,
        Self::EntryExecutiveNotVmxonPointer,
        Self::VmcallNotClear,
        Self::VmcallInvalidExitControls,
        Self::VmcallWrongMsegRevision,
        Self::VmxoffDualMonitor,
        Self::VmcallInvalidSmmFeatures,
        Self::EntryInvalidExecutiveControls,
        Self::EntryBlockedByMovSs,
        Self::InvalidInvalidationOperand,
    ];

    /// The error with this number; `None` where the SDM defines none.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|e| *e as u32 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways() {
        for error in VmInstructionError::ALL {
            assert_eq!(VmInstructionError::from_number(*error as u32), Some(*error));
        }
        for gap in [0, 14, 21, 27, 29] {
            assert_eq!(VmInstructionError::from_number(gap), None);
        }
    }
}
