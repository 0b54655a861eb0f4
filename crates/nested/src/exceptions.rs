//! Exceptions that L0 intercepts for its own sake, and gives back to the guest that raised them.
//!
//! Delivering #DB or #AC can raise the same exception again, without end and without a
//! boundary at which an interrupt, an NMI or a timer gets in: a data breakpoint on the
//! stack of the handler, a misaligned stack of a handler at CPL 3 (CVE-2015-8104,
//! CVE-2015-5307). Such a guest keeps its processor for good. Intercepted, each round is
//! an exit.
//!
//! An event whose delivery raised the exception is not delivered any more, as without a
//! hypervisor: faults come again, an interrupt is lost.

use vmx::{Field, Interruptibility, InterruptionInfo};

use crate::access::Vmcs;

/// The vector of #DB.
pub const DEBUG: u8 = 1;
/// The vector of #AC.
pub const ALIGNMENT_CHECK: u8 = 17;
/// The vector of #MC.
pub const MACHINE_CHECK: u8 = 18;

/// #DB and #AC in the form of an exception bitmap.
pub const ENDLESS: u32 = 1 << DEBUG | 1 << ALIGNMENT_CHECK;

/// DR6: which conditions were met: B3 to B0, BLD, BD, BS, RTM. In a qualification a 1 says
/// that the condition was met; in DR6 that goes for all but BLD and RTM.
const DR6_CONDITIONS: u64 = 0x1_680f;
/// DR6: B3 to B0, which each #DB sets anew. The others stay set.
const DR6_BREAKPOINTS: u64 = 0xf;
/// DR6: bits that read 1, and BLD and RTM, which read 1 while their condition was not met.
const DR6_ONES: u64 = 0xffff_0ff0;
/// DR7.GD.
const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// DEBUGCTL.BTF.
const DEBUGCTL_BTF: u64 = 1 << 1;
/// RFLAGS.TF.
const RFLAGS_TF: u64 = 1 << 8;
/// Pending debug exceptions: a single step.
const PENDING_BS: u64 = 1 << 14;

/// Makes the guest take the exception that the last exit reports as `exception`.
pub fn give_back<V: Vmcs>(vmcs: &mut V, exception: InterruptionInfo) {
    if exception.has_error_code() {
        let code = vmcs.read(Field::EXIT_INTERRUPTION_ERROR_CODE);
        vmcs.write(Field::ENTRY_EXCEPTION_ERROR_CODE, code);
    }
    if exception.event_type().is_software() {
        let length = vmcs.read(Field::EXIT_INSTRUCTION_LENGTH);
        vmcs.write(Field::ENTRY_INSTRUCTION_LENGTH, length);
    }
    let vectoring = InterruptionInfo::from_raw(vmcs.read(Field::IDT_VECTORING_INFO) as u32);
    if exception.raw() & InterruptionInfo::NMI_UNBLOCKING != 0 && !vectoring.is_valid() {
        // An IRET raised it, which had ended the blocking already (SDM 28.2.3).
        let blocking = vmcs.read(Field::GUEST_INTERRUPTIBILITY);
        let nmi = u64::from(Interruptibility::NMI.bits());
        vmcs.write(Field::GUEST_INTERRUPTIBILITY, blocking | nmi);
    }
    let event = exception.for_entry();
    vmcs.write(Field::ENTRY_INTERRUPTION_INFO, event.raw().into());
}

/// What a #DB that exits leaves undone of the debug registers (SDM 28.1): clears DR7.GD and
/// DEBUGCTL.BTF of the guest, whose DR6 was `dr6`. Returns its new DR6.
///
/// Not for INT1, which touches none of them.
pub fn raise_debug<V: Vmcs>(vmcs: &mut V, dr6: u64) -> u64 {
    let met = vmcs.read(Field::EXIT_QUALIFICATION) & DR6_CONDITIONS;
    let dr7 = vmcs.read(Field::GUEST_DR7);
    vmcs.write(Field::GUEST_DR7, dr7 & !DR7_GENERAL_DETECT);
    let debugctl = vmcs.read(Field::GUEST_DEBUGCTL);
    vmcs.write(Field::GUEST_DEBUGCTL, debugctl & !DEBUGCTL_BTF);
    let blocking =
        Interruptibility::from_bits_retain(vmcs.read(Field::GUEST_INTERRUPTIBILITY) as u32);
    let is_blocked = blocking.intersects(Interruptibility::STI | Interruptibility::MOV_SS);
    if is_blocked && vmcs.read(Field::GUEST_RFLAGS) & RFLAGS_TF != 0 {
        // Entry demands it of a guest that steps (SDM 27.3.1.5), and the exit has taken it away.
        vmcs.write(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, PENDING_BS);
    }
    let active_low = met & DR6_ONES;
    ((dr6 & !DR6_BREAKPOINTS | DR6_ONES) | met & !DR6_ONES) & !active_low
}

