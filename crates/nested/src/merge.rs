//! VM entry, second half: what changed in VMCS 12 goes to VMCS 02.
//!
//! Group by group, so that an entry with everything clean writes RIP and
//! little else. Control words are L0's and L1's together; guest state is
//! L1's as it stands.

use addr::Gpa1;
use vmx::{
    ActivityState, EntryControls, Field, InterruptionInfo, PinControls, PrimaryControls,
    SecondaryControls,
};

use crate::access::{Memory, Vmcs};
use crate::carry::Carry;
use crate::cr;
use crate::policy::L0Policy;
use crate::state::Nested;
use crate::vmcs12::*;
use crate::{Dirty, Vmcs12};

/// Primary controls of L1 that go to VMCS 02 as they are.
const PRIMARY_FROM_L1: PrimaryControls = crate::caps::PRIMARY
    .difference(PrimaryControls::USE_TSC_OFFSETTING)
    .difference(PrimaryControls::UNCONDITIONAL_IO_EXITING)
    .difference(PrimaryControls::USE_IO_BITMAPS)
    .difference(PrimaryControls::ACTIVATE_SECONDARY);

/// Secondary controls of L1 that go to VMCS 02 as they are. EPT and VPID are
/// on whatever L1 wants.
const SECONDARY_FROM_L1: SecondaryControls = crate::caps::SECONDARY
    .difference(SecondaryControls::ENABLE_EPT)
    .difference(SecondaryControls::ENABLE_VPID);

/// Primary controls on which more depends than their own bit of VMCS 02.
pub(crate) const PRIMARY_STRUCTURE: PrimaryControls = PrimaryControls::USE_TSC_OFFSETTING
    .union(PrimaryControls::USE_TPR_SHADOW)
    .union(PrimaryControls::USE_IO_BITMAPS)
    .union(PrimaryControls::USE_MSR_BITMAPS)
    .union(PrimaryControls::ACTIVATE_SECONDARY);

/// Groups that a hypervisor hardly touches between two runs of its guest.
const RARE: Dirty = Dirty::CONTROL_EXCPN
    .union(Dirty::UNGROUPED)
    .union(Dirty::CONTROL_ENTRY)
    .union(Dirty::GUEST_GRP1)
    .union(Dirty::GUEST_GRP2);

/// What an entry changed, and what is left for the image to do before it
/// enters VMCS 02.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Merged {
    /// The groups that were carried over.
    pub groups: Dirty,
    /// How many fields of VMCS 02 were written.
    pub fields: u32,
    /// EPT pointer 12 or its use may have changed: see [`Nested::ept_pointer`].
    pub ept: bool,
    /// The MSR bitmap 02 must be merged again from [`Nested::msr_bitmap`].
    pub msr_bitmap: bool,
    /// L2's linear translations must go: VPID 02 now stands for another VPID
    /// of L1, or L1 uses none.
    pub flush_vpid: bool,
    /// No multiplier gives L2's TSC: L0 is to answer L2's reads of it.
    pub tsc_out_of_reach: bool,
    /// L1 enters L2 halted, and nothing ends that at once: the VP waits in L0.
    pub halt: bool,
}

impl Nested {
    /// Carries what changed to VMCS 02, which is current in `vmcs02`, and
    /// counts the VP as in L2. Call after a successful `prepare`.
    ///
    /// Inlined whoever else calls it: a plain L1 comes here at each entry.
    #[inline(always)]
    pub fn merge<V: Vmcs, M: Memory>(
        &mut self,
        vmcs02: &mut V,
        policy: &L0Policy,
        carry: &Carry,
        memory: &M,
    ) -> Merged {
        let groups = core::mem::take(&mut self.pending);
        let mut merged = Merged {
            groups,
            fields: 1,
            ept: false,
            msr_bitmap: !self.has_msr_bitmap_enlightenment(),
            flush_vpid: self.last_vpid == Some(0),
            tsc_out_of_reach: false,
            halt: false,
        };
        vmcs02.write(Field::GUEST_RIP, get!(self.vmcs12, GUEST_RIP));
        let primary = self.primary_controls();
        if primary.contains(PrimaryControls::USE_TPR_SHADOW) {
            vmcs02.write(Field::TPR_THRESHOLD, get!(self.vmcs12, TPR_THRESHOLD));
            merged.fields += 1;
        }
        if !primary.contains(PrimaryControls::USE_MSR_BITMAPS) {
            merged.msr_bitmap = false;
        }
        if !groups.is_empty() {
            self.merge_groups(vmcs02, policy, memory, groups, &mut merged);
        }
        merged.tsc_out_of_reach = self.tsc_out_of_reach;
        self.merge_carried(vmcs02, groups, carry, &mut merged);
        self.find_steady();
        self.in_l2 = true;
        merged
    }

