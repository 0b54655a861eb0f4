//! L1's MSR lists: loaded at an entry, stored and loaded at an exit (SDM vol. 3, 27.4, 28.4, 28.6).

use nested::msr_bitmap::MsrAccess;
use nested::msr_list::{Msrs, Refused, VmxAbort};
use platform::apic::Mode;
use vmx::{BasicExitReason, Field};

use super::super::Vp;
use super::super::vmcs::{read, write};
use crate::cpu::probe;
use crate::fatal::{self, End};

/// MSRs that L1 accesses without an exit and that VM entry and exit switch: the current VMCS holds
/// the value that belongs to the list at hand.
const IN_VMCS: [(u32, Field); 8] = [
    (0x174, Field::GUEST_SYSENTER_CS),
    (0x175, Field::GUEST_SYSENTER_ESP),
    (0x176, Field::GUEST_SYSENTER_EIP),
    (0x1D9, Field::GUEST_DEBUGCTL),
    (0x277, Field::GUEST_PAT),
    (0xC000_0080, Field::GUEST_EFER),
    (0xC000_0100, Field::GUEST_FS_BASE),
    (0xC000_0101, Field::GUEST_GS_BASE),
];

/// IA32_TIME_STAMP_COUNTER.
const TSC: u32 = 0x10;
/// EFER.LME and EFER.LMA, which a list cannot change: paging is on.
const EFER_MODE: u64 = 0x500;
/// EFER.SCE, LME, LMA and NXE.
const EFER_DEFINED: u64 = 0xD01;

/// Whether WRMSR would put `value` where the field is.
fn is_acceptable(field: Field, value: u64) -> bool {
    let is_canonical = addr::Gva::new(value).is_canonical();
    match field {
        Field::GUEST_SYSENTER_ESP | Field::GUEST_SYSENTER_EIP => is_canonical,
        Field::GUEST_SYSENTER_CS => value >> 32 == 0,
        // Branch single-stepping is the one bit that L1 has.
        Field::GUEST_DEBUGCTL => value & !2 == 0,
        Field::GUEST_PAT => value
            .to_le_bytes()
            .iter()
            .all(|kind| matches!(kind, 0 | 1 | 4 | 5 | 6 | 7)),
        Field::GUEST_EFER => {
            value & !EFER_DEFINED == 0 && (value ^ read(Field::GUEST_EFER)) & EFER_MODE == 0
        }
        _ => is_canonical,
    }
}

impl Msrs for Vp {
    fn load(&mut self, msr: u32, value: u64) -> Result<(), Refused> {
        let filter = self.partition.interception.filter.bitmap();
        if let Some((_, field)) = IN_VMCS.iter().find(|(index, _)| *index == msr) {
            if !is_acceptable(*field, value) {
                return Err(Refused);
            }
            write(*field, value);
            return Ok(());
        }
        if filter.intercepts(msr, MsrAccess::Write) {
            return self.write_msr(msr, value).map_err(|_| Refused);
        }
        // SAFETY: an MSR that L1 may write without an exit is none that L0 relies on.
        unsafe { probe::write(msr, value) }.map_err(|_| Refused)
    }

    fn store(&mut self, msr: u32) -> Result<u64, Refused> {
        if msr == TSC {
            // The processor's own is not L1's.
            return Ok(self.tsc_now());
        }
        let filter = self.partition.interception.filter.bitmap();
        if let Some((_, field)) = IN_VMCS.iter().find(|(index, _)| *index == msr) {
            return Ok(read(*field));
        }
        if filter.intercepts(msr, MsrAccess::Read) {
            return self.read_msr(msr).map_err(|_| Refused);
        }
        probe::read(msr).map_err(|_| Refused)
    }

    fn is_x2apic(&self) -> bool {
        self.apic.mode() == Mode::X2Apic
    }
}

impl Vp {
    /// Loads L2's MSRs, VMCS 02 current. `false` when the entry has failed for it and L1 goes on
    /// at its host state.
    #[cold]
    pub fn load_entry_msrs(&mut self) -> bool {
        let memory = self.partition.memory;
        let list = self.nested.logic.entry_msr_load_list();
        let Err(at) = list.load(&memory, self) else {
            return true;
        };
        self.fail_l2_entry(BasicExitReason::MsrLoading, u64::from(at.0));
        false
    }

    /// Stores L2's MSRs, VMCS 02 current.
    #[cold]
    pub fn store_exit_msrs(&mut self) {
        let mut memory = self.partition.memory;
        let list = self.nested.logic.exit_msr_store_list();
        if list.store(&mut memory, self).is_err() {
            self.vmx_abort(VmxAbort::StoreMsrs);
        }
    }

    /// Loads L1's MSRs, VMCS 01 current.
    #[cold]
    pub fn load_exit_msrs(&mut self) {
        let memory = self.partition.memory;
        let list = self.nested.logic.exit_msr_load_list();
        if list.load(&memory, self).is_err() {
            self.vmx_abort(VmxAbort::LoadMsrs);
        }
    }

    /// A VMX abort shuts the processor down (SDM vol. 3, 28.7); a VP that is shut down is the end
    /// of its partition, as a triple fault is.
    pub fn vmx_abort(&self, abort: VmxAbort) -> ! {
        fatal::end(
            End::TripleFault,
            format_args!("VP {}: VMX abort, {abort:?}", self.index),
        )
    }
}
