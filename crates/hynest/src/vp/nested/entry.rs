//! VMLAUNCH and VMRESUME of L1: into L2.

use addr::Gpa1;
use nested::checks::Violation;
use nested::insn::{EntrySource, VmResult};
use nested::msr_bitmap::X2apicOpening;
use nested::msr_list::VmxAbort;
use nested::{Asked, Current, EntryContext, EntryFailure, Merged, Resume};
use platform::counters::Counter;
use vmx::ept::Eptp;
use vmx::{
    BasicExitReason, ExitReason, Field, Interruptibility, SecondaryControls, VmInstructionError,
};

use super::super::Vp;
use super::super::vmcs::read;
use super::pages::{CurrentVmcs, L1Page};
use super::vmcs02::L1_REGISTERS;
use super::{enlightened_vmcs, flush_vpid01, flush_vpid02, load};
use crate::log;

/// EFER.LMA.
const EFER_LMA: u64 = 1 << 10;

impl Vp {
    /// An entry that L1 may ask for, from the VMCS 12 that `source` names. VMCS 01 is current.
    #[inline]
    pub fn enter_l2_from(&mut self, is_launch: bool, source: EntrySource) {
        let context = EntryContext {
            is_launch,
            is_long_mode: read(Field::GUEST_EFER) & EFER_LMA != 0,
            blocked_by_mov_ss: read(Field::GUEST_INTERRUPTIBILITY)
                & u64::from(Interruptibility::MOV_SS.bits())
                != 0,
        };
        let memory = self.partition.memory;
        let nested = &mut self.nested;
        let prepared = match source {
            EntrySource::Enlightened(at) => {
                if nested.page.is_none() || nested.logic.current() != Current::Enlightened(at) {
                    // The page of the current one stays mapped where the new one cannot be.
                    let Some(page) = L1Page::map(&memory, at) else {
                        return self.inject_ud();
                    };
                    nested.page = Some(page);
                }
                let Some(mut page) = nested.page else {
                    return self.inject_ud();
                };
                nested
                    .logic
                    .prepare_enlightened(at, &mut page, &memory, &context, &L1_REGISTERS)
            }
            EntrySource::Plain => {
                self.collect_shadow();
                self.nested
                    .logic
                    .prepare_plain(&memory, &context, &L1_REGISTERS)
            }
        };
        let reason = if is_launch {
            BasicExitReason::Vmlaunch
        } else {
            BasicExitReason::Vmresume
        };
        match prepared {
            Ok(()) => self.enter_l2(),
            Err(EntryFailure::Invalid) => {
                // It need not be the page of the enlightened VMCS that is current and stays so.
                self.nested.page = None;
                self.end_instruction(reason, VmResult::FailInvalid);
            }
            Err(EntryFailure::Valid(error, violation)) => {
                if let Some(violation) = violation {
                    self.log_refusal(&violation);
                }
                self.end_instruction(reason, VmResult::FailValid(error));
            }
            Err(EntryFailure::Exit { violation, .. }) => {
                self.log_refusal(&violation);
                self.publish_exit();
                self.return_to_l1_host(false);
            }
        }
    }

    /// VMRESUME of L1, if nothing changed that L0 keeps since L2 last ran on this VP. The rest of the
    /// way is [`Vp::turn_to_l2`] where L2 is to be entered; else nothing has been done.
    #[inline(always)]
    pub fn resume_clean(&mut self) -> Resume {
        let (Some(assist), Some(page)) = (self.nested.assist, self.nested.page) else {
            return Resume::InFull;
        };
        let Some(at) = enlightened_vmcs(&assist) else {
            return Resume::InFull;
        };
        let (view, vmcs02) = (&self.nested.view, &self.nested.vmcs02);
        let resume = self.nested.logic.resume_clean(
            at,
            &page,
            || view.has_reflected(),
            &CurrentVmcs,
            || load(vmcs02),
            &mut CurrentVmcs,
        );
        if resume == Resume::Entered {
            self.note_entry();
        }
        resume
    }

