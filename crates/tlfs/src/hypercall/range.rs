//! List elements of the flushes: a first page and how many follow it.

use addr::{Gpa2, Gva};
use bitfield_struct::bitfield;

/// A range of virtual addresses (HV_GVA_RANGE, simple format): 1 to 4096
/// pages of 4 KiB.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct GvaRange {
    /// Pages after the first.
    #[bits(12)]
    pub additional_pages: u16,
    /// Number of the first page.
    #[bits(52)]
    pub page_number: u64,
}

impl GvaRange {
    /// The first page's address.
    pub const fn start(self) -> Gva {
        Gva::new(self.page_number() << 12)
    }

    /// Pages in the range, the first included.
    pub const fn pages(self) -> u64 {
        self.additional_pages() as u64 + 1
    }
}

/// How large a page of a [`GpaRange`] with `large_page` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LargePageSize {
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

/// A range of L2's guest physical addresses (HV_GPA_PAGE_RANGE).
///
/// The TLFS's prose speaks of 12 bits of additional pages; its data type, and
/// those who use it, have 11 bits and the large-page flag, and so has this.
/// Both mean the same for up to 2048 pages.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct GpaRange {
    /// Pages, of whichever size, after the first.
    #[bits(11)]
    pub additional_pages: u16,
    /// The pages are large: bit 12 is their size, bits 63:21 the number of the
    /// first in units of 2 MiB.
    pub large_page: bool,
    /// Number of the first page, if it is a small one.
    #[bits(52)]
    pub page_number: u64,
}

impl GpaRange {
    /// The pages' size, if they are large ones.
    pub const fn large_size(self) -> Option<LargePageSize> {
        match (self.large_page(), self.into_bits() >> 12 & 1) {
            (false, _) => None,
            (true, 0) => Some(LargePageSize::Size2M),
            (true, _) => Some(LargePageSize::Size1G),
        }
    }

    /// Bytes of one page.
    pub const fn page_size(self) -> u64 {
        match self.large_size() {
            None => 1 << 12,
            Some(LargePageSize::Size2M) => 1 << 21,
            Some(LargePageSize::Size1G) => 1 << 30,
        }
    }

    /// The first page's address, a multiple of the page size.
    pub const fn start(self) -> Gpa2 {
        Gpa2::new(self.into_bits() & !(self.page_size() - 1))
    }

    /// Bytes in the range.
    pub const fn bytes(self) -> u64 {
        (self.additional_pages() as u64 + 1) * self.page_size()
    }

    /// The bits that must be zero in a range of this form.
    pub const fn reserved(self) -> u64 {
        match self.large_size() {
            None => 0,
            Some(LargePageSize::Size2M) => 0x1F_E000,
            Some(LargePageSize::Size1G) => 0x3FFF_E000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gva_ranges() {
        let range = GvaRange::from_bits(0xFFFF_8000_1234_5FFF);
        assert_eq!(range.start(), Gva::new(0xFFFF_8000_1234_5000));
        assert_eq!(range.pages(), 4096);
    }

    #[test]
    fn gpa_ranges_of_small_pages() {
        let range = GpaRange::from_bits(0x1234_57FF);
        assert_eq!(
            (range.start(), range.bytes()),
            (Gpa2::new(0x1234_5000), 2048 << 12)
        );
        assert_eq!(range.reserved(), 0);
    }

    #[test]
    fn gpa_ranges_of_large_pages() {
        let two = GpaRange::from_bits(0x4020_0000 | 1 << 11 | 1);
        assert_eq!(
            (two.start(), two.bytes()),
            (Gpa2::new(0x4020_0000), 2 << 21)
        );
        let one = GpaRange::from_bits(0x1_4000_0000 | 1 << 12 | 1 << 11);
        assert_eq!(
            (one.start(), one.bytes()),
            (Gpa2::new(0x1_4000_0000), 1 << 30)
        );
        assert_eq!(two.with_additional_pages(0x7FF).bytes(), 2048 << 21);
    }
}
