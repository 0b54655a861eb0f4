//! Registers that entries and exits may leave alone: EFER, PAT, DEBUGCTL, DR7.
//!
//! VMCS 01 and VMCS 02 load and save them always. Where L1's controls do not
//! load one, its value goes along from the side that is left.
//!
//! An L1 that loads PAT, EFER or the debug controls at entry, does not save
//! them at exit and lets L2 write them without an exit gets L2's values back
//! at the next entry while its clean bits are set: telling costs two reads at
//! each exit, and no L1 is known to do it.

use serde::{Deserialize, Serialize};
use vmx::{EntryControls, ExitControls, Field};

use crate::access::Vmcs;
use crate::cr::{CR0_PG, EFER_LMA, EFER_LME};
use crate::vmcs12::get;
use crate::{Dirty, Merged, Nested};

/// The load controls without which VM entry keeps L1's values.
const LOADS: EntryControls = EntryControls::LOAD_DEBUG_CONTROLS
    .union(EntryControls::LOAD_PAT)
    .union(EntryControls::LOAD_EFER);

/// L1's own values of what VM entry leaves alone unless a control asks for it.
///
/// [`crate::Nested::carry_in`] reads them from VMCS 01; with all load controls
/// set it reads nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carry {
    /// IA32_EFER of the side that is left.
    pub efer: u64,
    /// IA32_PAT of the side that is left.
    pub pat: u64,
    /// IA32_DEBUGCTL of the side that is left (into L2 only).
    pub debugctl: u64,
    /// DR7 of the side that is left (into L2 only).
    pub dr7: u64,
}

impl Nested {
    /// L1's values of what the entry leaves alone; VMCS 01 is current in
    /// `vmcs01`. Reads nothing when VMCS 12 loads all of it.
    #[inline]
    pub fn carry_in<V: Vmcs>(&self, vmcs01: &V) -> Carry {
        let entry = self.entry_controls();
        let mut carry = Carry::default();
        if entry.contains(LOADS) {
            return carry;
        }
        if !entry.contains(EntryControls::LOAD_EFER) {
            carry.efer = vmcs01.read(Field::GUEST_EFER);
        }
        if !entry.contains(EntryControls::LOAD_PAT) {
            carry.pat = vmcs01.read(Field::GUEST_PAT);
        }
        if !entry.contains(EntryControls::LOAD_DEBUG_CONTROLS) {
            carry.debugctl = vmcs01.read(Field::GUEST_DEBUGCTL);
            carry.dr7 = vmcs01.read(Field::GUEST_DR7);
        }
        carry
    }

    /// DR7, DEBUGCTL, PAT and EFER: L1's field where VMCS 12 loads it, else
    /// L1's own value goes on. VMCS 02 loads all four in any case.
    #[inline(always)]
    pub(crate) fn merge_carried<V: Vmcs>(
        &self,
        vmcs02: &mut V,
        groups: Dirty,
        carry: &Carry,
        merged: &mut Merged,
    ) {
        let entry = self.entry_controls();
        // A change of the load controls themselves has both groups read anew.
        let debug = entry.contains(EntryControls::LOAD_DEBUG_CONTROLS);
        if debug && groups.intersects(Dirty::CRDR) {
            vmcs02.write(Field::GUEST_DR7, get!(self.vmcs12, GUEST_DR7));
            merged.fields += 1;
        }
        if groups.intersects(Dirty::GUEST_GRP1) {
            if debug {
                vmcs02.write(Field::GUEST_DEBUGCTL, get!(self.vmcs12, GUEST_DEBUGCTL));
                merged.fields += 1;
            }
            if entry.contains(EntryControls::LOAD_PAT) {
                vmcs02.write(Field::GUEST_PAT, get!(self.vmcs12, GUEST_PAT));
                merged.fields += 1;
            }
            if entry.contains(EntryControls::LOAD_EFER) {
                vmcs02.write(Field::GUEST_EFER, get!(self.vmcs12, GUEST_EFER));
                merged.fields += 1;
            }
        }
        if entry.contains(LOADS) {
            return;
        }
        if !entry.contains(EntryControls::LOAD_EFER) {
            let efer = efer_without_load(
                carry.efer,
                entry.contains(EntryControls::IA32E_MODE_GUEST),
                get!(self.vmcs12, GUEST_CR0),
            );
            vmcs02.write(Field::GUEST_EFER, efer);
            merged.fields += 1;
        }
        if !entry.contains(EntryControls::LOAD_PAT) {
            vmcs02.write(Field::GUEST_PAT, carry.pat);
            merged.fields += 1;
        }
        if !entry.contains(EntryControls::LOAD_DEBUG_CONTROLS) {
            vmcs02.write(Field::GUEST_DEBUGCTL, carry.debugctl);
            vmcs02.write(Field::GUEST_DR7, carry.dr7);
            merged.fields += 2;
        }
    }

    /// EFER and PAT of L2, which an exit without the load controls leaves in place.
    #[inline(always)]
    pub(crate) fn carry_out<V: Vmcs>(&mut self, vmcs02: &V) {
        let exit = self.exit_controls();
        if !exit.contains(ExitControls::LOAD_EFER.union(ExitControls::LOAD_PAT)) {
            self.left = Some(Carry {
                efer: vmcs02.read(Field::GUEST_EFER),
                pat: vmcs02.read(Field::GUEST_PAT),
                ..Carry::default()
            });
        }
    }
}

/// EFER in L2 when VM entry does not load it (SDM 27.3.2.1): LMA and, with
/// paging, LME follow the IA-32e-mode-guest control; the rest is L1's.
#[inline(always)]
const fn efer_without_load(efer: u64, ia32e: bool, cr0: u64) -> u64 {
    if ia32e {
        efer | EFER_LMA | EFER_LME
    } else if cr0 & CR0_PG != 0 {
        efer & !(EFER_LMA | EFER_LME)
    } else {
        efer & !EFER_LMA
    }
}

#[cfg(test)]
mod tests;
