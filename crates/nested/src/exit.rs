//! An exit from L2 that L1 sees, first half: VMCS 02 into VMCS 12.
//!
//! Exit information and the guest state that L2 could have changed go to L1's
//! page (or the copy, which is the VMCS of a plain L1). Host state and
//! controls stay as L1 wrote them, but for what the SDM has an exit change.
//! [`Nested::load_host`] is the second half.

use vmx::{
    AccessRights, ActivityState, EntryControls, ExitControls, ExitReason, Field, InterruptionInfo,
    PrimaryControls,
};

use crate::Dirty;
use crate::access::{Page, Vmcs};
use crate::cr::{self, CR0_PG, CR4_PAE};
use crate::state::Nested;
use crate::vmcs12::*;

/// What the exit-information fields of VMCS 12 will hold, for an exit that
/// does not come from hardware as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExitInfo {
    /// Exit reason.
    pub reason: ExitReason,
    /// Exit qualification.
    pub qualification: u64,
    /// The event that caused the exit.
    pub interruption: InterruptionInfo,
    /// Its error code.
    pub interruption_error_code: u32,
    /// The event whose delivery the exit interrupted.
    pub vectoring: InterruptionInfo,
    /// Its error code.
    pub vectoring_error_code: u32,
    /// Length of the instruction that caused the exit.
    pub instruction_length: u32,
    /// What that instruction's operands are.
    pub instruction_info: u32,
    /// Guest-physical address of an EPT violation or misconfiguration.
    pub guest_physical: u64,
    /// Guest-linear address.
    pub guest_linear: u64,
}

impl ExitInfo {
    /// An exit for `reason` without further information.
    #[inline]
    pub fn new(reason: ExitReason) -> Self {
        Self {
            reason,
            ..Self::default()
        }
    }

    /// What hardware said of the last exit of VMCS 02.
    #[inline]
    pub fn from_hardware<V: Vmcs>(vmcs02: &V) -> Self {
        let info = |field| InterruptionInfo::from_raw(vmcs02.read(field) as u32);
        Self {
            reason: ExitReason::from_raw(vmcs02.read(Field::EXIT_REASON) as u32),
            qualification: vmcs02.read(Field::EXIT_QUALIFICATION),
            interruption: info(Field::EXIT_INTERRUPTION_INFO),
            interruption_error_code: vmcs02.read(Field::EXIT_INTERRUPTION_ERROR_CODE) as u32,
            vectoring: info(Field::IDT_VECTORING_INFO),
            vectoring_error_code: vmcs02.read(Field::IDT_VECTORING_ERROR_CODE) as u32,
            instruction_length: vmcs02.read(Field::EXIT_INSTRUCTION_LENGTH) as u32,
            instruction_info: vmcs02.read(Field::EXIT_INSTRUCTION_INFO) as u32,
            guest_physical: vmcs02.read(Field::GUEST_PHYSICAL_ADDRESS),
            guest_linear: vmcs02.read(Field::GUEST_LINEAR_ADDRESS),
        }
    }

    fn store<P: Page>(&self, page: &mut P) {
        put!(*page, EXIT_REASON, self.reason.raw().into());
        put!(*page, EXIT_QUALIFICATION, self.qualification);
        put!(
            *page,
            EXIT_INTERRUPTION_INFO,
            self.interruption.raw().into()
        );
        put!(
            *page,
            EXIT_INTERRUPTION_ERROR_CODE,
            self.interruption_error_code.into()
        );
        put!(*page, IDT_VECTORING_INFO, self.vectoring.raw().into());
        put!(
            *page,
            IDT_VECTORING_ERROR_CODE,
            self.vectoring_error_code.into()
        );
        put!(
            *page,
            EXIT_INSTRUCTION_LENGTH,
            self.instruction_length.into()
        );
        put!(*page, EXIT_INSTRUCTION_INFO, self.instruction_info.into());
        put!(*page, GUEST_PHYSICAL_ADDRESS, self.guest_physical);
        put!(*page, GUEST_LINEAR_ADDRESS, self.guest_linear);
    }
}

