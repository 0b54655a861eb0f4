//! L1's physical address space, as the shadow EPT needs it.

use core::fmt;

use addr::{Gpa1, Spa};
use vmx::ept::{Access, EptCapabilities, PageSize};

/// A contiguous piece of L1's memory that is contiguous in the machine too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where it begins in L1's address space; a multiple of 4 KiB.
    pub start: Gpa1,
    /// Its length; a multiple of 4 KiB.
    pub bytes: u64,
    /// Where it begins in the machine; a multiple of 4 KiB.
    pub backing: Spa,
    /// What L0 permits there.
    pub access: Access,
}

impl Region {
    /// The system address of `at`; `None` outside the region.
    #[inline]
    pub fn translate(&self, at: Gpa1) -> Option<Spa> {
        let offset = at.raw().checked_sub(self.start.raw())?;
        if offset < self.bytes {
            self.backing.checked_add(offset)
        } else {
            None
        }
    }

    /// The largest page around `at`, not above `limit`, that lies in the region
    /// as a whole, is aligned in the machine too, and that the processor can
    /// map. `at` is in the region.
    #[inline]
    pub fn page_size(&self, at: Gpa1, limit: PageSize, capabilities: &EptCapabilities) -> PageSize {
        if limit == PageSize::Size4K {
            return limit;
        }
        let end = self.start.raw().saturating_add(self.bytes);
        let fits = |size: &PageSize| {
            let page = at.align_down(size.bytes());
            *size <= limit
                && capabilities.leaf_at(size.level())
                && (self.start.raw() ^ self.backing.raw()) & (size.bytes() - 1) == 0
                && page >= self.start
                && end.saturating_sub(page.raw()) >= size.bytes()
        };
        PageSize::DESCENDING
            .into_iter()
            .find(fits)
            .unwrap_or(PageSize::Size4K)
    }
}

/// L1's physical address space.
pub trait L1Space {
    /// A word of L1's memory, found to be there, which it is for good.
    type Word: Copy + fmt::Debug;

    /// The word at `at`, a multiple of 8; `None` where L1 has no memory.
    fn word(&self, at: Gpa1) -> Option<Self::Word>;

    /// Reads a word by one 64-bit access: L1 may be writing it.
    fn read_word(&self, word: Self::Word) -> u64;

    /// Reads the word at `at`, a multiple of 8; `None` where L1 has no memory.
    #[inline]
    fn read_u64(&self, at: Gpa1) -> Option<u64> {
        Some(self.read_word(self.word(at)?))
    }

    /// The region that `at` lies in, as large as L0 knows it; `None` where L1
    /// has no memory that L2 could be given.
    fn region(&self, at: Gpa1) -> Option<Region>;
}

#[cfg(test)]
mod tests {
    use super::*;

    const M2: u64 = 1 << 21;
    const G1: u64 = 1 << 30;
    const ALL: EptCapabilities = EptCapabilities::from_msr(1 << 16 | 1 << 17, 46);

    fn region(start: u64, bytes: u64, backing: u64) -> Region {
        Region {
            start: Gpa1::new(start),
            bytes,
            backing: Spa::new(backing),
            access: Access::RWX,
        }
    }

    #[test]
    fn translation_ends_at_the_edges() {
        let r = region(0x3000, 0x2000, 0x10_0000);
        assert_eq!(r.translate(Gpa1::new(0x2fff)), None);
        assert_eq!(r.translate(Gpa1::new(0x3000)), Some(Spa::new(0x10_0000)));
        assert_eq!(r.translate(Gpa1::new(0x4fff)), Some(Spa::new(0x10_1fff)));
        assert_eq!(r.translate(Gpa1::new(0x5000)), None);
    }

    #[test]
    fn page_size_follows_edges_alignment_and_limit() {
        let size = |r: Region, at, limit| r.page_size(Gpa1::new(at), limit, &ALL);
        let whole = region(0, 2 * G1, 4 * G1);
        assert_eq!(size(whole, G1 + 5, PageSize::Size1G), PageSize::Size1G);
        assert_eq!(size(whole, G1 + 5, PageSize::Size2M), PageSize::Size2M);
        assert_eq!(size(whole, G1 + 5, PageSize::Size4K), PageSize::Size4K);
        let short = region(0, 2 * G1 - 0x1000, 4 * G1);
        assert_eq!(size(short, G1 + 5, PageSize::Size1G), PageSize::Size2M);
        assert_eq!(size(short, 2 * G1 - M2, PageSize::Size1G), PageSize::Size4K);
        let late = region(0x1000, 2 * G1, 0x1000);
        assert_eq!(size(late, 0x1000, PageSize::Size1G), PageSize::Size4K);
        assert_eq!(size(late, M2, PageSize::Size1G), PageSize::Size2M);
        let skewed = region(0, 2 * G1, M2);
        assert_eq!(size(skewed, G1, PageSize::Size1G), PageSize::Size2M);
        let crooked = region(0, 2 * G1, 0x1000);
        assert_eq!(size(crooked, G1, PageSize::Size1G), PageSize::Size4K);
    }

    #[test]
    fn page_size_stays_within_the_processor() {
        let none = EptCapabilities::from_msr(0, 46);
        let r = region(0, 2 * G1, 0);
        let got = r.page_size(Gpa1::new(0), PageSize::Size1G, &none);
        assert_eq!(got, PageSize::Size4K);
    }
}
