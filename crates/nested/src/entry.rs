//! VM entry, first half: from VMLAUNCH or VMRESUME to a VMCS 12 that is read and checked.
//!
//! Nothing of L1 or L2 changes here but error numbers and clean fields.
//! [`crate::merge`] is the second half.

use addr::Gpa1;
use tlfs::evmcs::{self, CleanFields};
use vmx::{BasicExitReason, ExitReason, VmInstructionError};

use crate::access::{Memory, Page};
use crate::checks::{self, Violation};
use crate::policy::L1Registers;
use crate::state::{Current, Nested};
use crate::vmcs12::{self, *};
use crate::{Dirty, Vmcs12};

/// Where the words lie by which L1 uses enlightenments with this VMCS: control, VpId, VmId and the
/// partition assist page. No clean bit covers them in practice.
pub(crate) const ENLIGHTENMENT_WORDS: [u16; 4] = [0x340, 0x348, 0x350, 0x358];

/// What L1's VP looks like when it executes VMLAUNCH or VMRESUME.
#[derive(Clone, Copy, Debug)]
pub struct EntryContext {
    /// VMLAUNCH, not VMRESUME.
    pub is_launch: bool,
    /// L1 is in IA-32e mode (EFER.LMA).
    pub is_long_mode: bool,
    /// Events are blocked by MOV SS (interruptibility state of VMCS 01).
    pub blocked_by_mov_ss: bool,
}

/// Why an entry did not come to pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryFailure {
    /// VMfailInvalid: no current VMCS, or an enlightened one of another version.
    Invalid,
    /// VMfailValid; the number is stored in VMCS 12. L1 goes on after its
    /// VMLAUNCH or VMRESUME.
    Valid(VmInstructionError, Option<Violation>),
    /// The entry failed while it loaded guest state: an exit to L1 with bit 31
    /// of its reason set. Reason and qualification are stored in VMCS 12; what
    /// remains is [`Nested::load_host`] and the exit MSR-load list.
    Exit {
        /// The reason, with bit 31.
        reason: ExitReason,
        /// 0, or which of the special cases (SDM 27.8).
        qualification: u64,
        /// The rule that was broken.
        violation: Violation,
    },
}

impl Nested {
    /// Takes up the enlightened VMCS at `gpa`, mapped as `page`, for an entry.
    ///
    /// Reads what L1 changed (everything, when it is not the one of the last
    /// entry, or with VMLAUNCH), marks it clean in L1's page and checks it.
    /// A plain VMCS that was current must have been stored before
    /// ([`Nested::release_plain`]).
    #[inline]
    pub fn prepare_enlightened<P: Page, M: Memory>(
        &mut self,
        gpa: Gpa1,
        page: &mut P,
        memory: &M,
        context: &EntryContext,
        registers: &L1Registers,
    ) -> Result<(), EntryFailure> {
        self.steady = None;
        if !has_known_revision(page) {
            return Err(EntryFailure::Invalid);
        }
        if self.starts_over(gpa, context.is_launch) {
            self.current = Current::Enlightened(gpa);
            self.last_vpid = None;
            self.forget();
        }
        let clean = CleanFields::from_raw(page.read_u32(evmcs::CLEAN_FIELDS));
        let dirty = Dirty::from_clean(clean).union(self.stale);
        if !dirty.is_empty() {
            self.load(page, dirty);
            page.write_u32(evmcs::CLEAN_FIELDS, clean.union(CleanFields::ALL).raw());
        }
        put!(self.vmcs12, GUEST_RIP, get!(*page, GUEST_RIP));
        put!(self.vmcs12, TPR_THRESHOLD, get!(*page, TPR_THRESHOLD));
        for offset in ENLIGHTENMENT_WORDS {
            self.vmcs12.write_u64(offset, page.read_u64(offset));
        }
        let result = self.check(memory, context, registers);
        if let Err(failure) = result {
            self.fail_early(Some(page), failure);
        }
        result
    }

    /// Whether an entry from the enlightened VMCS at `gpa` reads all of it,
    /// whatever its clean fields say: VMLAUNCH, or another one than the last.
    #[inline]
    pub fn starts_over(&self, gpa: Gpa1, is_launch: bool) -> bool {
        is_launch || self.current != Current::Enlightened(gpa)
    }