impl Nested {
    /// Reflects the last exit of VMCS 02 as hardware reported it into the
    /// enlightened VMCS mapped as `page`.
    ///
    /// VMCS 02 is current in `vmcs02`. What remains is to make VMCS 01
    /// current and call [`Nested::load_host`], with the exit MSR lists before
    /// and after when there are any ([`Nested::has_msr_lists`]). `reason` is
    /// hardware's, or one that goes with the same exit information.
    #[inline]
    pub fn reflect_enlightened<V: Vmcs, P: Page>(
        &mut self,
        reason: ExitReason,
        vmcs02: &V,
        page: &mut P,
    ) {
        store_hardware_info::<false, _, _>(reason, vmcs02, page);
        let context = self.leave(vmcs02);
        let entry = store_guest_state(vmcs02, page, &context);
        self.follow(entry);
        if context.had_event {
            clear_event(page);
        }
    }

    /// As [`Nested::reflect_enlightened`], for a plain VMCS.
    #[inline]
    pub fn reflect_plain<V: Vmcs>(&mut self, reason: ExitReason, vmcs02: &V) {
        store_hardware_info::<false, _, _>(reason, vmcs02, &mut self.vmcs12);
        let context = self.leave(vmcs02);
        store_guest_state(vmcs02, &mut self.vmcs12, &context);
        self.vmcs12.set_launched(true);
        clear_event(&mut self.vmcs12);
    }

    /// Reflects an exit of L0's making, or hardware's with other information,
    /// into the enlightened VMCS mapped as `page`. The event that L0 had
    /// queued for L2 must be in `info` already
    /// ([`crate::events::take_interrupted`]).
    #[cold]
    pub fn reflect_enlightened_as<V: Vmcs, P: Page>(
        &mut self,
        vmcs02: &V,
        page: &mut P,
        info: &ExitInfo,
    ) {
        info.store(page);
        let context = self.leave(vmcs02);
        let entry = store_guest_state(vmcs02, page, &context);
        self.follow(entry);
        clear_event(page);
    }

    /// As [`Nested::reflect_enlightened_as`], for a plain VMCS.
    #[cold]
    pub fn reflect_plain_as<V: Vmcs>(&mut self, vmcs02: &V, info: &ExitInfo) {
        info.store(&mut self.vmcs12);
        let context = self.leave(vmcs02);
        store_guest_state(vmcs02, &mut self.vmcs12, &context);
        self.vmcs12.set_launched(true);
        clear_event(&mut self.vmcs12);
    }

    /// Collects what the stores to L1's page depend on and leaves L2.
    #[inline(always)]
    fn leave<V: Vmcs>(&mut self, vmcs02: &V) -> Leaving {
        self.carry_out(vmcs02);
        self.in_l2 = false;
        let event = InterruptionInfo::from_raw(get!(self.vmcs12, ENTRY_INTERRUPTION_INFO) as u32);
        if event.is_valid() {
            clear_event(&mut self.vmcs12);
        }
        let halted = core::mem::take(&mut self.l2_halted);
        if halted {
            // VMCS 02 says active. If L1 leaves the state as it finds it, the
            // next entry must still see that L2 is halted.
            self.forget_groups(Dirty::GUEST_GRP1);
        }
        let uses_ept = self.ept_pointer().is_some();
        if !uses_ept {
            // The next entry reads PDPTEs where CR3 points by then.
            self.forget_groups(Dirty::CRDR);
        }
        Leaving {
            exit: self.exit_controls(),
            entry: self.entry_controls(),
            uses_ept,
            cr0_l0_only: self.cr0_l0_only,
            cr4_l0_only: self.cr4_l0_only,
            had_event: event.is_valid(),
            halted,
        }
    }

    /// Keeps in the copy of an enlightened VMCS what later checks compare
    /// with, though its group may be clean then.
    #[inline(always)]
    fn follow(&mut self, state: Followed) {
        if !state.entry.contains(EntryControls::IA32E_MODE_GUEST) {
            // The short way takes L2's mode for the one that the page says.
            self.steady = None;
        }
        put!(self.vmcs12, ENTRY_CONTROLS, state.entry.bits().into());
        put!(self.vmcs12, GUEST_CR0, state.cr0);
        put!(self.vmcs12, GUEST_SS_ACCESS_RIGHTS, state.stack);
    }

