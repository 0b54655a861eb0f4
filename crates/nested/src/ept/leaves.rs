//! The list of a shadow's leaves, as long as there are few.

use alloc::vec::Vec;

use addr::{Gpa2, Spa};
use vmx::ept::{EptEntry, PageSize};

use super::Gpa2Range;

/// How many leaves are listed. A flush of the space looks at each; beyond
/// this many it is cheaper to drop them all and to fill again what L2 uses.
pub(super) const CAPACITY: usize = 256;

/// A leaf of a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The first address of the page.
    pub at: Gpa2,
    pub size: PageSize,
    /// The entry that holds it.
    pub slot: Spa,
    /// What the entry was set to, when
    pub entry: EptEntry,
    /// it came from here.
    pub source: Source,
}

/// The entry of EPT 12's page table that a 4 KiB leaf was made from, below
/// references that permit everything. Where both still stand as they did, they
/// agree: L1's memory map, on which that depends too, does not change without
/// a flush of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source(u64);

impl Source {
    /// The leaf has another origin.
    pub const OTHER: Self = Self(0);

    /// This entry, which is present.
    #[inline]
    pub const fn entry(entry: EptEntry) -> Self {
        Self(entry.raw())
    }

    /// Whether it is this very entry.
    #[inline]
    pub const fn is(self, entry: u64) -> bool {
        self.0 != 0 && self.0 == entry
    }
}

impl Leaf {
    fn lies_in(&self, range: Gpa2Range) -> bool {
        self.at.raw() < range.end() && self.at.raw() + self.size.bytes() > range.start()
    }
}

/// Every leaf of a shadow once, or the fact that there were too many.
///
/// A listed leaf's entry is in a table that is linked: whoever removes a leaf
/// from the tables [forgets](Self::forget) it here in the same breath.
#[derive(Debug)]
pub(super) struct Leaves {
    list: Vec<Leaf>,
    is_complete: bool,
}

impl Leaves {
    /// The list of an empty shadow. Allocates; nothing later does.
    pub fn new() -> Self {
        Self {
            list: Vec::with_capacity(CAPACITY),
            is_complete: true,
        }
    }

    /// Adds a leaf that was not there.
    pub fn add(&mut self, leaf: Leaf) {
        if self.list.len() < CAPACITY {
            self.list.push(leaf);
        } else {
            self.is_complete = false;
        }
    }

    /// Whether the list names all leaves there are.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The leaf in a place of the list, which changes as leaves are forgotten.
    pub fn get(&self, place: usize) -> Option<Leaf> {
        self.list.get(place).copied()
    }

    /// Notes that the leaf in this place was set anew.
    pub fn set(&mut self, place: usize, leaf: Leaf) {
        if let Some(old) = self.list.get_mut(place) {
            *old = leaf;
        }
    }

    /// Takes the leaf in this place off the list. The last leaf takes the
    /// place; all others keep theirs.
    pub fn forget(&mut self, place: usize) {
        if place < self.list.len() {
            self.list.swap_remove(place);
        }
    }

    /// Takes the leaves off the list that overlap `range`. Those that stay
    /// do not move to a later place.
    pub fn forget_range(&mut self, range: Gpa2Range) {
        if range == Gpa2Range::ALL {
            self.clear();
        } else {
            self.list.retain(|leaf| !leaf.lies_in(range));
        }
    }

    /// Starts over: the shadow is empty.
    pub fn clear(&mut self) {
        self.list.clear();
        self.is_complete = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(at: u64, size: PageSize) -> Leaf {
        Leaf {
            at: Gpa2::new(at),
            size,
            slot: Spa::new(0),
            entry: EptEntry::EMPTY,
            source: Source::OTHER,
        }
    }

    #[test]
    fn a_range_takes_what_it_touches() {
        let mut leaves = Leaves::new();
        let large = leaf(1 << 30, PageSize::Size1G);
        let small = leaf(0x3000, PageSize::Size4K);
        leaves.add(large);
        leaves.add(small);
        leaves.forget_range(Gpa2Range::pages(Gpa2::new(0x2000), 1));
        leaves.forget_range(Gpa2Range::pages(Gpa2::new(0x4000), 1));
        leaves.forget_range(Gpa2Range::new(Gpa2::new(0), 0));
        assert_eq!(leaves.len(), 2);
        leaves.forget_range(Gpa2Range::pages(Gpa2::new((2 << 30) - 1), 1));
        assert_eq!((leaves.get(0), leaves.get(1)), (Some(small), None));
        leaves.forget_range(Gpa2Range::pages(Gpa2::new(0x3000), 1));
        assert_eq!(leaves.len(), 0);
    }

    #[test]
    fn too_many_are_known_as_such_until_all_are_gone() {
        let mut leaves = Leaves::new();
        for n in 0..CAPACITY as u64 {
            assert!(leaves.is_complete());
            leaves.add(leaf(n << 12, PageSize::Size4K));
        }
        assert!(leaves.is_complete());
        leaves.add(leaf(1 << 40, PageSize::Size4K));
        leaves.forget_range(Gpa2Range::pages(Gpa2::new(0), 10));
        leaves.forget(0);
        assert!(!leaves.is_complete(), "one was never listed");
        leaves.forget_range(Gpa2Range::ALL);
        assert!(leaves.is_complete());
    }
}