    /// Takes up the current plain VMCS for an entry and checks what L1 changed.
    #[inline]
    pub fn prepare_plain<M: Memory>(
        &mut self,
        memory: &M,
        context: &EntryContext,
        registers: &L1Registers,
    ) -> Result<(), EntryFailure> {
        let Current::Plain(_) = self.current else {
            return Err(EntryFailure::Invalid);
        };
        let clean = self.vmcs12.clean();
        let mut dirty = Dirty::from_clean(clean);
        if clean == CleanFields::NONE {
            dirty = Dirty::ALL;
        }
        self.pending = self
            .widened(self.pending.union(dirty))
            .widened_by_blocking(self.interruptibility());
        self.vmcs12.set_clean(CleanFields::ALL);
        let launched = self.vmcs12.is_launched();
        let result = if !context.blocked_by_mov_ss && context.is_launch == launched {
            Err(EntryFailure::Valid(
                if launched {
                    VmInstructionError::VmlaunchNotClear
                } else {
                    VmInstructionError::VmresumeNotLaunched
                },
                None,
            ))
        } else {
            self.check(memory, context, registers)
        };
        if let Err(failure) = result {
            self.fail_early(None::<&mut Vmcs12>, failure);
        }
        result
    }

    /// Copies the groups in `dirty` from L1's page: each word once.
    #[inline(never)]
    fn load<P: Page>(&mut self, page: &P, dirty: Dirty) {
        macro_rules! copy {
            (; $($field:ident),*) => {
                $(put!(self.vmcs12, $field, get!(*page, $field));)*
            };
        }
        if dirty.intersects(Dirty::CONTROL_EVENT) {
            for_control_event!(copy!());
        }
        if dirty.intersects(Dirty::CONTROL_PROC) {
            copy!(; PRIMARY_CONTROLS);
        }
        let mut dirty = self.widened(dirty);
        if dirty.intersects(Dirty::GUEST_BASIC) {
            for_guest_basic!(copy!());
            dirty = dirty.widened_by_blocking(self.interruptibility());
        }
        if dirty.intersects(Dirty::CRDR) {
            for_crdr!(copy!());
        }
        if dirty.intersects(RARE) {
            self.load_rare(page, dirty);
        }
        if load_ungrouped(&mut self.vmcs12, page) {
            dirty = dirty.union(Dirty::UNGROUPED);
        }
        self.pending = self.pending.union(dirty);
        self.stale = Dirty::NONE;
    }

    /// `dirty` and what must be read along with it, once events and primary
    /// controls are read.
    #[inline(always)]
    fn widened(&self, dirty: Dirty) -> Dirty {
        let all = dirty.widened_by_controls(self.event());
        if dirty.intersects(Dirty::CONTROL_PROC) && self.primary_structure_changed() {
            all.union(Dirty::CRDR)
        } else {
            all
        }
    }

    /// The groups that hardly change between two entries.
    #[inline(never)]
    fn load_rare<P: Page>(&mut self, page: &P, dirty: Dirty) {
        macro_rules! copy {
            (; $($field:ident),*) => {
                $(put!(self.vmcs12, $field, get!(*page, $field));)*
            };
        }
        if dirty.intersects(Dirty::CONTROL_EXCPN) {
            copy!(; EXCEPTION_BITMAP);
        }
        if dirty.intersects(Dirty::CONTROL_ENTRY) {
            copy!(; ENTRY_CONTROLS);
        }
        if dirty.intersects(Dirty::GUEST_GRP1) {
            for_guest_grp1!(copy!());
        }
        if dirty.intersects(Dirty::GUEST_GRP2) {
            for_guest_grp2!(copy!());
        }
        if dirty.intersects(Dirty::HOST_POINTER) {
            for_host_pointer!(copy!());
        }
        if dirty.intersects(Dirty::HOST_GRP1) {
            for_host_grp1!(copy!());
        }
        if dirty.intersects(Dirty::CONTROL_GRP1) {
            for_control_grp1!(copy!());
        }
        if dirty.intersects(Dirty::CONTROL_GRP2) {
            for_control_grp2!(copy!());
        }
        if dirty.intersects(Dirty::CONTROL_XLAT) {
            for_control_xlat!(copy!());
        }
        if dirty.intersects(Dirty::IO_BITMAP) {
            for_io_bitmap!(copy!());
        }
        if dirty.intersects(Dirty::MSR_BITMAP) {
            copy!(; MSR_BITMAP);
        }
    }