    /// Out of line: an entry with everything clean saves no registers for it.
    #[inline(never)]
    fn merge_groups<V: Vmcs, M: Memory>(
        &mut self,
        vmcs02: &mut V,
        policy: &L0Policy,
        memory: &M,
        groups: Dirty,
        merged: &mut Merged,
    ) {
        let dirty = |group: Dirty| groups.intersects(group);

        if dirty(Dirty::GUEST_BASIC) {
            merged.fields += merge_guest_basic(&self.vmcs12, vmcs02);
        }
        if dirty(Dirty::CONTROL_EVENT) {
            merged.fields += merge_event(&self.vmcs12, vmcs02);
        }
        let structure = dirty(Dirty::CONTROL_GRP1) || self.primary_structure_changed();
        if structure {
            self.merge_execution_controls(vmcs02, policy, merged);
        } else if dirty(Dirty::CONTROL_PROC) {
            merged.fields += self.merge_primary_controls(vmcs02, policy);
        }
        if structure || dirty(Dirty::CONTROL_GRP2) {
            self.merge_control_grp2(vmcs02, policy, memory, merged);
        }
        if dirty(RARE) {
            self.merge_rare_groups(vmcs02, policy, groups, merged);
        }
        if dirty(Dirty::CRDR) {
            self.merge_control_registers(vmcs02, policy, merged);
        }
        if self.l2_halted {
            self.l2_halted = self.stays_halted();
            merged.halt = self.l2_halted;
        }
        if structure || dirty(Dirty::CONTROL_XLAT) {
            merged.ept = true;
            let vpid = self.vpid().unwrap_or(0);
            merged.flush_vpid = vpid == 0 || self.last_vpid != Some(vpid);
            self.last_vpid = Some(vpid);
        }
        if structure || dirty(Dirty::MSR_BITMAP) {
            let primary = self.primary_controls();
            merged.msr_bitmap = primary.contains(PrimaryControls::USE_MSR_BITMAPS);
        }
    }

    /// Whether primary controls changed on which other fields of VMCS 02
    /// depend. Linux asks for interrupt windows all the time; that must not
    /// cost a merge of bitmaps.
    #[inline(always)]
    pub(crate) fn primary_structure_changed(&self) -> bool {
        match self.primary_in_02 {
            Some(before) => (before ^ self.primary_controls()).intersects(PRIMARY_STRUCTURE),
            None => true,
        }
    }

    fn merge_rare_groups<V: Vmcs>(
        &mut self,
        vmcs02: &mut V,
        policy: &L0Policy,
        groups: Dirty,
        merged: &mut Merged,
    ) {
        macro_rules! transfer {
            (; $($field:ident),*) => {
                $(
                    vmcs02.write(Field::$field, get!(self.vmcs12, $field));
                    merged.fields += 1;
                )*
            };
        }
        let dirty = |group: Dirty| groups.intersects(group);
        if dirty(Dirty::CONTROL_EXCPN.union(Dirty::UNGROUPED)) {
            merge_exceptions(&self.vmcs12, vmcs02, policy, merged);
        }
        if dirty(Dirty::CONTROL_ENTRY) {
            let ia32e = self.entry_controls() & EntryControls::IA32E_MODE_GUEST;
            vmcs02.write(Field::ENTRY_CONTROLS, (policy.entry | ia32e).bits().into());
            merged.fields += 1;
        }
        if dirty(Dirty::GUEST_GRP1) {
            transfer!(; GUEST_PENDING_DEBUG_EXCEPTIONS, GUEST_SYSENTER_CS, GUEST_SYSENTER_ESP,
                GUEST_SYSENTER_EIP, GUEST_PDPTE0, GUEST_PDPTE1, GUEST_PDPTE2, GUEST_PDPTE3);
            let state = get!(self.vmcs12, GUEST_ACTIVITY_STATE) as u32;
            self.l2_halted = state == ActivityState::Hlt as u32;
            let hardware = if self.l2_halted { 0 } else { state };
            vmcs02.write(Field::GUEST_ACTIVITY_STATE, hardware.into());
            merged.fields += 1;
        }
        if dirty(Dirty::GUEST_GRP2) {
            for_guest_grp2!(transfer!());
        }
    }

