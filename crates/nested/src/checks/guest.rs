//! Checks on the guest-state area (SDM 27.3.1) that hardware would not make
//! alike on VMCS 02. The rest of them it makes, on the same values.

use vmx::{EntryControls, Field, PrimaryControls, SecondaryControls};

use super::controls::secondary;
use super::non_register::{activity, interruptibility, link_pointer, pending_debug_exceptions};
use super::{EFER_DEFINED, Rule, Violation, is_canonical, is_pat, require};
use crate::access::Memory;
use crate::cr::{CR0_PE, CR0_PG, EFER_LMA, EFER_LME};
use crate::state::Config;
use crate::vmcs12::get;
use crate::{Dirty, Vmcs12};

/// Exit qualification of a failed entry with a bad VMCS link pointer.
const QUALIFICATION_LINK_POINTER: u64 = 4;

/// Bits of IA32_DEBUGCTL that L1 does not have: all but BTF, as for its own WRMSR. What they
/// switch on, branch records and traces, is not offered.
const DEBUGCTL_RESERVED: u64 = !(1 << 1);

/// A broken rule and the exit qualification that reports it.
pub type Failed = (Violation, u64);

/// The checks that end in a failed entry for reason 33.
///
/// Of a group that is not in `pending` the copy may be older than what L2 did
/// to it, so that only its own last check counts.
pub fn guest<M: Memory>(
    vmcs12: &Vmcs12,
    config: &Config,
    memory: &M,
    pending: Dirty,
) -> Result<(), Failed> {
    let plain = |violation| (violation, 0);
    registers(vmcs12, config).map_err(plain)?;
    if pending.intersects(Dirty::GUEST_GRP1) {
        msrs(vmcs12).map_err(plain)?;
        activity(vmcs12, config).map_err(plain)?;
    }
    if pending.intersects(Dirty::GUEST_BASIC) {
        interruptibility(vmcs12).map_err(plain)?;
    }
    if pending.intersects(Dirty::GUEST_GRP1) {
        pending_debug_exceptions(vmcs12).map_err(plain)?;
        link_pointer(vmcs12, config, memory).map_err(|v| (v, QUALIFICATION_LINK_POINTER))?;
    }
    Ok(())
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
    let entry = EntryControls::from_bits_retain(get!(*vmcs12, ENTRY_CONTROLS) as u32);
    require(
        cr0 & CR0_PG != 0 || !entry.contains(EntryControls::IA32E_MODE_GUEST),
        Field::GUEST_CR0,
        Rule::Requires(Field::ENTRY_CONTROLS),
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

/// DEBUGCTL, PAT and EFER, where the entry loads them.
fn msrs(vmcs12: &Vmcs12) -> Result<(), Violation> {
    let entry = EntryControls::from_bits_retain(get!(*vmcs12, ENTRY_CONTROLS) as u32);
    if entry.contains(EntryControls::LOAD_DEBUG_CONTROLS) {
        require(
            get!(*vmcs12, GUEST_DEBUGCTL) & DEBUGCTL_RESERVED == 0,
            Field::GUEST_DEBUGCTL,
            Rule::Reserved,
        )?;
    }
    if entry.contains(EntryControls::LOAD_PAT) {
        require(
            is_pat(get!(*vmcs12, GUEST_PAT)),
            Field::GUEST_PAT,
            Rule::Reserved,
        )?;
    }
    if entry.contains(EntryControls::LOAD_EFER) {
        let field = Field::GUEST_EFER;
        let efer = get!(*vmcs12, GUEST_EFER);
        require(efer & !EFER_DEFINED == 0, field, Rule::Reserved)?;
        let is_active = efer & EFER_LMA != 0;
        let is_enabled = efer & EFER_LME != 0;
        let has_paging = get!(*vmcs12, GUEST_CR0) & CR0_PG != 0;
        let expected = entry.contains(EntryControls::IA32E_MODE_GUEST);
        require(
            is_active == expected && (!has_paging || is_enabled == is_active),
            field,
            Rule::Requires(Field::ENTRY_CONTROLS),
        )?;
    }
    Ok(())
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
