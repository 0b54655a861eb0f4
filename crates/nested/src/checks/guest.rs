//! Checks on the guest-state area (SDM 27.3.1) that hardware would not make
//! alike on VMCS 02. The rest of them it makes, on the same values.

use addr::Gpa1;
use vmx::{AccessRights, ActivityState, EntryControls, Field, PrimaryControls, SecondaryControls};

use super::controls::secondary;
use super::{Rule, Violation, is_canonical, require};
use crate::access::Memory;
use crate::cr::{CR0_PE, CR0_PG};
use crate::state::Config;
use crate::vmcs12::get;
use crate::{Vmcs12, vmcs12};

/// Exit qualification of a failed entry with a bad VMCS link pointer.
const QUALIFICATION_LINK_POINTER: u64 = 4;

/// A broken rule and the exit qualification that reports it.
pub type Failed = (Violation, u64);

/// The checks that end in a failed entry for reason 33.
pub fn guest<M: Memory>(vmcs12: &Vmcs12, config: &Config, memory: &M) -> Result<(), Failed> {
    registers(vmcs12, config).map_err(|violation| (violation, 0))?;
    activity(vmcs12, config).map_err(|violation| (violation, 0))?;
    link_pointer(vmcs12, config, memory).map_err(|v| (v, QUALIFICATION_LINK_POINTER))
}

/// CR0 and CR4 against the fixed bits that L1 was told; L0 adds its own bits
/// before hardware sees them. CR3 against L1's address width.
fn registers(vmcs12: &Vmcs12, config: &Config) -> Result<(), Violation> {
    let caps = &config.caps;
    let primary = PrimaryControls::from_bits_retain(get!(*vmcs12, PRIMARY_CONTROLS) as u32);
    let mut cr0_fixed0 = caps.cr0_fixed0;
    if secondary(vmcs12, primary).contains(SecondaryControls::UNRESTRICTED_GUEST) {
        cr0_fixed0 &= !(CR0_PE | CR0_PG);
    }
    let cr0 = get!(*vmcs12, GUEST_CR0);
    require(
        cr0 & cr0_fixed0 == cr0_fixed0 && cr0 & !caps.cr0_fixed1 == 0,
        Field::GUEST_CR0,
        Rule::AllowedBits,
    )?;
    require(
        cr0 & CR0_PG == 0 || cr0 & CR0_PE != 0,
        Field::GUEST_CR0,
        Rule::Requires(Field::GUEST_CR0),
    )?;
    let cr4 = get!(*vmcs12, GUEST_CR4);
    require(
        cr4 & caps.cr4_fixed0 == caps.cr4_fixed0 && cr4 & !caps.cr4_fixed1 == 0,
        Field::GUEST_CR4,
        Rule::AllowedBits,
    )?;
    require(
        config.is_physical(get!(*vmcs12, GUEST_CR3)),
        Field::GUEST_CR3,
        Rule::Address,
    )
}

/// The activity state among those that IA32_VMX_MISC offers: L0 halts the VP
/// itself, so that hardware sees the active state only.
fn activity(vmcs12: &Vmcs12, config: &Config) -> Result<(), Violation> {
    let field = Field::GUEST_ACTIVITY_STATE;
    let state = ActivityState::from_raw(get!(*vmcs12, GUEST_ACTIVITY_STATE) as u32);
    let offered = |bit: u32| config.caps.misc & (1 << bit) != 0;
    let ok = match state {
        Some(ActivityState::Active) => true,
        Some(ActivityState::Hlt) => {
            let stack = AccessRights::from_raw(get!(*vmcs12, GUEST_SS_ACCESS_RIGHTS) as u32);
            offered(6) && stack.dpl() == 0
        }
        Some(ActivityState::Shutdown) => offered(7),
        Some(ActivityState::WaitForSipi) => offered(8),
        None => false,
    };
    require(ok, field, Rule::Reserved)
}

/// The link pointer: all ones, or a VMCS region of ours (SDM 27.3.1.5).
/// L0 stores all ones in VMCS 02.
fn link_pointer<M: Memory>(vmcs12: &Vmcs12, config: &Config, memory: &M) -> Result<(), Violation> {
    let field = Field::VMCS_LINK_POINTER;
    let pointer = get!(*vmcs12, VMCS_LINK_POINTER);
    if pointer == u64::MAX {
        return Ok(());
    }
    require(config.is_page(pointer), field, Rule::Address)?;
    let revision = memory.read_u32(Gpa1::new(pointer));
    require(revision == Ok(vmcs12::REVISION), field, Rule::NoVmcs)
}

/// RIP, checked at every entry: an emulated processor is known to accept one
/// that is not canonical.
#[inline]
pub fn guest_rip(vmcs12: &Vmcs12) -> Result<(), Failed> {
    let rip = get!(*vmcs12, GUEST_RIP);
    let entry = EntryControls::from_bits_retain(get!(*vmcs12, ENTRY_CONTROLS) as u32);
    // Outside 64-bit code the upper half must be zero; hardware checks that,
    // and CS may have changed since the copy was made.
    if is_canonical(rip) || !entry.contains(EntryControls::IA32E_MODE_GUEST) {
        Ok(())
    } else {
        Err((
            Violation {
                field: Field::GUEST_RIP,
                rule: Rule::Canonical,
            },
            0,
        ))
    }
}
