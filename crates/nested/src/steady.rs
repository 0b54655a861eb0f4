//! The short way of a round trip: L2 exits, L1 looks at it and resumes L2.
//!
//! Most round trips change nothing that L0 keeps: the enlightened VMCS is the
//! same, all of its groups are clean, and nothing that the hardware does not
//! switch by itself has to be carried from one side to the other. Whether that
//! is so depends on VMCS 12 alone, so it is decided when VMCS 12 is merged
//! ([`Nested::find_steady`]) and remembered until something of it changes, be it
//! by L1, by L2, which leaves long mode, or by L0. What is left then is straight-line code; it does what [`Nested::reflect_enlightened`],
//! [`Nested::load_host`], [`Nested::prepare_enlightened`] and [`Nested::merge`]
//! would do in that case, which the tests hold it to.
//!
//! A few groups change so often, and mean so little, that they are taken along:
//! see [`Nested::resume_lightly`] and [`Nested::resume_with_event`].

use addr::Gpa1;
use tlfs::evmcs::{self, CleanFields};
use vmx::{
    AccessRights, EntryControls, ExitControls, ExitReason, Field, Interruptibility,
    InterruptionInfo, PinControls, PrimaryControls,
};

use crate::access::{Page, Vmcs};
use crate::entry::ENLIGHTENMENT_WORDS;
use crate::merge::{merge_event, merge_guest_basic};
use crate::policy::L0Policy;
use crate::state::{Current, Nested};
use crate::vmcs12::*;
use crate::{Dirty, Vmcs12, checks};

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

/// Groups that may be dirty in an entry by [`Nested::resume_lightly`].
const LIGHT: Dirty = Dirty::HOST_POINTER
    .union(Dirty::GUEST_BASIC)
    .union(checks::LIGHT_GROUPS);

/// What came of an attempt to enter L2 by the short way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resume {
    /// L2 is to be entered.
    Entered,
    /// It takes more than that, and nothing has been done: what comes next, of
    /// [`Nested::resume_clean`], [`Nested::resume_lightly`] and [`Nested::resume_with_event`], may
    /// still do.
    Dirty(Asked),
    /// It takes the long way: [`Nested::execute`](crate::insn).
    InFull,
}