    /// The checks that L0 makes itself, in the SDM's order.
    #[inline(always)]
    fn check<M: Memory>(
        &mut self,
        memory: &M,
        context: &EntryContext,
        registers: &L1Registers,
    ) -> Result<(), EntryFailure> {
        use VmInstructionError as E;
        if context.blocked_by_mov_ss {
            return Err(EntryFailure::Valid(E::EntryBlockedByMovSs, None));
        }
        if self
            .pending
            .intersects(checks::CONTROL_GROUPS.union(checks::HOST_GROUPS))
        {
            self.check_controls_and_host(memory, registers)?;
        }
        if self.host.is_64_bit != context.is_long_mode {
            return Err(EntryFailure::Valid(
                E::EntryInvalidHostState,
                Some(Violation::HOST_MODE),
            ));
        }
        let mut guest = Ok(());
        if self.pending.intersects(checks::GUEST_GROUPS)
            || self.pending.intersects(Dirty::GUEST_BASIC) && !self.interruptibility().is_empty()
        {
            guest = self.check_guest(memory);
        }
        guest
            .and_then(|()| checks::guest_rip(&self.vmcs12))
            .map_err(|(violation, qualification)| EntryFailure::Exit {
                reason: ExitReason::entry_failure(BasicExitReason::InvalidGuestState),
                qualification,
                violation,
            })
    }
}

impl Nested {
    #[inline(never)]
    fn check_guest<M: Memory>(&mut self, memory: &M) -> Result<(), checks::Failed> {
        checks::guest(&self.vmcs12, &self.config, memory, self.pending)?;
        if self.pending.intersects(Dirty::CRDR) {
            self.load_pdptes(memory)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn check_controls_and_host<M: Memory>(
        &mut self,
        memory: &M,
        registers: &L1Registers,
    ) -> Result<(), EntryFailure> {
        use VmInstructionError as E;
        let pending = self.pending;
        if pending.intersects(checks::CONTROL_GROUPS) {
            let others = checks::CONTROL_GROUPS.without(checks::LIGHT_GROUPS);
            let light = !pending.intersects(others) && !self.primary_structure_changed();
            let result = if light {
                checks::light_controls(&self.vmcs12, &self.config)
            } else {
                checks::controls(&self.vmcs12, &self.config, memory)
            };
            result.map_err(|v| EntryFailure::Valid(E::EntryInvalidControls, Some(v)))?;
        }
        if pending.intersects(checks::HOST_GROUPS) {
            checks::host(&self.vmcs12, &self.config)
                .map_err(|v| EntryFailure::Valid(E::EntryInvalidHostState, Some(v)))?;
            self.host.prepare(&self.vmcs12, registers);
        }
        Ok(())
    }
}

/// Whether an enlightened VMCS is of a version that L0 serves. Hyper-V as L1
/// writes what IA32_VMX_BASIC says, as into a VMCS.
#[inline]
pub(crate) fn has_known_revision<P: Page>(page: &P) -> bool {
    matches!(
        page.read_u32(evmcs::REVISION),
        evmcs::VERSION | vmcs12::REVISION
    )
}

/// Groups that [`Nested::load_rare`] copies.
const RARE: Dirty = Dirty::ALL
    .without(Dirty::GUEST_BASIC)
    .without(Dirty::CONTROL_EVENT)
    .without(Dirty::CONTROL_PROC)
    .without(Dirty::CRDR)
    .without(Dirty::UNGROUPED);

/// Copies the fields that are in no clean group; says whether one changed.
fn load_ungrouped<P: Page>(copy: &mut Vmcs12, page: &P) -> bool {
    let mut changed = false;
    macro_rules! compare {
        (; $($field:ident),*) => {
            $(
                let value = get!(*page, $field);
                if value != get!(*copy, $field) {
                    put!(*copy, $field, value);
                    changed = true;
                }
            )*
        };
    }
    for_ungrouped!(compare!());
    changed
}

#[cfg(test)]
mod tests;
