//! VMCS 12: where its fields lie, and L0's copy of it.
//!
//! One layout serves both front doors. The first 0x400 bytes are those of the
//! enlightened VMCS (TLFS), so an enlightened L1 writes the page itself; the
//! fields that version 1 of it cannot express follow from 0x400. Behind
//! VMPTRLD the region is L0's to lay out (SDM 25.2), so a plain L1 gets the
//! same page and L0 makes the stores on its behalf: a trapped VMWRITE stores
//! and clears the clean bit of the field's group.
//!
//! A region of a plain L1 is read whole at VMPTRLD and written back whole at
//! VMCLEAR, VMXOFF and the next VMPTRLD; in between only the copy counts. Its
//! launch state lies inside the page, at [`LAUNCH_STATE`], beyond everything
//! an enlightened VMCS uses, so that a VMCLEAR of such a page changes nothing
//! that its owner sees.

use tlfs::evmcs::{self, CleanFields, Group, Slot, Width};
use vmx::Field;

use crate::access::{Page, Vmcs};

mod directory;
mod groups;
pub use directory::{Place, is_writable, offered};
pub(crate) use groups::*;

/// The VMCS revision identifier hynest reports in IA32_VMX_BASIC. It names
/// the layout of this module and changes with it.
pub const REVISION: u32 = 0x4859_0001;

/// Bytes of a VMXON region or VMCS that IA32_VMX_BASIC asks for: a whole
/// page, because L1 zeroes as much of a new enlightened VMCS.
pub const SIZE: usize = 0x1000;

/// Offset of the launch state (u32): 0 clear, 1 launched.
pub const LAUNCH_STATE: u16 = 0x400;

/// Fields that a processor with hynest's capabilities has and version 1 of
/// the enlightened VMCS has not.
pub const EXTENSION: &[Slot] = &[
    Slot {
        encoding: Field::EXECUTIVE_VMCS_POINTER.encoding(),
        offset: 0x408,
        width: Width::U64,
        group: Group::Ungrouped,
        name: "ExecutiveVmcsPointer",
    },
    Slot {
        encoding: Field::GUEST_SMBASE.encoding(),
        offset: 0x410,
        width: Width::U32,
        group: Group::GuestGrp1,
        name: "GuestSmbase",
    },
];

/// Fields of the page that belong to controls hynest does not offer: for L1
/// they do not exist (VM-instruction error 12).
const NOT_OFFERED: &[Field] = &[
    Field::GUEST_BNDCFGS,
    Field::GUEST_PERF_GLOBAL_CTRL,
    Field::GUEST_S_CET,
    Field::GUEST_SSP,
    Field::GUEST_INTERRUPT_SSP_TABLE,
    Field::GUEST_LBR_CTL,
    Field::ENCLS_EXITING_BITMAP,
    Field::HOST_PERF_GLOBAL_CTRL,
    Field::HOST_S_CET,
    Field::HOST_SSP,
    Field::HOST_INTERRUPT_SSP_TABLE,
    Field::TERTIARY_CONTROLS,
];

/// Where a field lies, for constants: a field without a place does not compile.
///
/// # Panics
///
/// At compile time, when the page has no place for `encoding`.
pub const fn place(encoding: u32) -> Slot {
    match find(encoding) {
        Some(slot) => slot,
        None => panic!("the page has no place for this field"),
    }
}

const fn find(encoding: u32) -> Option<Slot> {
    if let Some(slot) = evmcs::slot(encoding) {
        return Some(slot);
    }
    let mut i = 0;
    while i < EXTENSION.len() {
        if EXTENSION[i].encoding == encoding {
            return Some(EXTENSION[i]);
        }
        i += 1;
    }
    None
}

/// The highest index of an offered field, for IA32_VMX_VMCS_ENUM.
pub const HIGHEST_INDEX: u32 = highest_index();

const fn highest_index() -> u32 {
    let mut highest = 0;
    let mut n = 0;
    while n < evmcs::TABLE.len() {
        let field = Field::from_encoding(evmcs::TABLE[n].encoding);
        if !is_withheld(field) && field.index() > highest {
            highest = field.index();
        }
        n += 1;
    }
    highest
}

const fn is_withheld(field: Field) -> bool {
    let mut i = 0;
    while i < NOT_OFFERED.len() {
        if NOT_OFFERED[i].encoding() == field.encoding() {
            return true;
        }
        i += 1;
    }
    false
}

/// Reads the field with encoding `E` from its place in `page`.
#[inline(always)]
pub fn read_field<const E: u32, P: Page + ?Sized>(page: &P) -> u64 {
    match const { place(E).width } {
        Width::U16 => page.read_u16(const { place(E).offset }).into(),
        Width::U32 => page.read_u32(const { place(E).offset }).into(),
        Width::U64 => page.read_u64(const { place(E).offset }),
    }
}

/// Writes the field with encoding `E` to its place in `page`.
#[inline(always)]
pub fn write_field<const E: u32, P: Page + ?Sized>(page: &mut P, value: u64) {
    match const { place(E).width } {
        Width::U16 => page.write_u16(const { place(E).offset }, value as u16),
        Width::U32 => page.write_u32(const { place(E).offset }, value as u32),
        Width::U64 => page.write_u64(const { place(E).offset }, value),
    }
}

/// `get!(page, NAME)`: the field `Field::NAME` of a page, as a `u64`.
macro_rules! get {
    ($page:expr, $field:ident) => {
        $crate::vmcs12::read_field::<{ ::vmx::Field::$field.encoding() }, _>(&$page)
    };
}
pub(crate) use get;

