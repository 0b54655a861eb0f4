//! Hardware VMCS shadowing (SDM Vol. 3, 25.10): fields of a plain VMCS 12 that
//! L1 reads and writes without an exit.
//!
//! While a plain VMCS is current, VMCS 01 names a shadow VMCS, and L1's
//! VMREADs and VMWRITEs of the fields in [`FIELDS`] end there. The copy of
//! VMCS 12 stays what entries and exits work on: what L1 may have written is
//! collected when it asks for an entry ([`Nested::collect`]) and before the
//! copy goes back to L1's memory; what an exit changes is published before L1
//! goes on ([`Nested::publish_exit`]). A field that is collected dirties its
//! group only if it changed, as in an enlightened VMCS.
//!
//! Fields that L1 reads often and hardly ever writes are open to VMREAD alone:
//! they need no collecting, and a VMWRITE of one exits and is mirrored.

use vmx::Field;

use crate::access::Vmcs;
use crate::insn::L1Vp;
use crate::state::{Current, Nested};
use crate::vmcs12::{Vmcs12, get, place, put};

/// A field that is shadowed.
#[derive(Clone, Copy, Debug)]
pub struct Shadowed {
    /// The field.
    pub field: Field,
    /// VMWRITE goes to the shadow VMCS too, not VMREAD alone.
    pub is_written: bool,
    /// Exits to L1 change it.
    pub is_published: bool,
    /// What makes it worth the instructions at each entry or exit, for KVM.
    pub why: &'static str,
}

macro_rules! fields {
    ($dollar:tt $($list:ident: written $written:literal, published $published:literal {
        $($field:ident: $why:literal,)*
    })*) => {
        /// What is shadowed.
        ///
        /// An entry pays four instructions for a written field, an exit two
        /// for a published one; a VMREAD or VMWRITE that exits costs some two
        /// hundred. So a field belongs here that KVM touches in a few of a
        /// hundred exits. The shares in the reasons are those of Linux 6.1 as
        /// L1 over all operations that `cargo hynest run` measures.
        pub const FIELDS: &[Shadowed] = &[$($(Shadowed {
            field: Field::$field,
            is_written: $written,
            is_published: $published,
            why: $why,
        },)*)*];

        $(
            macro_rules! $list {
                ($dollar apply:ident!()) => {
                    $dollar apply!($($field),*)
                };
            }
        )*
    };
}

fields! { $
    for_exchanged: written true, published true {
        GUEST_RIP: "77 %: read and moved on for every instruction that KVM emulates",
        GUEST_INTERRUPTIBILITY: "read always, written in 5 %: ends with an emulated instruction",
        GUEST_RFLAGS: "read in 83 %, for single-stepping; written in 6 %",
        ENTRY_INTERRUPTION_INFO: "11 %: interrupts for L2",
    }

    for_orders: written true, published false {
        HOST_RSP: "22 %: runs from other depths of L1's stack",
        PRIMARY_CONTROLS: "11 %: interrupt windows, opened and closed",
        TPR_THRESHOLD: "27 %: whenever L2's local APIC has news",
    }

    for_findings: written false, published true {
        EXIT_REASON: "always",
        IDT_VECTORING_INFO: "always",
        EXIT_INTERRUPTION_INFO: "every interrupt and exception that ends a run",
        EXIT_QUALIFICATION: "28 %: ports, control registers, EPT violations",
        EXIT_INSTRUCTION_LENGTH: "72 %: emulated instructions",
        GUEST_PHYSICAL_ADDRESS: "22 %: EPT violations and misconfigurations",
        GUEST_CS_ACCESS_RIGHTS: "28 %: the mode of a hypercall or of what is decoded",
        GUEST_SS_ACCESS_RIGHTS: "17 %: the privilege level",
        GUEST_CR0: "5 %: decoding",
        GUEST_CR3: "5 %: decoding",
        GUEST_CR4: "5 %: decoding",
    }
}

/// Whether the field with this encoding is shadowed.
pub(crate) const fn is_shadowed(encoding: u32) -> bool {
    let mut n = 0;
    while n < FIELDS.len() {
        if FIELDS[n].field.encoding() == encoding {
            return true;
        }
        n += 1;
    }
    false
}

/// A bitmap of encodings whose VMREAD or VMWRITE exits: a page for VMCS 01.
pub type ExitBitmap = [u64; 512];

/// The VMREAD bitmap.
pub static VMREAD_BITMAP: ExitBitmap = bitmap(false);
/// The VMWRITE bitmap.
pub static VMWRITE_BITMAP: ExitBitmap = bitmap(true);

