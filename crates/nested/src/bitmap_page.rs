//! A page of bits that L1 keeps in its memory: MSR and I/O bitmaps.

use crate::access::Page;

/// A 4 KiB page read as 512 words of 64 bits, without copying it first.
///
/// L1 may change the page at any moment: each call is one access, and what was
/// read once is not read again.
pub trait BitmapPage {
    /// The word `index`, below 512: bits `64 * index` and up.
    fn word(&self, index: usize) -> u64;
}

impl<P: Page> BitmapPage for P {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        self.read_u64((index as u16 & 511) * 8)
    }
}

/// The page that an address without memory behind it reads as: all ones, so
/// that everything is intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl BitmapPage for NoMemory {
    #[inline]
    fn word(&self, _: usize) -> u64 {
        u64::MAX
    }
}
