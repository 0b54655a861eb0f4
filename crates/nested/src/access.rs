//! What the logic of this crate stands on: field access, pages and L1's memory, as traits.
//!
//! The image implements them with VMREAD, VMWRITE and mapped memory, tests
//! with arrays that count. Everything is monomorphised and inlined, so that a
//! transfer of one field becomes the two or three instructions it needs.

use addr::{Gpa1, Spa};
use vmx::Field;

/// The hardware's current VMCS.
///
/// Fields are those that the processor has; the implementation decides what a
/// failing VMREAD means (a bug of L0).
pub trait Vmcs {
    /// VMREAD.
    fn read(&self, field: Field) -> u64;

    /// VMWRITE.
    fn write(&mut self, field: Field, value: u64);

    /// VMWRITE of `values[INDEX]`.
    ///
    /// An implementation whose VMWRITE takes a memory operand saves an
    /// instruction; `INDEX` is constant for its sake.
    #[inline(always)]
    fn write_from<const INDEX: usize, const N: usize>(&mut self, field: Field, values: &[u64; N]) {
        self.write(field, values[INDEX]);
    }

    /// VMREAD into the eight bytes of a page from `OFFSET` on, whatever the
    /// field's width.
    ///
    /// An implementation whose VMREAD takes a memory operand saves an
    /// instruction.
    #[inline(always)]
    fn read_into_page<const OFFSET: u16>(&self, field: Field, page: &mut [u8; 4096]) {
        let at = OFFSET as usize;
        page[at..at + 8].copy_from_slice(&self.read(field).to_le_bytes());
    }

    /// VMWRITE of as many bytes of a page, from `OFFSET` on, as the field has;
    /// the same as for reading.
    #[inline(always)]
    fn write_from_page<const OFFSET: u16>(&mut self, field: Field, page: &[u8; 4096]) {
        let at = OFFSET as usize;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&page[at..at + 8]);
        self.write(field, u64::from_le_bytes(bytes));
    }
}

/// A page with the layout of [`crate::vmcs12`]: L1's enlightened VMCS, in memory
/// that L1 can change at any moment, or L0's own copy.
///
/// Offsets are multiples of the width and below 4096; they are constants
/// wherever it matters. Each call is one access: what was read once is not
/// read again.
pub trait Page {
    /// Reads two bytes.
    fn read_u16(&self, offset: u16) -> u16;
    /// Reads four bytes.
    fn read_u32(&self, offset: u16) -> u32;
    /// Reads eight bytes.
    fn read_u64(&self, offset: u16) -> u64;
    /// Writes two bytes.
    fn write_u16(&mut self, offset: u16, value: u16);
    /// Writes four bytes.
    fn write_u32(&mut self, offset: u16, value: u32);
    /// Writes eight bytes.
    fn write_u64(&mut self, offset: u16, value: u64);

    /// VMREAD of `field`, `BYTES` wide, into the page at `OFFSET`.
    ///
    /// An implementation may let VMREAD store to memory, which saves an
    /// instruction but always stores eight bytes: those behind the field, up
    /// to `OFFSET + 8`, may be overwritten. So callers store in ascending
    /// order and finish with words that they write exactly.
    #[inline(always)]
    fn save<const OFFSET: u16, const BYTES: u16, V: Vmcs>(&mut self, vmcs: &V, field: Field) {
        let value = vmcs.read(field);
        match BYTES {
            2 => self.write_u16(OFFSET, value as u16),
            4 => self.write_u32(OFFSET, value as u32),
            _ => self.write_u64(OFFSET, value),
        }
    }
}

/// There is no memory at an L1 guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unbacked(
    /// The address asked for.
    pub Gpa1,
);

/// L1's guest-physical memory, as L0 reads and writes it.
pub trait Memory {
    /// Copies `into.len()` bytes from `at`; all of them or none.
    fn read(&self, at: Gpa1, into: &mut [u8]) -> Result<(), Unbacked>;

    /// Copies `from` to `at`; all of it or nothing.
    fn write(&mut self, at: Gpa1, from: &[u8]) -> Result<(), Unbacked>;

    /// The machine page behind the page that `at` lies in, for pages that
    /// hardware itself is to use; `None` where there is no memory.
    fn machine_page(&self, at: Gpa1) -> Option<Spa>;

    /// Reads a byte.
    #[inline]
    fn read_u8(&self, at: Gpa1) -> Result<u8, Unbacked> {
        let mut bytes = [0; 1];
        self.read(at, &mut bytes)?;
        Ok(bytes[0])
    }

    /// Reads a little-endian word of four bytes.
    #[inline]
    fn read_u32(&self, at: Gpa1) -> Result<u32, Unbacked> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian word of eight bytes.
    #[inline]
    fn read_u64(&self, at: Gpa1) -> Result<u64, Unbacked> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