/// Ends an instruction that L0 has executed for a guest with RFLAGS.TF set: the #DB that
/// follows it is pending.
pub fn end_single_step<V: Vmcs>(vmcs: &mut V) {
    if vmcs.read(Field::GUEST_DEBUGCTL) & DEBUGCTL_BTF == 0 {
        let pending = vmcs.read(Field::GUEST_PENDING_DEBUG_EXCEPTIONS);
        vmcs.write(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, pending | PENDING_BS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeVmcs;
    use vmx::EventType;

    const DB: u64 = 0x8000_0301;

    #[test]
    fn an_exception_comes_back_as_it_was() {
        let mut vmcs = FakeVmcs::default();
        vmcs.set(Field::EXIT_INTERRUPTION_ERROR_CODE, 0);
        vmcs.set(Field::ENTRY_EXCEPTION_ERROR_CODE, 7);
        give_back(&mut vmcs, InterruptionInfo::exception(ALIGNMENT_CHECK));
        assert_eq!(vmcs.peek(Field::ENTRY_INTERRUPTION_INFO), 0x8000_0b11);
        assert_eq!(vmcs.peek(Field::ENTRY_EXCEPTION_ERROR_CODE), 0);

        let mut vmcs = FakeVmcs::default();
        vmcs.set(Field::EXIT_INSTRUCTION_LENGTH, 2);
        let int1 = InterruptionInfo::new(EventType::PrivilegedSoftwareException, DEBUG);
        give_back(&mut vmcs, int1);
        assert_eq!(vmcs.peek(Field::ENTRY_INTERRUPTION_INFO), 0x8000_0501);
        assert_eq!(vmcs.peek(Field::ENTRY_INSTRUCTION_LENGTH), 2);
    }

    #[test]
    fn an_iret_that_faults_has_nmis_blocked_again() {
        let iret = InterruptionInfo::from_raw(0x8000_1b11);
        for (vectoring, blocking) in [(0, 8), (0x8000_0202, 0)] {
            let mut vmcs = FakeVmcs::default();
            vmcs.set(Field::IDT_VECTORING_INFO, vectoring);
            give_back(&mut vmcs, iret);
            assert_eq!(vmcs.peek(Field::ENTRY_INTERRUPTION_INFO), 0x8000_0b11);
            assert_eq!(vmcs.peek(Field::GUEST_INTERRUPTIBILITY), blocking);
        }
    }

    #[test]
    fn dr6_after_a_debug_exception() {
        for (before, qualification, after) in [
            // Single step; a breakpoint; both, with others left from before.
            (0xffff_0ff0, 0x4000, 0xffff_4ff0),
            (0xffff_0ff0, 0x0001, 0xffff_0ff1),
            (0xffff_2ff2, 0x4004, 0xffff_6ff4),
            // DR access; a bus lock; in a transaction.
            (0xffff_0ff0, 0x2000, 0xffff_2ff0),
            (0xffff_0ff0, 0x0800, 0xffff_07f0),
            (0xffff_07f0, 0x4000, 0xffff_4ff0),
            (0xffff_0ff0, 0x1_0001, 0xfffe_0ff1),
            // "Enabled breakpoint" is no bit of DR6.
            (0xffff_0ff0, 0x1001, 0xffff_0ff1),
        ] {
            let mut vmcs = FakeVmcs::default();
            vmcs.set(Field::EXIT_QUALIFICATION, qualification);
            assert_eq!(raise_debug(&mut vmcs, before), after, "{qualification:#x}");
        }
    }

    #[test]
    fn a_debug_exception_ends_general_detection_and_branch_steps() {
        let mut vmcs = FakeVmcs::default();
        vmcs.set(Field::GUEST_DR7, 0x2401);
        vmcs.set(Field::GUEST_DEBUGCTL, 2);
        raise_debug(&mut vmcs, 0xffff_0ff0);
        assert_eq!(vmcs.peek(Field::GUEST_DR7), 0x401);
        assert_eq!(vmcs.peek(Field::GUEST_DEBUGCTL), 0);
    }

    #[test]
    fn a_step_behind_sti_stays_one() {
        for (blocking, rflags, pending) in [
            (1, 0x102, PENDING_BS),
            (2, 0x102, PENDING_BS),
            (0, 0x102, 0),
            (1, 2, 0),
        ] {
            let mut vmcs = FakeVmcs::default();
            vmcs.set(Field::EXIT_INTERRUPTION_INFO, DB);
            vmcs.set(Field::GUEST_INTERRUPTIBILITY, blocking);
            vmcs.set(Field::GUEST_RFLAGS, rflags);
            raise_debug(&mut vmcs, 0xffff_0ff0);
            assert_eq!(vmcs.peek(Field::GUEST_PENDING_DEBUG_EXCEPTIONS), pending);
        }
    }

    #[test]
    fn an_emulated_instruction_is_a_step() {
        for (debugctl, pending) in [(0, 0x4001), (2, 1)] {
            let mut vmcs = FakeVmcs::default();
            vmcs.set(Field::GUEST_DEBUGCTL, debugctl);
            vmcs.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1);
            end_single_step(&mut vmcs);
            assert_eq!(vmcs.peek(Field::GUEST_PENDING_DEBUG_EXCEPTIONS), pending);
        }
    }
}
