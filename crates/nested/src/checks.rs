//! The checks of VM entry that L0 makes in software (SDM 27.2, 27.3).
//!
//! Hardware checks VMCS 02, so a field that reaches it unchanged is checked
//! there and its verdict handed on. In software goes what L0 rewrites (control
//! words, addresses, CR0, CR4, the host state), what hardware may do and L1 is
//! not offered, and what an emulated processor is known to let pass. Checks
//! run only when a group they read is dirty, in the SDM's order: the first
//! failure decides between VMfail 7, VMfail 8 and a failed entry.

use vmx::Field;

use crate::Dirty;

mod controls;
mod guest;
mod host;
mod non_register;

pub use controls::{controls, is_simple_event, light_controls, simple_controls};
pub use guest::{Failed, guest, guest_rip};
pub use host::{are_host_pointers_canonical, host, host_pointers};

/// Groups whose change calls for [`controls`].
pub const CONTROL_GROUPS: Dirty = Dirty::CONTROL_GRP1
    .union(Dirty::CONTROL_GRP2)
    .union(Dirty::CONTROL_PROC)
    .union(Dirty::CONTROL_ENTRY)
    .union(Dirty::CONTROL_EVENT)
    .union(Dirty::CONTROL_XLAT)
    .union(Dirty::IO_BITMAP)
    .union(Dirty::MSR_BITMAP)
    .union(Dirty::UNGROUPED);

/// Of them, those for which [`light_controls`] will do when no primary
/// control changed on which others depend.
pub const LIGHT_GROUPS: Dirty = Dirty::CONTROL_PROC.union(Dirty::CONTROL_EVENT);

/// Groups whose change calls for [`host`].
pub const HOST_GROUPS: Dirty = Dirty::HOST_GRP1
    .union(Dirty::HOST_POINTER)
    .union(Dirty::CONTROL_GRP1)
    .union(Dirty::CONTROL_ENTRY);

/// Groups whose change calls for [`guest`], beside [`Dirty::GUEST_BASIC`] when
/// that says that something blocks events. That a restricted guest has PE and
/// PG set is checked by hardware too, whichever way it became restricted.
pub const GUEST_GROUPS: Dirty = Dirty::CRDR
    .union(Dirty::GUEST_GRP1)
    .union(Dirty::CONTROL_ENTRY);

/// A rule of VM entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A bit that must be 1 is 0, or one that may not be 1 is.
    AllowedBits,
    /// The field must not be used, or not have this value, because of a control.
    Requires(Field),
    /// An address is misaligned or beyond the physical-address width.
    Address,
    /// There is no memory at the address.
    Unbacked,
    /// A count or limit is too large.
    TooLarge,
    /// A reserved bit or value is used.
    Reserved,
    /// A value that must not be zero is zero.
    Zero,
    /// A linear address is not canonical.
    Canonical,
    /// The address space of the host or of L1 now is not what the field says.
    Mode,
    /// The VMCS region that the link pointer names is none.
    NoVmcs,
}

/// A broken rule: what L0's log and traces say of a failed entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The field that holds the bad value.
    pub field: Field,
    /// What is wrong with it.
    pub rule: Rule,
}

impl Violation {
    /// The host-address-space-size control disagrees with L1's present mode.
    pub const HOST_MODE: Self = Self {
        field: Field::EXIT_CONTROLS,
        rule: Rule::Mode,
    };
}

/// `Err` with the field and rule unless `ok`.
#[inline(always)]
fn require(ok: bool, field: Field, rule: Rule) -> Result<(), Violation> {
    if ok {
        Ok(())
    } else {
        Err(Violation { field, rule })
    }
}

/// Whether `address` is canonical with 48 implemented bits.
#[inline(always)]
pub(crate) const fn is_canonical(address: u64) -> bool {
    addr::Gva::new(address).is_canonical()
}

/// Whether every byte of a PAT names a memory type (SDM 13.12.2).
const fn is_pat(pat: u64) -> bool {
    let mut entry = 0;
    while entry < 8 {
        match (pat >> (entry * 8)) as u8 {
            0 | 1 | 4..=7 => {}
            _ => return false,
        }
        entry += 1;
    }
    true
}

/// The bits of EFER that mean something: SCE, LME, LMA, NXE.
const EFER_DEFINED: u64 = 0xd01;

#[cfg(test)]
mod tests;
