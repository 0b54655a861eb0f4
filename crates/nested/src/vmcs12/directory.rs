//! From the encoding in a register of L1 to the field's place in the page.

use core::num::NonZeroU32;

use tlfs::evmcs::{self, CleanFields, Slot};
use vmx::{Field, Kind};

use super::{EXTENSION, is_withheld};
use crate::shadow_vmcs;

/// Where a field lies and what a store to it does, in one word: a trapped
/// VMREAD or VMWRITE needs nothing else.
///
/// Offset in bits 10:0, how much narrower than eight bytes the field is (in
/// units of 16 bits) in 12:11, whether VMWRITE may store to it in 13, whether
/// it is an access-rights field in 14, whether it is shadowed in 15, the clean
/// bits that a store clears in 31:16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Place(NonZeroU32);

const OFFSET: u32 = 0x7fe;
const WRITABLE: u32 = 1 << 13;
const ACCESS_RIGHTS: u32 = 1 << 14;
const SHADOWED: u32 = 1 << 15;

impl Place {
    /// The place of the (whole) field in `slot`.
    pub(crate) const fn of(slot: &Slot) -> Self {
        let field = Field::from_encoding(slot.encoding);
        let encoding = slot.encoding;
        let is_rights = encoding >= Field::GUEST_ES_ACCESS_RIGHTS.encoding()
            && encoding <= Field::GUEST_TR_ACCESS_RIGHTS.encoding();
        let mut word = slot.offset as u32 | ((8 - slot.width.bytes() as u32) / 2) << 11;
        if is_writable(field) {
            word |= WRITABLE;
        }
        if is_rights {
            word |= ACCESS_RIGHTS;
        }
        if shadow_vmcs::is_shadowed(encoding) {
            word |= SHADOWED;
        }
        word |= slot.group.dirtied().raw() << 16;
        match NonZeroU32::new(word) {
            Some(word) => Self(word),
            None => panic!("no field lies at offset 0"),
        }
    }

    /// The place of the field with encoding `raw`, as long as a register;
    /// `None` for upper halves and where a processor with hynest's
    /// capabilities has no field.
    #[inline(always)]
    pub fn find(raw: u64) -> Option<Self> {
        if raw & !ENCODINGS != 0 {
            return None;
        }
        NonZeroU32::new(DIRECTORY[key(raw)]).map(Self)
    }

    /// Offset in the page; the eight bytes from there on lie in it too.
    #[inline(always)]
    pub const fn offset(self) -> u16 {
        (self.0.get() & OFFSET) as u16
    }

    /// The bits of the eight bytes at the offset that are the field's.
    #[inline(always)]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (self.0.get() >> 7 & 0x30)
    }

    /// Whether VMWRITE may store to the field.
    #[inline(always)]
    pub const fn is_writable(self) -> bool {
        self.0.get() & WRITABLE != 0
    }

    /// Whether the field is a guest segment's access rights, which keep their
    /// defined bits only.
    #[inline(always)]
    pub const fn is_access_rights(self) -> bool {
        self.0.get() & ACCESS_RIGHTS != 0
    }

    /// Whether the shadow VMCS has the field, where there is one.
    #[inline(always)]
    pub const fn is_shadowed(self) -> bool {
        self.0.get() & SHADOWED != 0
    }

    /// The clean bits that a store to the field clears.
    #[inline(always)]
    pub const fn dirtied(self) -> CleanFields {
        CleanFields::from_raw(self.0.get() >> 16)
    }
}

/// Whether VMWRITE may store to the field.
#[inline]
pub const fn is_writable(field: Field) -> bool {
    !matches!(field.kind(), Kind::ExitInfo)
}

/// Where L1 finds the (whole) field of an encoding that may name its upper
/// half; `None` when a processor with hynest's capabilities has no such field.
pub fn offered(field: Field) -> Option<Place> {
    if field.is_malformed() {
        return None;
    }
    Place::find(field.full().encoding().into())
}

/// Bits that encodings of whole fields have, as far as [`DIRECTORY`] goes:
/// width in 14:13, kind in 11:10, 32 indexes in 5:1.
const ENCODINGS: u64 = 0x6c3e;

/// The index in 4:0, kind and width above; close enough for a table.
#[inline(always)]
const fn key(raw: u64) -> usize {
    (raw >> 1 & 0x1f | raw >> 5 & 0x360) as usize
}

/// The words of [`Place`], 0 where there is no field.
static DIRECTORY: [u32; 0x380] = directory();

const fn directory() -> [u32; 0x380] {
    let mut table = [0; 0x380];
    let mut n = 0;
    while n < evmcs::TABLE.len() + EXTENSION.len() {
        let slot = if n < evmcs::TABLE.len() {
            &evmcs::TABLE[n]
        } else {
            &EXTENSION[n - evmcs::TABLE.len()]
        };
        assert!(slot.encoding as u64 & !ENCODINGS == 0);
        assert!(slot.offset as u32 & !OFFSET == 0);
        if !is_withheld(Field::from_encoding(slot.encoding)) {
            let at = &mut table[key(slot.encoding as u64)];
            assert!(*at == 0);
            *at = Place::of(slot).0.get();
        }
        n += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    #[test]
    fn the_directory_finds_exactly_the_offered_fields() {
        for encoding in 0..0x1_0000 {
            let field = Field::from_encoding(encoding);
            let expected = find(field.full().encoding())
                .filter(|_| !field.is_malformed() && !is_withheld(field.full()))
                .map(|slot| Place::of(&slot));
            assert_eq!(offered(field), expected, "{field:?}");
            let whole = expected.filter(|_| !field.is_high());
            assert_eq!(Place::find(encoding.into()), whole, "{field:?}");
        }
        for beyond in 16..64 {
            let raw = 1 << beyond | u64::from(Field::GUEST_RIP.encoding());
            assert_eq!(Place::find(raw), None);
        }
    }

    #[test]
    fn a_place_says_what_its_slot_says() {
        for slot in evmcs::TABLE.iter().chain(EXTENSION) {
            let place = Place::of(slot);
            assert_eq!(place.offset(), slot.offset);
            assert_eq!(place.mask().count_ones(), u32::from(slot.width.bytes()) * 8);
            assert_eq!(place.mask() & 1, 1);
            assert_eq!(place.dirtied(), slot.group.dirtied());
            let field = Field::from_encoding(slot.encoding);
            assert_eq!(place.is_writable(), field.kind() != Kind::ExitInfo);
            let name = field.name().unwrap();
            let is_rights = name.ends_with("_ACCESS_RIGHTS");
            assert_eq!(place.is_access_rights(), is_rights, "{name}");
        }
    }

    #[test]
    fn vmcs_enum_counts_the_highest_index() {
        let highest = (0..0x1_0000)
            .map(Field::from_encoding)
            .filter(|f| offered(*f).is_some())
            .map(Field::index)
            .max();
        assert_eq!(highest, Some(crate::vmcs12::HIGHEST_INDEX));
    }
}
