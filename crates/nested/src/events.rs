//! Events that L2's delivery of was interrupted: putting them back, or telling L1.
//!
//! When an exit interrupts the delivery of an event to L2, the event is in the
//! IDT-vectoring fields of VMCS 02. If L1 gets the exit, it gets the event
//! with it (SDM 28.2.4). If L0 handles the exit, L0 must put the event back.
//! And if L0 makes up an exit to L1 after it put one back, the event must
//! travel with that exit instead.

use vmx::{Field, Interruptibility, InterruptionInfo};

use crate::access::Vmcs;
use crate::exit::ExitInfo;

/// Puts the event that the last exit of VMCS 02 interrupted back for
/// injection. For exits that L0 handled and after which L2 goes on.
///
/// `nmi_unblocked` is "NMI unblocking due to IRET" of an exit that has such a
/// bit: L2's NMI blocking is then restored, unless an event was interrupted.
#[inline]
pub fn requeue<V: Vmcs>(vmcs02: &mut V, nmi_unblocked: bool) {
    let info = InterruptionInfo::from_raw(vmcs02.read(Field::IDT_VECTORING_INFO) as u32);
    if !info.is_valid() {
        if nmi_unblocked {
            set_nmi_blocking(vmcs02, true);
        }
        return;
    }
    if info.is_nmi() {
        // The NMI will be delivered again, and block again by itself.
        set_nmi_blocking(vmcs02, false);
    }
    if info.has_error_code() {
        let code = vmcs02.read(Field::IDT_VECTORING_ERROR_CODE);
        vmcs02.write(Field::ENTRY_EXCEPTION_ERROR_CODE, code);
    }
    if info.event_type().is_software() {
        let length = vmcs02.read(Field::EXIT_INSTRUCTION_LENGTH);
        vmcs02.write(Field::ENTRY_INSTRUCTION_LENGTH, length);
    }
    let info = info.for_entry();
    vmcs02.write(Field::ENTRY_INTERRUPTION_INFO, info.raw().into());
}

fn set_nmi_blocking<V: Vmcs>(vmcs02: &mut V, blocked: bool) {
    let state = vmcs02.read(Field::GUEST_INTERRUPTIBILITY);
    let bit = u64::from(Interruptibility::NMI.bits());
    let state = if blocked { state | bit } else { state & !bit };
    vmcs02.write(Field::GUEST_INTERRUPTIBILITY, state);
}

/// Moves the event that L0 had queued for L2 into `info`, as interrupted by
/// the exit that `info` describes. For exits that L0 makes up.
#[inline]
pub fn take_interrupted<V: Vmcs>(vmcs02: &mut V, info: &mut ExitInfo) {
    let queued = InterruptionInfo::from_raw(vmcs02.read(Field::ENTRY_INTERRUPTION_INFO) as u32);
    if !queued.is_valid() {
        return;
    }
    info.vectoring = queued;
    if queued.has_error_code() {
        info.vectoring_error_code = vmcs02.read(Field::ENTRY_EXCEPTION_ERROR_CODE) as u32;
    }
    if queued.event_type().is_software() {
        info.instruction_length = vmcs02.read(Field::ENTRY_INSTRUCTION_LENGTH) as u32;
    }
    vmcs02.write(Field::ENTRY_INTERRUPTION_INFO, 0);
}

/// Injects an event into L2 on L0's account; `error_code` where the event has
/// one, `length` of the instruction for software events.
#[inline]
pub fn inject<V: Vmcs>(vmcs02: &mut V, event: InterruptionInfo, error_code: u32, length: u32) {
    if event.has_error_code() {
        vmcs02.write(Field::ENTRY_EXCEPTION_ERROR_CODE, error_code.into());
    }
    if event.event_type().is_software() {
        vmcs02.write(Field::ENTRY_INSTRUCTION_LENGTH, length.into());
    }
    vmcs02.write(Field::ENTRY_INTERRUPTION_INFO, event.raw().into());
}
