//! Entries that fail: what L1 is told, and what stays as it was.
//!
//! A failed entry ends like an exit to L1, but L2 never ran. What the exit
//! controls do not load is then what it was when L1 asked for the entry, not
//! what VMCS 12 wanted L2 to have, which may be the very thing that is wrong.

use vmx::{ExitReason, Field, VmInstructionError};

use crate::access::{Page, Vmcs};
use crate::entry::EntryFailure;
use crate::state::Nested;
use crate::vmcs12::*;

impl Nested {
    /// The entry to VMCS 02 failed while hardware loaded guest state: L1 gets
    /// the reason (with bit 31) and qualification, and nothing else changes
    /// (SDM 27.8). `page` is the enlightened VMCS, if there is one.
    #[cold]
    pub fn reflect_failed_entry<V: Vmcs, P: Page>(
        &mut self,
        vmcs02: &V,
        page: Option<&mut P>,
    ) -> ExitReason {
        let reason = ExitReason::from_raw(vmcs02.read(Field::EXIT_REASON) as u32);
        let qualification = vmcs02.read(Field::EXIT_QUALIFICATION);
        self.left = None;
        self.end_failed(page, reason, qualification);
        reason
    }

    /// The entry failed for a reason L0 found after [`Nested::merge`]: 34 with
    /// the number of the MSR-list entry, for example.
    ///
    /// L2's state counts as loaded by then. Its EFER and PAT, which L1 keeps
    /// unless its exit controls load others, have passed [`crate::checks::guest`].
    #[cold]
    pub fn fail_entry<V: Vmcs, P: Page>(
        &mut self,
        vmcs02: &V,
        page: Option<&mut P>,
        reason: ExitReason,
        qualification: u64,
    ) {
        self.carry_out(vmcs02);
        self.end_failed(page, reason, qualification);
    }

    /// An entry failed that got no further than the checks.
    #[cold]
    pub(crate) fn fail_early<P: Page>(&mut self, page: Option<&mut P>, failure: EntryFailure) {
        match failure {
            EntryFailure::Invalid => {}
            EntryFailure::Valid(error, _) => self.store_error(page, error),
            EntryFailure::Exit {
                reason,
                qualification,
                ..
            } => {
                self.left = None;
                self.entry_failed = true;
                self.store_failure(page, reason, qualification);
            }
        }
    }

    fn end_failed<P: Page>(
        &mut self,
        page: Option<&mut P>,
        reason: ExitReason,
        qualification: u64,
    ) {
        self.entry_failed = true;
        self.in_l2 = false;
        self.l2_halted = false;
        self.store_failure(page, reason, qualification);
        // Hardware may have changed nothing, but an event it did not inject
        // must not stay behind in VMCS 02.
        self.forget();
    }

    /// Hardware refused VMCS 02's controls or host state (VMfail): a control
    /// combination that [`crate::checks`] let pass. L1 gets VMfailValid with
    /// error 7, as if the check had been made.
    #[cold]
    pub fn refuse_entry<P: Page>(&mut self, page: Option<&mut P>) -> VmInstructionError {
        let error = VmInstructionError::EntryInvalidControls;
        self.in_l2 = false;
        self.l2_halted = false;
        self.store_error(page, error);
        self.forget();
        error
    }

    /// All that an entry leaves behind that failed after the checks on controls
    /// and host state.
    fn store_failure<P: Page>(
        &mut self,
        page: Option<&mut P>,
        reason: ExitReason,
        qualification: u64,
    ) {
        fn store<P: Page>(page: &mut P, reason: ExitReason, qualification: u64) {
            put!(*page, EXIT_REASON, reason.raw().into());
            put!(*page, EXIT_QUALIFICATION, qualification);
        }
        match page {
            Some(page) => store(page, reason, qualification),
            None => store(&mut self.vmcs12, reason, qualification),
        }
    }

    /// All that an earlier failure leaves behind.
    fn store_error<P: Page>(&mut self, page: Option<&mut P>, error: VmInstructionError) {
        match page {
            Some(page) => put!(*page, INSTRUCTION_ERROR, error as u64),
            None => put!(self.vmcs12, INSTRUCTION_ERROR, error as u64),
        }
    }
}

#[cfg(test)]
mod tests;
