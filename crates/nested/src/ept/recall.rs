//! Walks that are remembered with everything they read.
//!
//! A walk is a function of the words it reads. So its result stands for as long as these words are
//! what they were, and to see that takes less than to walk: nothing has to tell of L1's stores and
//! flushes. What is remembered is for one partition, whose capabilities do not change.

use core::cell::Cell;

use addr::{Gpa1, Gpa2};
use vmx::ept::{Access, EptCapabilities, Eptp};

use super::walk::{Translation, WalkError, walk};
use super::{L1Space, Region};

/// Words that a walk reads at most: one of each table.
const READS: usize = 4;

/// A walk for any address of one page of L2's.
#[derive(Clone, Copy, Debug)]
struct Walked<W> {
    /// The root page of EPT 12.
    root: Gpa1,
    page: Gpa2,
    /// What it read; of a shorter walk, the first word again.
    read: [(W, u64); READS],
}

impl<W: Copy> Walked<W> {
    /// Whether a walk to the page would read what this one has read.
    #[inline(always)]
    fn stands<L: L1Space<Word = W>>(&self, root: Gpa1, l1: &L) -> bool {
        let [a, b, c, d] = &self.read;
        let is_same = |(word, value): &(W, u64)| l1.read_word(*word) == *value;
        self.root == root && is_same(a) && is_same(b) && is_same(c) && is_same(d)
    }
}

/// The last page of L2's memory that L0 has read on L2's behalf, and where L1 has put it.
#[derive(Debug)]
pub struct Recall<W>(Option<(Walked<W>, Gpa1)>);

impl<W: Copy> Recall<W> {
    /// Nothing is remembered.
    pub const fn new() -> Self {
        Self(None)
    }

    /// L1's address for the byte `at` that L2 reads, by the EPT 12 with this root page; `None` if it
    /// is to be looked up by [`Recall::look_up`].
    #[inline(always)]
    pub fn recall<L: L1Space<Word = W>>(&self, root: Gpa1, l1: &L, at: Gpa2) -> Option<Gpa1> {
        match &self.0 {
            Some((walked, found)) if walked.page == at.page() && walked.stands(root, l1) => {
                Some(Gpa1::new(found.raw() | at.page_offset()))
            }
            _ => None,
        }
    }

    /// Has the next [`Recall::recall`] for the page find it, if L2 may read it.
    #[cold]
    pub fn look_up<L: L1Space<Word = W>>(
        &mut self,
        root: Gpa1,
        offered: &EptCapabilities,
        l1: &L,
        at: Gpa2,
    ) {
        let (found, walked) = watch(root, offered, l1, at, Access::READ);
        self.0 = match (found, walked) {
            (Ok(translation), Some(walked)) => Some((walked, translation.address.page())),
            _ => None,
        };
    }
}

impl<W: Copy> Default for Recall<W> {
    fn default() -> Self {
        Self::new()
    }
}

/// The last page of L2's at which EPT 12 is misconfigured: KVM's way to have a device's accesses
/// exit.
///
/// What L2 tries there does not matter: a misconfiguration comes before missing permissions.
#[derive(Debug)]
pub struct MisconfiguredPage<W> {
    /// Of the last walk that met one.
    last: Gpa2,
    /// The page of `walked`, where it can be compared first: nearly all of the other violations are
    /// elsewhere.
    known: Gpa2,
    walked: Option<Walked<W>>,
}

/// No page's address.
const NO_PAGE: Gpa2 = Gpa2::new(1);

impl<W: Copy> MisconfiguredPage<W> {
    /// Nothing is remembered.
    pub const fn new() -> Self {
        Self {
            last: NO_PAGE,
            known: NO_PAGE,
            walked: None,
        }
    }

    /// Whether the walk to `at` by the EPT 12 with this root page is known to meet a misconfiguration;
    /// `root` is not asked for nothing.
    #[inline(always)]
    pub fn is_met<L: L1Space<Word = W>>(
        &self,
        root: impl FnOnce() -> Option<Gpa1>,
        l1: &L,
        at: Gpa2,
    ) -> bool {
        self.known == at.page()
            && matches!((&self.walked, root()), (Some(walked), Some(root)) if walked.stands(root, l1))
    }

    /// The walk to `at` has met one. It is remembered if so did the one before, to the same page:
    /// where accesses change pages all the time, that would be for nothing.
    #[cold]
    pub fn note<L: L1Space<Word = W>>(
        &mut self,
        root: Gpa1,
        offered: &EptCapabilities,
        l1: &L,
        at: Gpa2,
    ) {
        if core::mem::replace(&mut self.last, at.page()) != at.page() {
            return;
        }
        let (found, walked) = watch(root, offered, l1, at, Access::empty());
        self.walked = match found {
            Err(WalkError::Misconfigured(_)) => walked,
            _ => None,
        };
        self.known = self.walked.as_ref().map_or(NO_PAGE, |walked| walked.page);
    }
}

impl<W: Copy> Default for MisconfiguredPage<W> {
    fn default() -> Self {
        Self::new()
    }
}

/// A walk, and what it is to be known by again: `None` where it went out of L1's memory or found a
/// word changed that it had read before.
fn watch<L: L1Space>(
    root: Gpa1,
    offered: &EptCapabilities,
    l1: &L,
    at: Gpa2,
    access: Access,
) -> (Result<Translation, WalkError>, Option<Walked<L::Word>>) {
    let witness = Witness {
        l1,
        read: [const { Cell::new(None) }; READS],
        is_complete: Cell::new(true),
    };
    let found = walk(Eptp::new(root.raw()), offered, &witness, at, access);
    let first = witness.read[0].get();
    let walked = first.filter(|_| witness.is_complete.get()).map(|first| {
        let read = witness.read.map(|note| note.get().unwrap_or(first));
        Walked {
            root,
            page: at.page(),
            read: read.map(|(_, word, value)| (word, value)),
        }
    });
    (found, walked)
}

/// A word as it was read, and where.
type Note<W> = (Gpa1, W, u64);

/// L1's space, whose words are noted as they are read.
struct Witness<'a, L: L1Space> {
    l1: &'a L,
    read: [Cell<Option<Note<L::Word>>>; READS],
    /// Whether all is noted.
    is_complete: Cell<bool>,
}

impl<L: L1Space> Witness<'_, L> {
    /// Finds a place for the note; a word that is read twice needs one place only.
    fn note(&self, at: Gpa1, word: L::Word, value: u64) -> bool {
        for note in &self.read {
            match note.get() {
                None => {
                    note.set(Some((at, word, value)));
                    return true;
                }
                Some((before, _, same)) if before == at => return same == value,
                Some(_) => {}
            }
        }
        false
    }
}

impl<L: L1Space> L1Space for Witness<'_, L> {
    type Word = (Gpa1, L::Word);

    fn word(&self, at: Gpa1) -> Option<Self::Word> {
        let word = self.l1.word(at);
        if word.is_none() {
            self.is_complete.set(false);
        }
        Some((at, word?))
    }

    fn read_word(&self, (at, word): Self::Word) -> u64 {
        let value = self.l1.read_word(word);
        if !self.note(at, word, value) {
            self.is_complete.set(false);
        }
        value
    }

    fn region(&self, at: Gpa1) -> Option<Region> {
        self.l1.region(at)
    }
}