const fn bitmap(only_written: bool) -> ExitBitmap {
    let mut bitmap = [u64::MAX; 512];
    let mut n = 0;
    while n < FIELDS.len() {
        if FIELDS[n].is_written || !only_written {
            let encoding = FIELDS[n].field.encoding();
            bitmap[encoding as usize / 64] &= !(1 << (encoding % 64));
        }
        n += 1;
    }
    bitmap
}

/// A VP's shadow VMCS, where hardware shadows plain VMCSs for L1.
///
/// Hardware must allow VMWRITE to store to every field (IA32_VMX_MISC bit 29).
pub trait ShadowVmcs {
    /// The shadow VMCS while it is current.
    type Fields: Vmcs;

    /// Calls `access` with the shadow VMCS current. VMCS 01 is current before
    /// and after.
    fn access<R>(&mut self, access: impl FnOnce(&mut Self::Fields) -> R) -> R;

    /// From now on VMREADs and VMWRITEs that the bitmaps let through end in
    /// the shadow VMCS, or all of them exit. VMCS 01 is current.
    fn set_attached(&mut self, attached: bool);
}

impl Nested {
    /// Takes what L1 wrote to the shadow VMCS, which is current in `shadow`,
    /// into the copy. For the image, before [`Nested::prepare_plain`].
    #[inline(always)]
    pub fn collect<V: Vmcs>(&mut self, shadow: &V) {
        macro_rules! collect {
            ($($field:ident),*) => {
                $(
                    let value = shadow.read(Field::$field);
                    let group = const { place(Field::$field.encoding()).group };
                    // Fields of no clean group are taken up by every entry.
                    if group.dirtied().raw() == 0 {
                        put!(self.vmcs12, $field, value);
                    } else if value != get!(self.vmcs12, $field) {
                        put!(self.vmcs12, $field, value);
                        let clean = self.vmcs12.clean().without(group.dirtied());
                        self.vmcs12.set_clean(clean);
                    }
                )*
            };
        }
        for_exchanged!(collect!());
        for_orders!(collect!());
    }

    /// Stores what an exit to L1, or an entry that failed like one, changed
    /// to the shadow VMCS, which is current in `shadow`.
    #[inline(always)]
    pub fn publish_exit<V: Vmcs>(&self, shadow: &mut V) {
        macro_rules! publish {
            ($($field:ident),*) => {
                $(publish_field::<{ place(Field::$field.encoding()).offset }, _>(
                    &self.vmcs12,
                    shadow,
                    Field::$field,
                );)*
            };
        }
        for_findings!(publish!());
        for_exchanged!(publish!());
    }

    /// Stores everything: for a VMCS 12 that has just become current.
    fn publish_all<V: Vmcs>(&self, shadow: &mut V) {
        macro_rules! publish {
            ($($field:ident),*) => {
                $(shadow.write(Field::$field, get!(self.vmcs12, $field));)*
            };
        }
        for_orders!(publish!());
        self.publish_exit(shadow);
    }

    /// Lets hardware shadow the plain VMCS 12 that has become current.
    pub(crate) fn begin_shadowing<L: L1Vp>(&self, vp: &mut L) {
        if let Some(shadow) = vp.shadow_vmcs() {
            self.shadow_in(shadow);
        }
    }

    /// Lets hardware shadow what is current, where that is a plain VMCS 12: for a VP whose state was
    /// restored.
    pub fn resume_shadowing<S: ShadowVmcs>(&self, shadow: &mut S) {
        if let Current::Plain(_) = self.current {
            self.shadow_in(shadow);
        }
    }

    fn shadow_in<S: ShadowVmcs>(&self, shadow: &mut S) {
        shadow.access(|fields| self.publish_all(fields));
        shadow.set_attached(true);
    }

    /// Ends that: the copy is VMCS 12, whole, again.
    pub(crate) fn end_shadowing<L: L1Vp>(&mut self, vp: &mut L) {
        if let (Current::Plain(_), Some(shadow)) = (self.current, vp.shadow_vmcs()) {
            shadow.access(|fields| self.collect(fields));
            shadow.set_attached(false);
        }
    }

    /// A VMWRITE that exited has stored to a shadowed field.
    #[cold]
    #[inline(never)]
    pub(crate) fn mirror<L: L1Vp>(&self, vp: &mut L, field: Field, value: u64) {
        if let Some(shadow) = vp.shadow_vmcs() {
            shadow.access(|fields| fields.write(field, value));
        }
    }
}

/// One field of the copy, from `OFFSET`.
#[inline(always)]
fn publish_field<const OFFSET: u16, V: Vmcs>(copy: &Vmcs12, shadow: &mut V, field: Field) {
    shadow.write_from_page::<OFFSET>(field, copy.bytes());
}

#[cfg(test)]
mod tests;