    /// Pin-based, primary and secondary controls.
    fn merge_execution_controls<V: Vmcs>(
        &mut self,
        vmcs02: &mut V,
        policy: &L0Policy,
        merged: &mut Merged,
    ) {
        let pin = get!(self.vmcs12, PIN_BASED_CONTROLS) as u32;
        let pin = PinControls::from_bits_retain(pin) & crate::caps::PIN | policy.pin;
        vmcs02.write(Field::PIN_BASED_CONTROLS, pin.bits().into());

        merged.fields += self.merge_primary_controls(vmcs02, policy);
        let secondary = self.secondary_controls() & SECONDARY_FROM_L1 | policy.secondary;
        vmcs02.write(Field::SECONDARY_CONTROLS, secondary.bits().into());
        vmcs02.write(Field::MSR_BITMAP, policy.msr_bitmap.raw());
        merged.fields += 3;
    }

    pub(crate) fn merge_primary_controls<V: Vmcs>(
        &mut self,
        vmcs02: &mut V,
        policy: &L0Policy,
    ) -> u32 {
        let primary12 = self.primary_controls();
        let mut primary = primary12 & PRIMARY_FROM_L1 | policy.primary;
        // L1's ports are L0's emulation, whatever L1's bitmaps permit.
        primary |= PrimaryControls::UNCONDITIONAL_IO_EXITING;
        primary.remove(PrimaryControls::USE_IO_BITMAPS);
        if !primary12.contains(PrimaryControls::USE_TPR_SHADOW) {
            // Without a TPR of its own L2's CR8 is L1's, and L1's is L0's.
            primary |= PrimaryControls::CR8_LOAD_EXITING | PrimaryControls::CR8_STORE_EXITING;
        }
        vmcs02.write(Field::PRIMARY_CONTROLS, primary.bits().into());
        self.primary_in_02 = Some(primary12);
        1
    }

    fn merge_control_grp2<V: Vmcs, M: Memory>(
        &mut self,
        vmcs02: &mut V,
        policy: &L0Policy,
        memory: &M,
        merged: &mut Merged,
    ) {
        let primary = self.primary_controls();
        let (fields, is_out_of_reach) = self.merge_tsc(vmcs02, policy);
        self.tsc_out_of_reach = is_out_of_reach;
        merged.fields += fields;
        if primary.contains(PrimaryControls::USE_TPR_SHADOW) {
            let page = Gpa1::new(get!(self.vmcs12, VIRTUAL_APIC_ADDRESS));
            // The checks found a page there; L1 cannot take it away.
            if let Some(page) = memory.machine_page(page) {
                vmcs02.write(Field::VIRTUAL_APIC_ADDRESS, page.raw());
                merged.fields += 1;
            }
        }
        if self
            .secondary_controls()
            .contains(SecondaryControls::ENABLE_XSAVES)
        {
            vmcs02.write(
                Field::XSS_EXITING_BITMAP,
                get!(self.vmcs12, XSS_EXITING_BITMAP),
            );
            merged.fields += 1;
        }
    }