    /// Goes on with that where only what changes often has changed.
    #[inline(always)]
    pub fn resume_lightly(&mut self, asked: Asked) -> Resume {
        let Some(mut page) = self.nested.page else {
            return Resume::InFull;
        };
        if self.nested.view.has_reflected() {
            return Resume::Dirty(asked);
        }
        let vmcs02 = &self.nested.vmcs02;
        let resume = self.nested.logic.resume_lightly(
            asked,
            &mut page,
            &self.nested.policy,
            || load(vmcs02),
            &mut CurrentVmcs,
        );
        if resume == Resume::Entered {
            self.note_entry();
        }
        resume
    }

    /// The same whatever the event, and where L2 may be given the page that L1 was told to be
    /// missing. Returns whether L2 is to be entered.
    #[inline(always)]
    pub fn resume_with_event(&mut self, asked: Asked) -> bool {
        let Some(mut page) = self.nested.page else {
            return false;
        };
        let vmcs02 = &self.nested.vmcs02;
        let entered = self.nested.logic.resume_with_event(
            asked,
            &mut page,
            &self.nested.policy,
            || load(vmcs02),
            &mut CurrentVmcs,
        );
        if entered {
            self.note_entry();
            self.prefill_shadow();
        }
        entered
    }

    #[inline(always)]
    fn note_entry(&mut self) {
        self.nested.is_02_current = true;
        self.count(Counter::NestedEntries);
    }

    /// Says why L1's entry did not come to pass, the first times.
    #[cold]
    fn log_refusal(&mut self, violation: &Violation) {
        if self.may_log() {
            log!("VP {}: L1's entry is refused: {violation:?}", self.index);
        }
    }

    /// VMCS 12 has been read and found good.
    #[inline]
    fn enter_l2(&mut self) {
        self.count(Counter::NestedEntries);
        let carry = self.nested.logic.carry_in(&CurrentVmcs);
        self.load_vmcs02();
        let memory = self.partition.memory;
        let merged =
            self.nested
                .logic
                .merge(&mut CurrentVmcs, &self.nested.policy, &carry, &memory);
        self.count_more(Counter::MergedFields, merged.fields.into());
        self.follow_merge(&merged);
        self.publish_l2_context();
        if !self.nested.windows.is_empty() {
            self.reopen_windows();
        }
        self.prefill_shadow();
        if self.nested.logic.has_msr_lists() && !self.load_entry_msrs() {
            return;
        }
        // The interrupt that waited for L1 is L2's business now, or ends L2 at once.
        self.attend_if_needed();
        self.attention |= merged.halt;
    }

    /// What hardware structures the merge leaves to be brought up to date.
    #[inline(always)]
    pub(super) fn follow_merge(&mut self, merged: &Merged) {
        if merged.ept {
            match self.nested.logic.ept_pointer().map(Eptp::from_raw) {
                Some(eptp12) => {
                    if !self.nested.view.is_on(eptp12) {
                        self.attach_shadow(eptp12);
                    }
                }
                None => self.use_ept01(),
            }
        }
        if merged.tsc_out_of_reach != self.nested.answers_l2_tsc {
            self.answer_l2_tsc(merged.tsc_out_of_reach);
        }
        if merged.msr_bitmap {
            self.merge_msr_bitmap();
        }
        if merged.flush_vpid {
            self.flush_vpids();
        }
    }

    /// VPID 02 stands for another VPID of L1's now; or for VPID 0, which L1 runs on itself, and
    /// whose translations entry and exit drop. None come to VPID 01 while L2 runs, so that its
    /// are dropped for both here.
    fn flush_vpids(&self) {
        flush_vpid02();
        if self.nested.logic.vpid().is_none() {
            flush_vpid01();
        }
    }

    /// The directory pointers of an L1 in PAE paging (SDM vol. 3, 28.5.4).
    #[cold]
    fn load_host_pdptes(&mut self) {
        if !self.load_pdptes() {
            self.vmx_abort(VmxAbort::HostPdpte);
        }
    }