    /// Whether L1 gave any MSR list for entry or exit.
    #[inline(always)]
    pub fn has_msr_lists(&self) -> bool {
        let counts = get!(self.vmcs12, EXIT_MSR_STORE_COUNT)
            | get!(self.vmcs12, EXIT_MSR_LOAD_COUNT)
            | get!(self.vmcs12, ENTRY_MSR_LOAD_COUNT);
        counts != 0
    }

    /// Whether L1 has a TPR of its own for L2 (the virtual-APIC page).
    #[inline]
    pub fn uses_tpr_shadow(&self) -> bool {
        self.primary_controls()
            .contains(PrimaryControls::USE_TPR_SHADOW)
    }
}

/// What an exit's stores depend on.
struct Leaving {
    exit: ExitControls,
    entry: EntryControls,
    uses_ept: bool,
    cr0_l0_only: u64,
    cr4_l0_only: u64,
    had_event: bool,
    halted: bool,
}

/// State of L2 at the exit that L0 keeps too.
struct Followed {
    entry: EntryControls,
    cr0: u64,
    stack: u64,
}

/// An exit clears the valid bit of the event to inject.
#[inline]
pub(crate) fn clear_event<P: Page>(page: &mut P) {
    let info = get!(*page, ENTRY_INTERRUPTION_INFO) as u32 & !InterruptionInfo::VALID;
    put!(*page, ENTRY_INTERRUPTION_INFO, info.into());
}

/// `save!(vmcs02, page; ...)`: fields to their places by [`Page::save`], which
/// may spoil what lies behind; ascending, and `exactly!` what follows.
macro_rules! save {
    ($vmcs02:expr, $page:expr; $($field:ident),*) => {
        $($page.save::<
            { place(Field::$field.encoding()).offset },
            { place(Field::$field.encoding()).width.bytes() },
            _,
        >($vmcs02, Field::$field);)*
    };
}

/// `exactly!(vmcs02, page; ...)`: fields to their places and nothing else.
macro_rules! exactly {
    ($vmcs02:expr, $page:expr; $($field:ident),*) => {
        $(put!(*$page, $field, $vmcs02.read(Field::$field));)*
    };
}

/// Whether instruction information and guest-linear address mean something at
/// this exit (SDM 28.2.1, 28.2.5). Other exits leave them undefined.
#[inline(always)]
const fn describes_operand(reason: u16) -> bool {
    use vmx::BasicExitReason as R;
    const REASONS: &[R] = &[
        R::Vmclear,
        R::Vmptrld,
        R::Vmptrst,
        R::Vmread,
        R::Vmwrite,
        R::Vmxon,
        R::CrAccess,
        R::IoInstruction,
        R::GdtrIdtrAccess,
        R::LdtrTrAccess,
        R::EptViolation,
        R::EptMisconfiguration,
        R::Invept,
        R::Invvpid,
        R::Rdrand,
        R::Invpcid,
        R::Rdseed,
        R::Xsaves,
        R::Xrstors,
    ];
    const MASK: u128 = crate::reflect::bits(REASONS);
    // Reasons from 64 on are rare: their fields are copied without asking.
    reason >= 64 || (MASK as u64) >> reason & 1 != 0
}

/// Exit information of a hardware exit. What the SDM leaves undefined for the
/// exit at hand is not touched. `IS_INSTRUCTION`: the reason is among
/// [`INSTRUCTIONS`](crate::reflect::INSTRUCTIONS), so that there is no event.
#[inline(always)]
pub(crate) fn store_hardware_info<const IS_INSTRUCTION: bool, V: Vmcs, P: Page>(
    reason: ExitReason,
    vmcs02: &V,
    page: &mut P,
) {
    let event = |field| {
        if IS_INSTRUCTION {
            0
        } else {
            vmcs02.read(field)
        }
    };
    let vectoring = event(Field::IDT_VECTORING_INFO);
    let interruption = event(Field::EXIT_INTERRUPTION_INFO);
    save!(vmcs02, page; EXIT_INSTRUCTION_LENGTH);
    let low = reason.raw() as u16;
    if describes_operand(if IS_INSTRUCTION { low & 63 } else { low }) {
        save!(vmcs02, page; EXIT_INSTRUCTION_INFO, GUEST_LINEAR_ADDRESS);
        exactly!(vmcs02, page; GUEST_PHYSICAL_ADDRESS);
    }
    save!(vmcs02, page; EXIT_QUALIFICATION);
    put!(*page, EXIT_REASON, reason.raw().into());
    put!(*page, EXIT_INTERRUPTION_INFO, interruption);
    if InterruptionInfo::from_raw(interruption as u32).has_error_code() {
        exactly!(vmcs02, page; EXIT_INTERRUPTION_ERROR_CODE);
    }
    put!(*page, IDT_VECTORING_INFO, vectoring);
    if InterruptionInfo::from_raw(vectoring as u32).has_error_code() {
        exactly!(vmcs02, page; IDT_VECTORING_ERROR_CODE);
    }
}

