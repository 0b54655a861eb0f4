//! Ranges of L2's physical addresses.

use addr::{Gpa2, PAGE_MASK, PAGE_SIZE};
use vmx::ept::WIDTH_OF_4_LEVELS;

/// A range of whole 4 KiB pages of L2, within what four levels translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpa2Range {
    start: u64,
    end: u64,
}

const LIMIT: u64 = 1 << WIDTH_OF_4_LEVELS;

impl Gpa2Range {
    /// Everything L2 can address.
    pub const ALL: Self = Self {
        start: 0,
        end: LIMIT,
    };

    /// The pages that `bytes` bytes from `start` on touch. What lies past the
    /// addressable space is left out: nothing can be cached there.
    pub const fn new(start: Gpa2, bytes: u64) -> Self {
        let first = if start.raw() < LIMIT {
            start.raw()
        } else {
            LIMIT
        };
        let end = start.raw().saturating_add(bytes);
        let end = if end < LIMIT { end } else { LIMIT };
        if bytes == 0 || first >= end {
            return Self { start: 0, end: 0 };
        }
        Self {
            start: first & !PAGE_MASK,
            end: (end + PAGE_MASK) & !PAGE_MASK,
        }
    }

    /// `count` pages of 4 KiB from the page of `start` on.
    pub const fn pages(start: Gpa2, count: u64) -> Self {
        Self::new(start.page(), count.saturating_mul(PAGE_SIZE))
    }

    /// The first byte, a multiple of 4 KiB.
    #[inline]
    pub(super) const fn start(&self) -> u64 {
        self.start
    }

    /// The byte after the last, a multiple of 4 KiB.
    #[inline]
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Whether there is no page in it.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Whether the page of `at` is in it.
    #[inline]
    pub const fn contains(&self, at: Gpa2) -> bool {
        self.start <= at.raw() && at.raw() < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_outwards_and_stops_at_the_end() {
        let r = Gpa2Range::new(Gpa2::new(0x1fff), 2);
        assert_eq!((r.start(), r.end()), (0x1000, 0x3000));
        assert!(r.contains(Gpa2::new(0x2fff)) && !r.contains(Gpa2::new(0x3000)));
        assert!(Gpa2Range::new(Gpa2::new(0x5000), 0).is_empty());
        assert!(Gpa2Range::new(Gpa2::new(LIMIT), 0x1000).is_empty());
        assert!(Gpa2Range::new(Gpa2::new(u64::MAX), u64::MAX).is_empty());
        let r = Gpa2Range::pages(Gpa2::new(LIMIT - 0x1000), u64::MAX);
        assert_eq!((r.start(), r.end()), (LIMIT - 0x1000, LIMIT));
        assert_eq!(Gpa2Range::new(Gpa2::new(0), u64::MAX), Gpa2Range::ALL);
    }
}
