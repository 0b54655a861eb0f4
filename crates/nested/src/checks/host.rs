//! Checks on the host-state area (SDM 27.2.2-27.2.4).
//!
//! All of them are L0's: VMCS 02 holds L0's host state, never L1's.

use vmx::{EntryControls, ExitControls, Field};

use super::{EFER_DEFINED, Rule, Violation, is_canonical, is_pat, require};
use crate::Vmcs12;
use crate::cr::{CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME};
use crate::state::Config;
use crate::vmcs12::get;

/// RPL and TI of a selector.
const SELECTOR_LOW: u64 = 7;

/// The checks that end in VM-instruction error 8, less the one against L1's
/// present mode.
pub fn host(vmcs12: &Vmcs12, config: &Config) -> Result<(), Violation> {
    let caps = &config.caps;
    let exit = ExitControls::from_bits_retain(get!(*vmcs12, EXIT_CONTROLS) as u32);
    let entry = EntryControls::from_bits_retain(get!(*vmcs12, ENTRY_CONTROLS) as u32);
    let is_64_bit = exit.contains(ExitControls::HOST_64_BIT);

    let cr0 = get!(*vmcs12, HOST_CR0);
    require(
        cr0 & caps.cr0_fixed0 == caps.cr0_fixed0 && cr0 & !caps.cr0_fixed1 == 0,
        Field::HOST_CR0,
        Rule::AllowedBits,
    )?;
    let cr4 = get!(*vmcs12, HOST_CR4);
    require(
        cr4 & caps.cr4_fixed0 == caps.cr4_fixed0 && cr4 & !caps.cr4_fixed1 == 0,
        Field::HOST_CR4,
        Rule::AllowedBits,
    )?;
    require(
        config.is_physical(get!(*vmcs12, HOST_CR3)),
        Field::HOST_CR3,
        Rule::Address,
    )?;

    macro_rules! canonical {
        ($($field:ident)*) => {
            $(require(is_canonical(get!(*vmcs12, $field)), Field::$field, Rule::Canonical)?;)*
        };
    }
    canonical!(HOST_SYSENTER_ESP HOST_SYSENTER_EIP);
    if exit.contains(ExitControls::LOAD_PAT) {
        require(
            is_pat(get!(*vmcs12, HOST_PAT)),
            Field::HOST_PAT,
            Rule::Reserved,
        )?;
    }
    if exit.contains(ExitControls::LOAD_EFER) {
        let efer = get!(*vmcs12, HOST_EFER);
        let mode = if is_64_bit { EFER_LMA | EFER_LME } else { 0 };
        require(efer & !EFER_DEFINED == 0, Field::HOST_EFER, Rule::Reserved)?;
        require(
            efer & (EFER_LMA | EFER_LME) == mode,
            Field::HOST_EFER,
            Rule::Requires(Field::EXIT_CONTROLS),
        )?;
    }

    macro_rules! selectors {
        ($($field:ident)*) => {
            $(require(
                get!(*vmcs12, $field) & SELECTOR_LOW == 0,
                Field::$field,
                Rule::Reserved,
            )?;)*
        };
    }
    selectors!(
        HOST_ES_SELECTOR HOST_CS_SELECTOR HOST_SS_SELECTOR HOST_DS_SELECTOR
        HOST_FS_SELECTOR HOST_GS_SELECTOR HOST_TR_SELECTOR
    );
    let zero = |selector: u64, field| require(selector != 0, field, Rule::Zero);
    zero(get!(*vmcs12, HOST_CS_SELECTOR), Field::HOST_CS_SELECTOR)?;
    zero(get!(*vmcs12, HOST_TR_SELECTOR), Field::HOST_TR_SELECTOR)?;
    if !is_64_bit {
        zero(get!(*vmcs12, HOST_SS_SELECTOR), Field::HOST_SS_SELECTOR)?;
    }
    host_pointers(vmcs12)?;

    let rip = get!(*vmcs12, HOST_RIP);
    if is_64_bit {
        require(
            cr4 & CR4_PAE != 0,
            Field::HOST_CR4,
            Rule::Requires(Field::EXIT_CONTROLS),
        )?;
        require(is_canonical(rip), Field::HOST_RIP, Rule::Canonical)
    } else {
        require(
            !entry.contains(EntryControls::IA32E_MODE_GUEST),
            Field::ENTRY_CONTROLS,
            Rule::Requires(Field::EXIT_CONTROLS),
        )?;
        require(
            cr4 & CR4_PCIDE == 0,
            Field::HOST_CR4,
            Rule::Requires(Field::EXIT_CONTROLS),
        )?;
        require(rip >> 32 == 0, Field::HOST_RIP, Rule::Mode)
    }
}

/// [`host_pointers`] without the name of the field: no call and few instructions.
#[inline(always)]
pub fn are_host_pointers_canonical(vmcs12: &Vmcs12) -> bool {
    // Half of the canonical addresses further on, they are those below 1 << 48.
    macro_rules! moved {
        ($($field:ident)*) => {
            $(get!(*vmcs12, $field).wrapping_add(1 << 47))|*
        };
    }
    let all = moved!(HOST_FS_BASE HOST_GS_BASE HOST_GDTR_BASE HOST_IDTR_BASE HOST_TR_BASE);
    all >> 48 == 0
}

/// Those of them on [`Dirty::HOST_POINTER`](crate::Dirty).
pub fn host_pointers(vmcs12: &Vmcs12) -> Result<(), Violation> {
    macro_rules! canonical {
        ($($field:ident)*) => {
            $(require(is_canonical(get!(*vmcs12, $field)), Field::$field, Rule::Canonical)?;)*
        };
    }
    canonical!(HOST_FS_BASE HOST_GS_BASE HOST_GDTR_BASE HOST_IDTR_BASE HOST_TR_BASE);
    Ok(())
}
