//! A walk that is remembered with everything it read.

use core::cell::Cell;

use addr::{Gpa1, Gpa2};
use vmx::ept::{Access, EptCapabilities, Eptp};

use super::walk::{WalkError, walk};
use super::{L1Space, Region};

/// Words that a walk reads at most: one of each table, and the one once more at which it finds that
/// it is not on the usual way.
const READS: usize = 5;

/// The last page of L2's memory that L0 has read on L2's behalf, and where L1 has put it.
///
/// A walk is a function of the words it reads. So its result stands for as long as these words are
/// what they were, and to see that takes less than to walk: nothing has to tell of L1's stores and
/// flushes. One of these is for one processor and one partition.
#[derive(Debug)]
pub struct Recall {
    eptp: Cell<u64>,
    page: Cell<u64>,
    found: Cell<Gpa1>,
    read: [Cell<(Gpa1, u64)>; READS],
    /// How many of `read` there are; 0 when nothing is remembered.
    count: Cell<usize>,
}

impl Recall {
    /// Nothing is remembered.
    pub const fn new() -> Self {
        Self {
            eptp: Cell::new(0),
            page: Cell::new(0),
            found: Cell::new(Gpa1::new(0)),
            read: [const { Cell::new((Gpa1::new(0), 0)) }; READS],
            count: Cell::new(0),
        }
    }

    /// As [`walk`], for reading: L1's address for the byte.
    ///
    /// # Errors
    /// Those of [`walk`].
    #[inline]
    pub fn translate(
        &self,
        eptp: Eptp,
        offered: &EptCapabilities,
        l1: &impl L1Space,
        at: Gpa2,
    ) -> Result<Gpa1, WalkError> {
        if self.page.get() == at.page().raw() && self.eptp.get() == eptp.raw() && self.stands(l1) {
            return Ok(Gpa1::new(self.found.get().raw() | at.page_offset()));
        }
        self.walk(eptp, offered, l1, at)
    }

    /// Whether a walk would read again what it has read.
    #[inline]
    fn stands(&self, l1: &impl L1Space) -> bool {
        let read = &self.read[..self.count.get()];
        let is_same = |word: &Cell<(Gpa1, u64)>| {
            let (slot, value) = word.get();
            l1.read_u64(slot) == Some(value)
        };
        !read.is_empty() && read.iter().all(is_same)
    }

    #[cold]
    fn walk(
        &self,
        eptp: Eptp,
        offered: &EptCapabilities,
        l1: &impl L1Space,
        at: Gpa2,
    ) -> Result<Gpa1, WalkError> {
        self.count.set(0);
        let witness = Witness { l1, notes: self };
        let found = walk(eptp, offered, &witness, at, Access::READ);
        let count = self.count.get();
        if found.is_err() || count > READS {
            self.count.set(0);
        }
        let address = found?.address;
        self.eptp.set(eptp.raw());
        self.page.set(at.page().raw());
        self.found.set(address.page());
        Ok(address)
    }
}

impl Default for Recall {
    fn default() -> Self {
        Self::new()
    }
}

/// L1's space, whose words are noted as they are read.
struct Witness<'a, L> {
    l1: &'a L,
    notes: &'a Recall,
}

impl<L: L1Space> L1Space for Witness<'_, L> {
    fn read_u64(&self, at: Gpa1) -> Option<u64> {
        let value = self.l1.read_u64(at)?;
        let count = self.notes.count.get();
        if let Some(note) = self.notes.read.get(count) {
            note.set((at, value));
        }
        self.notes.count.set(count + 1);
        Some(value)
    }

    fn region(&self, at: Gpa1) -> Option<Region> {
        self.l1.region(at)
    }
}
