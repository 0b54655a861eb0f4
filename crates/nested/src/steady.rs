//! The short way of a round trip: L2 exits, L1 looks at it and resumes L2.
//!
//! Most round trips change nothing that L0 keeps: the enlightened VMCS is the
//! same, all of its groups are clean, and nothing that the hardware does not
//! switch by itself has to be carried from one side to the other. Whether that
//! is so depends on VMCS 12 alone, so it is decided when VMCS 12 is merged
//! ([`Nested::find_steady`]) and remembered until something of it changes. What
//! is left then is straight-line code; it does what [`Nested::reflect_enlightened`],
//! [`Nested::load_host`], [`Nested::prepare_enlightened`] and [`Nested::merge`]
//! would do in that case, which the tests hold it to.

use addr::Gpa1;
use tlfs::evmcs::{self, CleanFields};
use vmx::{
    AccessRights, EntryControls, ExitControls, Field, Interruptibility, PinControls,
    PrimaryControls,
};

use crate::access::{Page, Vmcs};
use crate::entry::ENLIGHTENMENT_WORDS;
use crate::state::{Current, Nested};
use crate::vmcs12::*;
use crate::{Dirty, checks};

/// What exits must load, and must not save, for hardware to do all of it.
const EXIT_LOADS: ExitControls = ExitControls::HOST_64_BIT
    .union(ExitControls::LOAD_EFER)
    .union(ExitControls::LOAD_PAT)
    .union(ExitControls::SAVE_DEBUG_CONTROLS);
const EXIT_SAVES: ExitControls = ExitControls::SAVE_EFER.union(ExitControls::SAVE_PAT);

/// What entries must load.
const ENTRY_LOADS: EntryControls = EntryControls::LOAD_DEBUG_CONTROLS
    .union(EntryControls::LOAD_PAT)
    .union(EntryControls::LOAD_EFER)
    .union(EntryControls::IA32E_MODE_GUEST);

/// Interrupts and NMIs of L1's must be exits, or L0 has windows of its own in VMCS 02.
const PIN: PinControls = PinControls::EXTERNAL_INTERRUPT_EXITING.union(PinControls::NMI_EXITING);

impl Nested {
    /// Finds out whether round trips with VMCS 12 as it was just merged can go the short way.
    pub(crate) fn find_steady(&mut self) {
        let Current::Enlightened(at) = self.current else {
            return;
        };
        let exit = self.exit_controls();
        let is_steady = exit.contains(EXIT_LOADS)
            && !exit.intersects(EXIT_SAVES)
            && self.entry_controls().contains(ENTRY_LOADS)
            && self.pin_controls().contains(PIN)
            && self.host.is_flat()
            && !self.has_msr_lists()
            && !self.event().is_valid()
            && !self.l2_halted
            && self.ept_pointer().is_some()
            && !matches!(self.vpid(), None | Some(0))
            && self
                .primary_controls()
                .contains(PrimaryControls::USE_MSR_BITMAPS)
            && self.has_msr_bitmap_enlightenment()
            && self.cr0_l0_only | self.cr4_l0_only == 0;
        self.steady = is_steady.then_some(at);
    }

    /// Whether exits and entries go the short way now.
    #[inline(always)]
    pub fn is_steady(&self) -> bool {
        self.steady.is_some()
    }

    /// Reflects the last exit of VMCS 02, whose reason is `reason`, and loads L1's host state, if
    /// that can go the short way; does nothing and returns `false` where it cannot.
    ///
    /// `page` is the enlightened VMCS. VMCS 02 is current when this is called, and `load_01` makes
    /// VMCS 01 so.
    #[inline(always)]
    pub fn reflect_steady<V: Vmcs, P: Page>(
        &mut self,
        reason: u32,
        vmcs02: &V,
        page: &mut P,
        load_01: impl FnOnce(),
        vmcs01: &mut V,
    ) -> bool {
        if self.steady.is_none() {
            return false;
        }
        let mode = EntryControls::from_bits_retain(vmcs02.read(Field::ENTRY_CONTROLS) as u32);
        if !mode.contains(EntryControls::IA32E_MODE_GUEST) {
            // L2 has left long mode: there may be PDPTEs to save.
            return false;
        }
        crate::exit::store_hardware_info(reason, vmcs02, page);
        crate::exit::store_common_state(vmcs02, page);
        crate::exit::store_debug_state(vmcs02, page);
        put!(*page, GUEST_CR4, vmcs02.read(Field::GUEST_CR4));
        let cr0 = vmcs02.read(Field::GUEST_CR0);
        put!(*page, GUEST_CR0, cr0);
        // What later checks compare with, though its group may be clean then.
        put!(self.vmcs12, GUEST_CR0, cr0);
        put!(
            self.vmcs12,
            GUEST_SS_ACCESS_RIGHTS,
            get!(*page, GUEST_SS_ACCESS_RIGHTS) & u64::from(AccessRights::DEFINED)
        );
        self.in_l2 = false;
        self.entry_in_flight = false;
        load_01();
        self.host.store(vmcs01);
        self.host.store_msrs(vmcs01);
        true
    }

    /// Takes up and carries out the entry that L1 asks for by VMRESUME with the enlightened VMCS at
    /// `at`, if that can go the short way; does nothing and returns `false` where it cannot.
    ///
    /// `page` is what the last entry used. VMCS 01 is current when this is called, and `load_02`
    /// makes VMCS 02 so. EPT 02, MSR bitmap 02 and VPID 02 stay as they are.
    #[inline(always)]
    pub fn resume_steady<V: Vmcs, P: Page>(
        &mut self,
        at: Gpa1,
        page: &P,
        vmcs01: &V,
        load_02: impl FnOnce(),
        vmcs02: &mut V,
    ) -> bool {
        if self.steady != Some(at) || page.read_u32(evmcs::REVISION) != evmcs::VERSION {
            return false;
        }
        let clean = CleanFields::from_raw(page.read_u32(evmcs::CLEAN_FIELDS));
        let rip = get!(*page, GUEST_RIP);
        if !Dirty::from_clean(clean).is_empty() || !checks::is_canonical(rip) {
            return false;
        }
        for offset in ENLIGHTENMENT_WORDS {
            if page.read_u64(offset) != self.vmcs12.read_u64(offset) {
                return false;
            }
        }
        // 64-bit code of privilege 0, as L1's host state has it, in one read: a code segment that
        // is not conforming has the privilege level of the VP.
        let code = AccessRights::from_raw(vmcs01.read(Field::GUEST_CS_ACCESS_RIGHTS) as u32);
        let blocking = vmcs01.read(Field::GUEST_INTERRUPTIBILITY) as u32;
        if !code.is_kernel_code64() || blocking & Interruptibility::MOV_SS.bits() != 0 {
            return false;
        }
        load_02();
        vmcs02.write(Field::GUEST_RIP, rip);
        if self.uses_tpr_shadow() {
            let threshold = get!(*page, TPR_THRESHOLD);
            put!(self.vmcs12, TPR_THRESHOLD, threshold);
            vmcs02.write(Field::TPR_THRESHOLD, threshold);
        }
        self.in_l2 = true;
        self.entry_in_flight = true;
        true
    }
}

#[cfg(test)]
mod tests;