/// The guest state that every exit saves, whatever the controls, in the form that L1 sees.
#[inline(always)]
pub(crate) fn store_common_state<V: Vmcs, P: Page>(vmcs02: &V, page: &mut P) {
    for_guest_grp2!(save!(vmcs02, page));
    save!(vmcs02, page; GUEST_PENDING_DEBUG_EXCEPTIONS, GUEST_SYSENTER_ESP, GUEST_SYSENTER_EIP);
    save!(vmcs02, page; GUEST_ACTIVITY_STATE);
    exactly!(vmcs02, page; GUEST_SYSENTER_CS);
    save!(vmcs02, page; GUEST_CR3, GUEST_RSP, GUEST_RFLAGS, GUEST_RIP);
    exactly!(vmcs02, page; GUEST_INTERRUPTIBILITY);
}

/// The debug controls that an exit saves where it is asked to.
#[inline(always)]
pub(crate) fn store_debug_state<V: Vmcs, P: Page>(vmcs02: &V, page: &mut P) {
    save!(vmcs02, page; GUEST_DEBUGCTL, GUEST_DR7);
}

/// The guest state that an exit saves (SDM 28.3).
#[inline(always)]
fn store_guest_state<V: Vmcs, P: Page>(vmcs02: &V, page: &mut P, leaving: &Leaving) -> Followed {
    store_common_state(vmcs02, page);
    if leaving.halted {
        put!(*page, GUEST_ACTIVITY_STATE, ActivityState::Hlt as u64);
    }

    let mut cr0 = vmcs02.read(Field::GUEST_CR0);
    if leaving.cr0_l0_only != 0 {
        let shadow = vmcs02.read(Field::CR0_READ_SHADOW);
        cr0 = cr::guest12_at_exit(cr0, shadow, leaving.cr0_l0_only);
    }
    put!(*page, GUEST_CR0, cr0);
    let mut cr4 = vmcs02.read(Field::GUEST_CR4);
    if leaving.cr4_l0_only != 0 {
        let shadow = vmcs02.read(Field::CR4_READ_SHADOW);
        cr4 = cr::guest12_at_exit(cr4, shadow, leaving.cr4_l0_only);
    }
    put!(*page, GUEST_CR4, cr4);

    if leaving.exit.contains(ExitControls::SAVE_DEBUG_CONTROLS) {
        store_debug_state(vmcs02, page);
    }
    if leaving.exit.contains(ExitControls::SAVE_EFER) {
        save!(vmcs02, page; GUEST_EFER);
    }
    if leaving.exit.contains(ExitControls::SAVE_PAT) {
        save!(vmcs02, page; GUEST_PAT);
    }

    let mode = EntryControls::from_bits_retain(vmcs02.read(Field::ENTRY_CONTROLS) as u32)
        & EntryControls::IA32E_MODE_GUEST;
    let entry = leaving.entry.difference(EntryControls::IA32E_MODE_GUEST) | mode;
    put!(*page, ENTRY_CONTROLS, entry.bits().into());
    let is_pae = cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && mode.is_empty();
    if is_pae && leaving.uses_ept {
        save!(vmcs02, page; GUEST_PDPTE0, GUEST_PDPTE1, GUEST_PDPTE2, GUEST_PDPTE3);
    }
    Followed {
        entry,
        cr0,
        stack: get!(*page, GUEST_SS_ACCESS_RIGHTS) & u64::from(AccessRights::DEFINED),
    }
}

#[cfg(test)]
mod tests;