    fn merge_control_registers<V: Vmcs>(
        &mut self,
        vmcs02: &mut V,
        policy: &L0Policy,
        merged: &mut Merged,
    ) {
        let mask0 = get!(self.vmcs12, CR0_GUEST_HOST_MASK);
        let mask4 = get!(self.vmcs12, CR4_GUEST_HOST_MASK);
        let guest0 = get!(self.vmcs12, GUEST_CR0);
        let guest4 = get!(self.vmcs12, GUEST_CR4);
        let shadow0 = cr::shadow02(guest0, mask0, get!(self.vmcs12, CR0_READ_SHADOW));
        let shadow4 = cr::shadow02(guest4, mask4, get!(self.vmcs12, CR4_READ_SHADOW));
        self.cr0_l0_only = policy.cr0_mask & !mask0;
        self.cr4_l0_only = policy.cr4_mask & !mask4;
        vmcs02.write(Field::CR0_GUEST_HOST_MASK, mask0 | policy.cr0_mask);
        vmcs02.write(Field::CR4_GUEST_HOST_MASK, mask4 | policy.cr4_mask);
        vmcs02.write(Field::CR0_READ_SHADOW, shadow0);
        vmcs02.write(Field::CR4_READ_SHADOW, shadow4);
        vmcs02.write(Field::GUEST_CR0, guest0);
        vmcs02.write(Field::GUEST_CR3, get!(self.vmcs12, GUEST_CR3));
        vmcs02.write(Field::GUEST_CR4, guest4);
        merged.fields += 7;
        if let Some([pdpte0, pdpte1, pdpte2, pdpte3]) = self.pdptes {
            vmcs02.write(Field::GUEST_PDPTE0, pdpte0);
            vmcs02.write(Field::GUEST_PDPTE1, pdpte1);
            vmcs02.write(Field::GUEST_PDPTE2, pdpte2);
            vmcs02.write(Field::GUEST_PDPTE3, pdpte3);
            merged.fields += 4;
        }
    }
}

/// L2's stack pointer, flags and what blocks events. How many fields that is.
pub(crate) fn merge_guest_basic<V: Vmcs>(vmcs12: &Vmcs12, vmcs02: &mut V) -> u32 {
    macro_rules! transfer {
        (; $($field:ident),*) => {{
            $(vmcs02.write(Field::$field, get!(*vmcs12, $field));)*
            [$(Field::$field),*].len() as u32
        }};
    }
    for_guest_basic!(transfer!())
}

/// The event that L1 injects. How many fields that is.
pub(crate) fn merge_event<V: Vmcs>(vmcs12: &Vmcs12, vmcs02: &mut V) -> u32 {
    let info = InterruptionInfo::from_raw(get!(*vmcs12, ENTRY_INTERRUPTION_INFO) as u32);
    vmcs02.write(Field::ENTRY_INTERRUPTION_INFO, info.raw().into());
    let mut fields = 1;
    if info.has_error_code() {
        let code = get!(*vmcs12, ENTRY_EXCEPTION_ERROR_CODE);
        vmcs02.write(Field::ENTRY_EXCEPTION_ERROR_CODE, code);
        fields += 1;
    }
    if info.event_type().is_software() {
        let length = get!(*vmcs12, ENTRY_INSTRUCTION_LENGTH);
        vmcs02.write(Field::ENTRY_INSTRUCTION_LENGTH, length);
        fields += 1;
    }
    fields
}

/// Exception bitmap and page-fault error codes: what either level wants.
fn merge_exceptions<V: Vmcs>(
    vmcs12: &Vmcs12,
    vmcs02: &mut V,
    policy: &L0Policy,
    merged: &mut Merged,
) {
    const PAGE_FAULT: u32 = 1 << 14;
    let mut bitmap = get!(*vmcs12, EXCEPTION_BITMAP) as u32 | policy.exception_bitmap;
    let (mask, matching) = if policy.exception_bitmap & PAGE_FAULT == 0 {
        (
            get!(*vmcs12, PAGE_FAULT_ERROR_CODE_MASK),
            get!(*vmcs12, PAGE_FAULT_ERROR_CODE_MATCH),
        )
    } else {
        bitmap |= PAGE_FAULT;
        (0, 0)
    };
    vmcs02.write(Field::EXCEPTION_BITMAP, bitmap.into());
    vmcs02.write(Field::PAGE_FAULT_ERROR_CODE_MASK, mask);
    vmcs02.write(Field::PAGE_FAULT_ERROR_CODE_MATCH, matching);
    merged.fields += 3;
}

#[cfg(test)]
mod tests;
