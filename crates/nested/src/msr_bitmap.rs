//! MSR bitmaps: which MSRs L2 reaches without an exit.
//!
//! Source: SDM volume 3, "MSR-Bitmap Address". A page of four parts of 1 KiB:
//! reads of MSRs 0 to 0x1FFF, reads of 0xC0000000 to 0xC0001FFF, and writes of
//! both. A set bit exits. Any other MSR exits always.
//!
//! L2 runs on a bitmap of L0's making: an MSR is open to L2 if both L0 and L1
//! leave it open. L0 leaves few open, so only the few words that hold those
//! are ever read from L1's page or written: merging costs in proportion to
//! what L0 opens, not to the page.

use crate::bitmap_page::BitmapPage;

mod merge;

pub use merge::{MergedMsrBitmap, MsrFilter, X2apicOpening};

/// Words in a bitmap.
pub const WORDS: usize = 512;

/// RDMSR or WRMSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MsrAccess {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

/// An MSR outside the two ranges that the bitmap covers. Accesses to it exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotCovered(
    /// The MSR's number.
    pub u32,
);

/// The word and the bit in it that stand for an access; `None` for an MSR that
/// is not covered.
#[inline]
const fn position(msr: u32, access: MsrAccess) -> Option<(usize, u32)> {
    let part = match msr {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 128,
        _ => return None,
    };
    let part = match access {
        MsrAccess::Read => part,
        MsrAccess::Write => part + 256,
    };
    let bit = msr & 0x1fff;
    Some((part + (bit / 64) as usize, bit % 64))
}

/// Whether the bitmap in `page` intercepts an access: the question of
/// reflecting, to be asked of L1's page as it is at the exit.
#[inline]
pub fn intercepts(page: &impl BitmapPage, msr: u32, access: MsrAccess) -> bool {
    match position(msr, access) {
        Some((word, bit)) => page.word(word) >> bit & 1 != 0,
        None => true,
    }
}

/// A bitmap of L0's own, in the form hardware reads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(4096))]
pub struct MsrBitmap([u64; WORDS]);

impl MsrBitmap {
    /// The bitmap that intercepts everything.
    pub const fn closed() -> Self {
        Self([u64::MAX; WORDS])
    }

    /// Whether an access exits.
    #[inline]
    pub fn intercepts(&self, msr: u32, access: MsrAccess) -> bool {
        intercepts(self, msr, access)
    }

    /// Lets an access pass.
    ///
    /// # Errors
    /// The MSR is not covered: it cannot be opened.
    pub const fn open(&mut self, msr: u32, access: MsrAccess) -> Result<(), NotCovered> {
        match position(msr, access) {
            Some((word, bit)) => {
                self.0[word] &= !(1 << bit);
                Ok(())
            }
            None => Err(NotCovered(msr)),
        }
    }

    /// Makes an access exit. An MSR that is not covered does so anyway.
    pub const fn close(&mut self, msr: u32, access: MsrAccess) {
        if let Some((word, bit)) = position(msr, access) {
            self.0[word] |= 1 << bit;
        }
    }

    /// The bitmap as words, the lowest MSR in the lowest bit.
    #[inline]
    pub const fn words(&self) -> &[u64; WORDS] {
        &self.0
    }
}

impl BitmapPage for MsrBitmap {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        self.0[index % WORDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MsrAccess::{Read, Write};

    /// Offsets of the parts in the page, from the manual.
    #[test]
    fn the_edges_of_the_four_parts() {
        let cases = [
            (0, Read, 0x000, 0),
            (0x1fff, Read, 0x3ff, 7),
            (0xc000_0000, Read, 0x400, 0),
            (0xc000_1fff, Read, 0x7ff, 7),
            (0, Write, 0x800, 0),
            (0x1fff, Write, 0xbff, 7),
            (0xc000_0000, Write, 0xc00, 0),
            (0xc000_1fff, Write, 0xfff, 7),
            (0xc000_0100, Read, 0x420, 0),
            (0x1d9, Write, 0x83b, 1),
        ];
        for (msr, access, byte, bit) in cases {
            let mut bitmap = MsrBitmap::closed();
            bitmap.open(msr, access).unwrap();
            let bytes: alloc::vec::Vec<u8> = bitmap
                .words()
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect();
            for (at, value) in bytes.iter().enumerate() {
                let want = if at == byte { !(1 << bit) } else { 0xff };
                assert_eq!(*value, want, "{msr:#x} {access:?} byte {at:#x}");
            }
            assert!(!bitmap.intercepts(msr, access));
            bitmap.close(msr, access);
            assert_eq!(bitmap, MsrBitmap::closed());
        }
    }

    #[test]
    fn what_is_not_covered_always_exits() {
        let mut bitmap = MsrBitmap::closed();
        for msr in [
            0x2000,
            0xbfff_ffff,
            0xc000_2000,
            0x4000_0000,
            0x1_0000,
            u32::MAX,
        ] {
            for access in [Read, Write] {
                assert_eq!(bitmap.open(msr, access), Err(NotCovered(msr)));
                bitmap.close(msr, access);
                assert!(bitmap.intercepts(msr, access));
            }
        }
        assert_eq!(bitmap, MsrBitmap::closed());
    }

    #[test]
    fn hardware_gets_an_aligned_page() {
        assert_eq!(size_of::<MsrBitmap>(), 4096);
        assert_eq!(align_of::<MsrBitmap>(), 4096);
    }
}
