//! What of VMCS 01 is L1's.

use alloc::vec::Vec;

use nested::access::Vmcs;
use serde::{Deserialize, Serialize};
use vmx::{EntryControls, Field};

use crate::Setup;
use crate::bounded::at_most;

/// L1's registers as far as hardware keeps them in VMCS 01, and the event that the next entry
/// injects. What L0 decides (controls, masks, its own state) is not among them.
pub const FIELDS: &[Field] = &[
    Field::GUEST_RIP,
    Field::GUEST_RSP,
    Field::GUEST_RFLAGS,
    Field::GUEST_CR0,
    Field::GUEST_CR3,
    Field::GUEST_CR4,
    Field::CR0_READ_SHADOW,
    Field::CR4_READ_SHADOW,
    Field::GUEST_DR7,
    Field::GUEST_DEBUGCTL,
    Field::GUEST_PAT,
    Field::GUEST_EFER,
    Field::GUEST_PDPTE0,
    Field::GUEST_PDPTE1,
    Field::GUEST_PDPTE2,
    Field::GUEST_PDPTE3,
    Field::GUEST_SYSENTER_CS,
    Field::GUEST_SYSENTER_ESP,
    Field::GUEST_SYSENTER_EIP,
    Field::GUEST_ES_SELECTOR,
    Field::GUEST_CS_SELECTOR,
    Field::GUEST_SS_SELECTOR,
    Field::GUEST_DS_SELECTOR,
    Field::GUEST_FS_SELECTOR,
    Field::GUEST_GS_SELECTOR,
    Field::GUEST_LDTR_SELECTOR,
    Field::GUEST_TR_SELECTOR,
    Field::GUEST_ES_LIMIT,
    Field::GUEST_CS_LIMIT,
    Field::GUEST_SS_LIMIT,
    Field::GUEST_DS_LIMIT,
    Field::GUEST_FS_LIMIT,
    Field::GUEST_GS_LIMIT,
    Field::GUEST_LDTR_LIMIT,
    Field::GUEST_TR_LIMIT,
    Field::GUEST_GDTR_LIMIT,
    Field::GUEST_IDTR_LIMIT,
    Field::GUEST_ES_ACCESS_RIGHTS,
    Field::GUEST_CS_ACCESS_RIGHTS,
    Field::GUEST_SS_ACCESS_RIGHTS,
    Field::GUEST_DS_ACCESS_RIGHTS,
    Field::GUEST_FS_ACCESS_RIGHTS,
    Field::GUEST_GS_ACCESS_RIGHTS,
    Field::GUEST_LDTR_ACCESS_RIGHTS,
    Field::GUEST_TR_ACCESS_RIGHTS,
    Field::GUEST_ES_BASE,
    Field::GUEST_CS_BASE,
    Field::GUEST_SS_BASE,
    Field::GUEST_DS_BASE,
    Field::GUEST_FS_BASE,
    Field::GUEST_GS_BASE,
    Field::GUEST_LDTR_BASE,
    Field::GUEST_TR_BASE,
    Field::GUEST_GDTR_BASE,
    Field::GUEST_IDTR_BASE,
    Field::GUEST_INTERRUPTIBILITY,
    Field::GUEST_ACTIVITY_STATE,
    Field::GUEST_PENDING_DEBUG_EXCEPTIONS,
    Field::ENTRY_INTERRUPTION_INFO,
    Field::ENTRY_EXCEPTION_ERROR_CODE,
    Field::ENTRY_INSTRUCTION_LENGTH,
];

/// The values of [`FIELDS`], and L1's mode.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vmcs01 {
    #[serde(deserialize_with = "at_most::<_, _, COUNT>")]
    values: Vec<u64>,
    /// Whether L1 is in IA-32e mode, which an entry control says.
    is_ia32e: bool,
}

/// How many there are. Serde gives the name of the list to one of its own.
const COUNT: usize = FIELDS.len();

/// VMX operation has it set.
const CR4_VMXE: u64 = 1 << 13;
/// The one bit of IA32_DEBUGCTL that L1 has.
const DEBUGCTL_BTF: u64 = 1 << 1;
const IA32E: u64 = EntryControls::IA32E_MODE_GUEST.bits() as u64;

impl Vmcs01 {
    /// Reads them from VMCS 01, current in `vmcs`.
    pub fn read(vmcs: &impl Vmcs) -> Self {
        Self {
            values: FIELDS.iter().map(|&field| vmcs.read(field)).collect(),
            is_ia32e: vmcs.read(Field::ENTRY_CONTROLS) & IA32E != 0,
        }
    }

    /// Writes them to VMCS 01, whose controls are there already.
    pub fn write(&self, vmcs: &mut impl Vmcs) {
        for (&field, &value) in FIELDS.iter().zip(&self.values) {
            vmcs.write(field, value);
        }
        let controls = vmcs.read(Field::ENTRY_CONTROLS) & !IA32E;
        let mode = if self.is_ia32e { IA32E } else { 0 };
        vmcs.write(Field::ENTRY_CONTROLS, controls | mode);
    }

    /// Whether there is a value for each field, and none that hardware would enter and a partition
    /// created like this cannot have. What hardware refuses is refused then.
    pub(crate) fn is_possible(&self, setup: &Setup) -> bool {
        let has_only = |field, bits: u64| {
            let mut values = FIELDS.iter().zip(&self.values);
            values.any(|(&other, value)| other == field && value & !bits == 0)
        };
        self.values.len() == FIELDS.len()
            // A VP that is inactive is so in L0 alone.
            && has_only(Field::GUEST_ACTIVITY_STATE, 0)
            && has_only(Field::GUEST_CR4, setup.cr4_offered | CR4_VMXE)
            && has_only(Field::GUEST_DEBUGCTL, DEBUGCTL_BTF)
    }
}
