//! The clean-field auditor: whether L1 keeps the promise that a clean bit is.
//!
//! A set bit says that L1 changed no field of the group since the last entry,
//! so L0 goes on with what it has. An L1 that changes a field and forgets the
//! bit runs its L2 with an old value, now and then, somewhere else: no error
//! tells it so. The auditor keeps what L1 declared last, and what L0 wrote
//! since, and finds the fields that differ where nothing should.
//!
//! It looks at the page alone and changes nothing of how L0 enters: whether L0
//! happens to read a group that was declared clean makes no difference here.

use addr::Gpa1;
use tlfs::evmcs::{self, CleanFields, EnlightenmentsControl, Group, Slot, TABLE};
use vmx::{Field, PrimaryControls};

use crate::access::Page;
use crate::bitmap_page::BitmapPage;
use crate::entry::has_known_revision;
use crate::msr_bitmap::WORDS;
use crate::vmcs12::{get, load};
use crate::{Nested, Vmcs12};

mod places;
pub use places::Places;

/// What of an enlightened VMCS is out of step with its clean bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A field.
    Field(Slot),
    /// Eight bytes of the MSR bitmap, at this offset: with the enlightened MSR
    /// bitmap its clean bit covers the contents.
    MsrBitmap(u16),
}

impl Subject {
    /// The TLFS's name of the field.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Field(slot) => slot.name,
            Self::MsrBitmap(_) => "MsrBitmap (contents)",
        }
    }

    /// The group whose clean bit should have been clear.
    pub fn group(&self) -> Group {
        match self {
            Self::Field(slot) => slot.group,
            Self::MsrBitmap(_) => Group::MsrBitmap,
        }
    }

    /// Byte offset of what changed, in the enlightened VMCS or in the bitmap.
    pub fn offset(&self) -> u16 {
        match self {
            Self::Field(slot) => slot.offset,
            Self::MsrBitmap(offset) => *offset,
        }
    }
}

/// A field that L1 changed although it declares its group clean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stale {
    /// What changed.
    pub subject: Subject,
    /// Its value when L1 last declared it, or as the last exit left it: what
    /// L0 may go on with.
    pub known: u64,
    /// What L1's page holds now.
    pub found: u64,
}

/// What the auditor knows of the enlightened VMCS that a VP uses.
#[derive(Clone, Debug)]
pub struct Auditor {
    /// Whose fields are `known`; `None` before the first entry.
    at: Option<Gpa1>,
    /// Fields as L1 declared them and as exits left them.
    known: Vmcs12,
    /// The words of the MSR bitmap as L1 declared them, where `has_bitmap`.
    bitmap: [u64; WORDS],
    has_bitmap: bool,
}

impl Auditor {
    /// For a VP that has entered no enlightened VMCS.
    pub const fn new() -> Self {
        Self {
            at: None,
            known: Vmcs12::new(),
            bitmap: [0; WORDS],
            has_bitmap: false,
        }
    }

    /// Looks at the enlightened VMCS at `at`, mapped as `page`, that L1 asks to
    /// enter, before `nested` takes it up, and calls `report` for all that is
    /// stale. `map` gives the page of L1's memory at an address, if there is
    /// one.
    pub fn look<P: Page, B: BitmapPage>(
        &mut self,
        nested: &Nested,
        at: Gpa1,
        is_launch: bool,
        page: &P,
        map: impl FnOnce(Gpa1) -> Option<B>,
        mut report: impl FnMut(Stale),
    ) {
        if !has_known_revision(page) {
            return;
        }
        let mut clean = CleanFields::from_raw(page.read_u32(evmcs::CLEAN_FIELDS));
        if self.at != Some(at) || nested.starts_over(at, is_launch) {
            self.at = Some(at);
            clean = CleanFields::NONE;
        }
        for slot in TABLE {
            let found = load(page, slot);
            let known = load(&self.known, slot);
            if !is_declared_clean(slot.group, clean) {
                store(&mut self.known, slot, found);
            } else if found != known {
                report(Stale {
                    subject: Subject::Field(*slot),
                    known,
                    found,
                });
            }
        }
        self.look_at_bitmap(page, map, clean, report);
    }

    /// Takes over what the end of an entry, an exit of L2 or a failure, left in
    /// the page, before L1 can change it.
    pub fn follow<P: Page>(&mut self, page: &P) {
        for slot in TABLE.iter().filter(|slot| is_saved(slot)) {
            store(&mut self.known, slot, load(page, slot));
        }
    }

    fn look_at_bitmap<P: Page, B: BitmapPage>(
        &mut self,
        page: &P,
        map: impl FnOnce(Gpa1) -> Option<B>,
        clean: CleanFields,
        mut report: impl FnMut(Stale),
    ) {
        let control = EnlightenmentsControl::from_raw(page.read_u32(evmcs::ENLIGHTENMENTS_CONTROL));
        let primary = PrimaryControls::from_bits_retain(get!(self.known, PRIMARY_CONTROLS) as u32);
        if !control.msr_bitmap() || !primary.contains(PrimaryControls::USE_MSR_BITMAPS) {
            // L0 looks at the bitmap at each entry, or at none.
            self.has_bitmap = false;
            return;
        }
        let Some(bitmap) = map(Gpa1::new(get!(self.known, MSR_BITMAP))) else {
            self.has_bitmap = false;
            return;
        };
        let is_declared = self.has_bitmap && is_declared_clean(Group::MsrBitmap, clean);
        self.has_bitmap = true;
        let mut has_reported = false;
        for (index, known) in self.bitmap.iter_mut().enumerate() {
            let found = bitmap.word(index);
            if !is_declared {
                *known = found;
            } else if found != *known && !has_reported {
                // One MSR's bits lie apart, and each is the same mistake.
                has_reported = true;
                report(Stale {
                    subject: Subject::MsrBitmap(8 * index as u16),
                    known: *known,
                    found,
                });
            }
        }
    }
}

impl Default for Auditor {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether L1 says of a group that nothing changed.
///
/// The fields of no group count as clean when all bits are set: L0 reads them
/// with any other. RIP and the TPR threshold are read on every entry, and so
/// are the words under bit 15, which Linux never clears. Exit information is
/// L0's to write; what L1 makes of its copy is its own affair.
fn is_declared_clean(group: Group, clean: CleanFields) -> bool {
    match group {
        Group::Always | Group::ExitInfo | Group::EnlightenmentsControl => false,
        Group::Ungrouped => clean.contains(CleanFields::ALL),
        _ => clean.contains(group.clean_bit()),
    }
}

/// Whether an exit may write a field of the page that L1 writes too.
fn is_saved(slot: &Slot) -> bool {
    let field = Field::from_encoding(slot.encoding);
    match slot.group {
        Group::GuestBasic | Group::GuestGrp2 => true,
        Group::GuestGrp1 => field != Field::VMCS_LINK_POINTER,
        Group::Crdr => matches!(
            field,
            Field::GUEST_CR0 | Field::GUEST_CR3 | Field::GUEST_CR4 | Field::GUEST_DR7
        ),
        _ => field == Field::ENTRY_CONTROLS || field == Field::ENTRY_INTERRUPTION_INFO,
    }
}

/// Writes the field in `slot` to a page.
fn store<P: Page>(page: &mut P, slot: &Slot, value: u64) {
    match slot.width {
        evmcs::Width::U16 => page.write_u16(slot.offset, value as u16),
        evmcs::Width::U32 => page.write_u32(slot.offset, value as u32),
        evmcs::Width::U64 => page.write_u64(slot.offset, value),
    }
}

#[cfg(test)]
mod tests;