    #[cold]
    pub(super) fn merge_msr_bitmap(&mut self) {
        self.count(Counter::MsrBitmapMerges);
        let page = self
            .nested
            .logic
            .msr_bitmap()
            .and_then(|at: Gpa1| L1Page::map(&self.partition.memory, at));
        let x2apic = if self
            .nested
            .logic
            .secondary_controls()
            .contains(SecondaryControls::VIRTUALIZE_X2APIC_MODE)
        {
            X2apicOpening::virtualised(false, false)
        } else {
            X2apicOpening::NONE
        };
        self.nested.bitmap.merge(
            &self.msr_interception_of_l2().filter,
            page.as_ref(),
            &x2apic,
        );
    }

    /// L1 uses no EPT for L2: L2's physical addresses are L1's.
    #[cold]
    fn use_ept01(&mut self) {
        self.partition.shadows.lock().detach(&mut self.nested.view);
        super::super::vmcs::write(Field::EPT_POINTER, self.partition.eptp01.raw());
    }

    /// VMLAUNCH or VMRESUME of VMCS 02 failed: a combination that the checks let pass. L1 gets
    /// the answer that its own entry would have had. Returns whether it was VMCS 02 at all.
    #[cold]
    pub fn l2_entry_failed(&mut self, error: u32) -> bool {
        if !self.nested.is_in_l2() {
            return false;
        }
        if self.may_log() {
            log!(
                "VP {}: hardware refuses an entry of L2 that passed the checks (error {error}); L1 gets VMfail 7",
                self.index
            );
        }
        let mut page = page_of(self.nested.page, self.nested.logic.current());
        let error: VmInstructionError = self.nested.logic.refuse_entry(page.as_mut());
        self.load_vmcs01();
        self.attend_if_needed();
        // Its length was the VMLAUNCH's or VMRESUME's that exited: VMCS 01 still has it.
        self.end_instruction(BasicExitReason::Vmresume, VmResult::FailValid(error));
        true
    }

    /// L2's state is in VMCS 12: what is left of an exit to L1.
    #[inline]
    pub fn finish_exit(&mut self, nmi: bool) {
        if self.nested.logic.has_msr_lists() {
            self.store_exit_msrs();
        }
        self.return_to_l1_host(nmi);
    }

    /// As [`Vp::finish_exit`], for a plain VMCS 12.
    pub fn finish_plain_exit(&mut self, nmi: bool) {
        if self.nested.logic.has_msr_lists() {
            self.store_exit_msrs();
        }
        self.publish_exit();
        self.return_to_l1_host(nmi);
    }

    /// L1 goes on at its host state; VMCS 12 holds the exit already.
    pub fn return_to_l1_host(&mut self, nmi: bool) {
        self.load_vmcs01();
        if self.nested.logic.load_host(&mut CurrentVmcs, nmi) {
            self.load_host_pdptes();
        }
        if self.nested.logic.has_msr_lists() {
            self.load_exit_msrs();
        }
        // L1's RFLAGS.IF is clear now: what waits for it needs a window.
        self.attend_if_needed();
    }

    /// The entry failed after the merge: an exit to L1 with bit 31.
    #[cold]
    pub fn fail_l2_entry(&mut self, reason: BasicExitReason, qualification: u64) {
        let mut page = page_of(self.nested.page, self.nested.logic.current());
        self.nested.logic.fail_entry(
            &CurrentVmcs,
            page.as_mut(),
            ExitReason::entry_failure(reason),
            qualification,
        );
        self.publish_exit();
        self.return_to_l1_host(false);
    }
}

/// The enlightened VMCS's page, if that is what L2 runs on.
pub fn page_of(page: Option<L1Page>, current: Current) -> Option<L1Page> {
    match current {
        Current::Enlightened(_) => page,
        _ => None,
    }
}
