//! Checks on guest non-register state (SDM 27.3.1.5).
//!
//! Hardware makes most of them on VMCS 02, but it never sees an inactive
//! state: L0 halts the VP itself.

use addr::Gpa1;
use vmx::{
    AccessRights, ActivityState, EventType, Field, Interruptibility, InterruptionInfo, PinControls,
};

use super::{Rule, Violation, require};
use crate::access::Memory;
use crate::state::Config;
use crate::vmcs12::get;
use crate::{Vmcs12, vmcs12};

/// Blocking for one instruction.
const SHADOW: Interruptibility = Interruptibility::STI.union(Interruptibility::MOV_SS);

/// RFLAGS.TF.
const RFLAGS_TF: u64 = 1 << 8;
/// DEBUGCTL.BTF.
const DEBUGCTL_BTF: u64 = 1 << 1;
/// Pending debug exceptions: a single step.
const PENDING_BS: u64 = 1 << 14;
/// Pending debug exceptions: bits that no processor has, which leaves B0-B3, a
/// bus lock (11), enabled breakpoint (12), BS and RTM (16).
const PENDING_RESERVED: u64 = !0x1_580f;

const DEBUG: u8 = 1;
const MACHINE_CHECK: u8 = 18;

fn event(vmcs12: &Vmcs12) -> InterruptionInfo {
    InterruptionInfo::from_raw(get!(*vmcs12, ENTRY_INTERRUPTION_INFO) as u32)
}

fn blocking(vmcs12: &Vmcs12) -> Interruptibility {
    Interruptibility::from_bits_retain(get!(*vmcs12, GUEST_INTERRUPTIBILITY) as u32)
}

/// The activity state: among those that IA32_VMX_MISC offers, and fit for what
/// blocks events and for the event to inject.
pub(super) fn activity(vmcs12: &Vmcs12, config: &Config) -> Result<(), Violation> {
    let field = Field::GUEST_ACTIVITY_STATE;
    let state = ActivityState::from_raw(get!(*vmcs12, GUEST_ACTIVITY_STATE) as u32);
    let offered = |bit: u32| config.caps.misc & (1 << bit) != 0;
    let ok = match state {
        Some(ActivityState::Active) => return Ok(()),
        Some(ActivityState::Hlt) => {
            let stack = AccessRights::from_raw(get!(*vmcs12, GUEST_SS_ACCESS_RIGHTS) as u32);
            offered(6) && stack.dpl() == 0
        }
        Some(ActivityState::Shutdown) => offered(7),
        Some(ActivityState::WaitForSipi) => offered(8),
        None => false,
    };
    require(ok, field, Rule::Reserved)?;
    require(
        !blocking(vmcs12).intersects(SHADOW),
        field,
        Rule::Requires(Field::GUEST_INTERRUPTIBILITY),
    )?;
    let event = event(vmcs12);
    let wakes = match state {
        Some(ActivityState::Hlt) => match event.event_type() {
            EventType::ExternalInterrupt | EventType::Nmi => true,
            EventType::HardwareException => matches!(event.vector(), DEBUG | MACHINE_CHECK),
            _ => false,
        },
        Some(ActivityState::Shutdown) => event.is_nmi() || event.is_exception(MACHINE_CHECK),
        _ => false,
    };
    require(
        wakes || !event.is_valid(),
        field,
        Rule::Requires(Field::ENTRY_INTERRUPTION_INFO),
    )
}

/// What blocks events: only what there is to block (no SMM, no enclaves), and
/// not the NMI that L1 injects.
pub(super) fn interruptibility(vmcs12: &Vmcs12) -> Result<(), Violation> {
    let field = Field::GUEST_INTERRUPTIBILITY;
    let state = blocking(vmcs12);
    let known = SHADOW.union(Interruptibility::NMI);
    require(state.difference(known).is_empty(), field, Rule::Reserved)?;
    let pin = PinControls::from_bits_retain(get!(*vmcs12, PIN_BASED_CONTROLS) as u32);
    let blocks_nmi =
        state.contains(Interruptibility::NMI) && pin.contains(PinControls::VIRTUAL_NMIS);
    require(
        !(blocks_nmi && event(vmcs12).is_nmi()),
        field,
        Rule::Requires(Field::ENTRY_INTERRUPTION_INFO),
    )
}

/// Pending debug exceptions: while the last instruction holds them back there
/// is a single step among them if and only if L2 is single-stepped.
pub(super) fn pending_debug_exceptions(vmcs12: &Vmcs12) -> Result<(), Violation> {
    let field = Field::GUEST_PENDING_DEBUG_EXCEPTIONS;
    let pending = get!(*vmcs12, GUEST_PENDING_DEBUG_EXCEPTIONS);
    require(pending & PENDING_RESERVED == 0, field, Rule::Reserved)?;
    let halted = get!(*vmcs12, GUEST_ACTIVITY_STATE) == ActivityState::Hlt as u64;
    if !halted && !blocking(vmcs12).intersects(SHADOW) {
        return Ok(());
    }
    let steps = get!(*vmcs12, GUEST_RFLAGS) & RFLAGS_TF != 0
        && get!(*vmcs12, GUEST_DEBUGCTL) & DEBUGCTL_BTF == 0;
    require(
        (pending & PENDING_BS != 0) == steps,
        field,
        Rule::Requires(Field::GUEST_RFLAGS),
    )
}

/// The link pointer: all ones, or a VMCS region of ours. L0 stores all ones in
/// VMCS 02.
pub(super) fn link_pointer<M: Memory>(
    vmcs12: &Vmcs12,
    config: &Config,
    memory: &M,
) -> Result<(), Violation> {
    let field = Field::VMCS_LINK_POINTER;
    let pointer = get!(*vmcs12, VMCS_LINK_POINTER);
    if pointer == u64::MAX {
        return Ok(());
    }
    require(config.is_page(pointer), field, Rule::Address)?;
    let revision = memory.read_u32(Gpa1::new(pointer));
    require(revision == Ok(vmcs12::REVISION), field, Rule::NoVmcs)
}