/// An entry that may go the short way: what L1's page says of it, each word read once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Asked {
    clean: CleanFields,
    rip: u64,
}

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

    /// Reflects the last exit of VMCS 02 with its `reason` (see [`Nested::reflect_enlightened`]) and loads L1's host state, if
    /// that can go the short way; does nothing and returns `false` where it cannot.
    ///
    /// `page` is the enlightened VMCS. VMCS 02 is current when this is called, and `load_01` makes
    /// VMCS 01 so. `IS_INSTRUCTION`: the reason is among
    /// [`INSTRUCTIONS`](crate::reflect::INSTRUCTIONS).
    #[inline(always)]
    pub fn reflect_steady<const IS_INSTRUCTION: bool, V: Vmcs, P: Page>(
        &mut self,
        reason: ExitReason,
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
        crate::exit::store_hardware_info::<IS_INSTRUCTION, _, _>(reason, vmcs02, page);
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
        if self.event().is_valid() {
            crate::exit::clear_event(page);
            crate::exit::clear_event(&mut self.vmcs12);
        }
        self.in_l2 = false;
        load_01();
        self.host.store(vmcs01);
        self.host.store_msrs(vmcs01);
        true
    }

    /// Takes up and carries out the entry that L1 asks for by VMRESUME with the enlightened VMCS at
    /// `at`, if that can go the short way; does nothing unless it says [`Resume::Entered`].
    ///
    /// `page` is what the last entry used. VMCS 01 is current when this is called, and `load_02`
    /// makes VMCS 02 so. EPT 02, MSR bitmap 02 and VPID 02 stay as they are. `has_more` says whether
    /// the caller has more to do than to enter.
    #[inline(always)]
    pub fn resume_clean<V: Vmcs, P: Page>(
        &mut self,
        at: Gpa1,
        page: &P,
        has_more: impl FnOnce() -> bool,
        vmcs01: &V,
        load_02: impl FnOnce(),
        vmcs02: &mut V,
    ) -> Resume {
        let Some(asked) = self.resumes(at, page, vmcs01) else {
            return Resume::InFull;
        };
        if has_more() || !asked.clean.contains(CleanFields::ALL) {
            return Resume::Dirty(asked);
        }
        load_02();
        self.enter_steady(asked.rip, page, vmcs02);
        Resume::Entered
    }

    /// Goes on with what [`Nested::resume_clean`] has found to be asked, where groups are dirty
    /// that change often: L1's stack and bases, L2's stack and flags, an interrupt, windows.
    ///
    /// Straight-line code again: other events are for [`Nested::resume_with_event`].
    #[inline(always)]
    pub fn resume_lightly<V: Vmcs, P: Page>(
        &mut self,
        asked: Asked,
        page: &mut P,
        policy: &L0Policy,
        load_02: impl FnOnce(),
        vmcs02: &mut V,
    ) -> Resume {
        if Dirty::from_clean(asked.clean).intersects(Dirty::CONTROL_EVENT) {
            let event = get!(*page, ENTRY_INTERRUPTION_INFO) as u32;
            if !checks::is_simple_event(InterruptionInfo::from_raw(event)) {
                return Resume::Dirty(asked);
            }
        }
        if self.resume_dirty::<true, _, _>(asked, page, policy, load_02, vmcs02) {
            Resume::Entered
        } else {
            Resume::InFull
        }
    }

    /// The same whatever the event. Returns whether L2 is entered.
    #[inline]
    pub fn resume_with_event<V: Vmcs, P: Page>(
        &mut self,
        asked: Asked,
        page: &mut P,
        policy: &L0Policy,
        load_02: impl FnOnce(),
        vmcs02: &mut V,
    ) -> bool {
        self.resume_dirty::<false, _, _>(asked, page, policy, load_02, vmcs02)
    }

    /// Takes along the groups that are dirty, where they change often. `IS_SIMPLE` asks for no event
    /// but interrupts, and for code without a call.
    #[inline(always)]
    fn resume_dirty<const IS_SIMPLE: bool, V: Vmcs, P: Page>(
        &mut self,
        Asked { clean, rip }: Asked,
        page: &mut P,
        policy: &L0Policy,
        load_02: impl FnOnce(),
        vmcs02: &mut V,
    ) -> bool {
        let dirty = Dirty::from_clean(clean);
        if !dirty.is_empty() {
            if !LIGHT.contains(dirty) || !ungrouped_stay(&self.vmcs12, page) {
                return false;
            }
            if !self.take_lightly::<IS_SIMPLE, _>(dirty, page) {
                // Neither way may take for clean what was copied and found wanting, though L1 may
                // declare it so by then, and may not come to the long way at all.
                self.forget_groups(dirty);
                return false;
            }
            page.write_u32(evmcs::CLEAN_FIELDS, clean.union(CleanFields::ALL).raw());
        }
        load_02();
        if dirty.intersects(Dirty::GUEST_BASIC) {
            merge_guest_basic(&self.vmcs12, vmcs02);
        }
        if dirty.intersects(Dirty::CONTROL_EVENT) {
            merge_event(&self.vmcs12, vmcs02);
        }
        if dirty.intersects(Dirty::CONTROL_PROC) {
            self.merge_primary_controls(vmcs02, policy);
        }
        self.enter_steady(rip, page, vmcs02);
        true
    }

    /// What an entry asks for, if it may go the short way.
    #[inline(always)]
    fn resumes<V: Vmcs, P: Page>(&self, at: Gpa1, page: &P, vmcs01: &V) -> Option<Asked> {
        if self.steady != Some(at) || page.read_u32(evmcs::REVISION) != evmcs::VERSION {
            return None;
        }
        let clean = CleanFields::from_raw(page.read_u32(evmcs::CLEAN_FIELDS));
        let rip = get!(*page, GUEST_RIP);
        if !checks::is_canonical(rip) {
            return None;
        }
        for offset in ENLIGHTENMENT_WORDS {
            if page.read_u64(offset) != self.vmcs12.read_u64(offset) {
                return None;
            }
        }
        // 64-bit code of privilege 0, as L1's host state has it, in one read: a code segment that
        // is not conforming has the privilege level of the VP.
        let code = AccessRights::from_raw(vmcs01.read(Field::GUEST_CS_ACCESS_RIGHTS) as u32);
        let blocking = vmcs01.read(Field::GUEST_INTERRUPTIBILITY) as u32;
        if !code.is_kernel_code64() || blocking & Interruptibility::MOV_SS.bits() != 0 {
            return None;
        }
        Some(Asked { clean, rip })
    }

    /// Copies the groups in `dirty` from L1's page and checks them. `false` where it takes the long
    /// way, which is to read them again.
    #[inline(always)]
    fn take_lightly<const IS_SIMPLE: bool, P: Page>(&mut self, dirty: Dirty, page: &P) -> bool {
        macro_rules! copy {
            (; $($field:ident),*) => {
                $(put!(self.vmcs12, $field, get!(*page, $field));)*
            };
        }
        if dirty.intersects(Dirty::HOST_POINTER) {
            for_host_pointer!(copy!());
            // Before the check, so that few values are alive at a time. Nothing comes of bad ones: the
            // long way prepares the group again.
            self.host.prepare_pointers(&self.vmcs12);
            if !checks::are_host_pointers_canonical(&self.vmcs12) {
                return false;
            }
        }
        if dirty.intersects(Dirty::GUEST_BASIC) {
            for_guest_basic!(copy!());
            if !self.interruptibility().is_empty() {
                return false;
            }
        }
        if dirty.intersects(checks::LIGHT_GROUPS) {
            if dirty.intersects(Dirty::CONTROL_EVENT) {
                for_control_event!(copy!());
            }
            if dirty.intersects(Dirty::CONTROL_PROC) {
                copy!(; PRIMARY_CONTROLS);
            }
            if self.event().is_nmi() || self.primary_structure_changed() {
                return false;
            }
            let (copy, config) = (&self.vmcs12, &self.config);
            return if IS_SIMPLE {
                checks::simple_controls(copy, config)
            } else {
                checks::light_controls(copy, config).is_ok()
            };
        }
        true
    }

    /// What L1 may change at every entry.
    #[inline(always)]
    fn enter_steady<V: Vmcs, P: Page>(&mut self, rip: u64, page: &P, vmcs02: &mut V) {
        vmcs02.write(Field::GUEST_RIP, rip);
        if self.uses_tpr_shadow() {
            // In a steady state VMCS 02 has what the copy has: the merge wrote it.
            let threshold = get!(*page, TPR_THRESHOLD);
            if threshold != get!(self.vmcs12, TPR_THRESHOLD) {
                put!(self.vmcs12, TPR_THRESHOLD, threshold);
                vmcs02.write(Field::TPR_THRESHOLD, threshold);
            }
        }
        self.in_l2 = true;
    }
}

/// Where the fields in no clean group lie, eight bytes at a time.
const UNGROUPED_WORDS: [u16; 6] = [0x140, 0x148, 0x150, 0x178, 0x180, 0x188];

/// Whether the fields in no clean group are still those of the copy.
fn ungrouped_stay<P: Page>(copy: &Vmcs12, page: &P) -> bool {
    UNGROUPED_WORDS
        .iter()
        .all(|&offset| page.read_u64(offset) == copy.read_u64(offset))
}

#[cfg(test)]
mod tests;