/// `put!(page, NAME, value)`: stores the field `Field::NAME` of a page.
macro_rules! put {
    ($page:expr, $field:ident, $value:expr) => {
        $crate::vmcs12::write_field::<{ ::vmx::Field::$field.encoding() }, _>(&mut $page, $value)
    };
}
pub(crate) use put;

/// L0's copy of VMCS 12.
///
/// Of an enlightened VMCS it holds what L0 read at the last entries: controls
/// and host state to act on, guest state as it was then. Of a VMPTRLDed one
/// it is the VMCS.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Vmcs12([u8; SIZE]);

impl Vmcs12 {
    /// A page of zeroes.
    pub const fn new() -> Self {
        Self([0; SIZE])
    }

    /// The whole page, to be filled from L1's memory.
    pub fn bytes_mut(&mut self) -> &mut [u8; SIZE] {
        &mut self.0
    }

    /// The whole page, to be stored to L1's memory.
    pub fn bytes(&self) -> &[u8; SIZE] {
        &self.0
    }

    /// The clean-fields word.
    #[inline]
    pub fn clean(&self) -> CleanFields {
        CleanFields::from_raw(self.read_u32(evmcs::CLEAN_FIELDS))
    }

    /// Replaces the clean-fields word.
    #[inline]
    pub fn set_clean(&mut self, clean: CleanFields) {
        self.write_u32(evmcs::CLEAN_FIELDS, clean.raw());
    }

    /// VMREAD of a whole field.
    #[inline(always)]
    pub fn read_at(&self, place: Place) -> u64 {
        self.read_u64(place.offset()) & place.mask()
    }

    /// VMWRITE of a whole field, which marks its group dirty.
    #[inline(always)]
    pub fn write_at(&mut self, place: Place, value: u64) {
        let around = self.read_u64(place.offset()) & !place.mask();
        self.write_u64(place.offset(), around | value & place.mask());
        self.set_clean(self.clean().without(place.dirtied()));
    }

    /// Whether L1 launched this VMCS since its last VMCLEAR.
    #[inline]
    pub fn is_launched(&self) -> bool {
        self.read_u32(LAUNCH_STATE) != 0
    }

    /// Sets the launch state.
    #[inline]
    pub fn set_launched(&mut self, launched: bool) {
        self.write_u32(LAUNCH_STATE, launched.into());
    }
}

/// Reads the field in `slot` from any page.
pub fn load<P: Page + ?Sized>(page: &P, slot: &Slot) -> u64 {
    match slot.width {
        Width::U16 => page.read_u16(slot.offset).into(),
        Width::U32 => page.read_u32(slot.offset).into(),
        Width::U64 => page.read_u64(slot.offset),
    }
}

impl Default for Vmcs12 {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        #[inline(always)]
        fn $read(&self, offset: u16) -> $type {
            const BYTES: usize = size_of::<$type>();
            let offset = offset as usize;
            let mut bytes = [0; BYTES];
            bytes.copy_from_slice(&self.0[offset..offset + BYTES]);
            <$type>::from_le_bytes(bytes)
        }

        #[inline(always)]
        fn $write(&mut self, offset: u16, value: $type) {
            const BYTES: usize = size_of::<$type>();
            let offset = offset as usize;
            self.0[offset..offset + BYTES].copy_from_slice(&value.to_le_bytes());
        }
    };
}

impl Page for Vmcs12 {
    access!(read_u16, write_u16, u16);
    access!(read_u32, write_u32, u32);
    access!(read_u64, write_u64, u64);

    #[inline(always)]
    fn save<const OFFSET: u16, const BYTES: u16, V: Vmcs>(&mut self, vmcs: &V, field: Field) {
        vmcs.read_into_page::<OFFSET>(field, &mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_agree_with_the_architecture() {
        for slot in evmcs::TABLE.iter().chain(EXTENSION) {
            let field = Field::from_encoding(slot.encoding);
            assert_eq!(
                slot.width.bytes() as usize,
                field.width().bytes(),
                "{}",
                slot.name
            );
            assert!(field.is_known(), "{}", slot.name);
        }
    }

    #[test]
    fn the_extension_lies_beyond_the_enlightened_vmcs() {
        for (i, slot) in EXTENSION.iter().enumerate() {
            assert!(slot.offset as usize >= evmcs::SIZE);
            assert!(slot.offset >= LAUNCH_STATE + 4);
            assert_eq!(slot.offset % slot.width.bytes(), 0);
            assert_eq!(evmcs::slot(slot.encoding), None);
            for other in &EXTENSION[..i] {
                assert!(other.offset + other.width.bytes() <= slot.offset);
            }
        }
    }

    #[test]
    fn every_field_reads_back_and_leaves_its_neighbours_alone() {
        for slot in evmcs::TABLE.iter().chain(EXTENSION) {
            let place = Place::of(slot);
            let mut page = Vmcs12([0xa5; SIZE]);
            page.set_clean(CleanFields::ALL);
            page.write_at(place, 0x8877_6655_4433_2211);
            let value = 0x8877_6655_4433_2211 & place.mask();
            assert_eq!(page.read_at(place), value);
            assert_eq!(load(&page, slot), value);
            assert_eq!(page.clean().dirty(), slot.group.dirtied(), "{}", slot.name);
            page.set_clean(CleanFields::from_raw(0xa5a5_a5a5));
            let (start, end) = (slot.offset, slot.offset + slot.width.bytes());
            let around = |n: &usize| !(start..end).contains(&(*n as u16));
            assert!((0..SIZE).filter(around).all(|n| page.0[n] == 0xa5));
        }
    }
}
