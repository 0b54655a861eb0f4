//! The list of a rep call, read as it is worked off.

use super::abi::GENERAL_WORDS;
use super::caller::VectorRegisters;
use crate::memory::{GuestAddress, ReadMemory};
use tlfs::hypercall::{GpaRange, Status};

/// Elements that are read at once.
const CHUNK: usize = 16;

/// Where a part of a call's input is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place<A> {
    /// In the caller's memory.
    Memory(A),
    /// In its registers, from this word of the two general and six vector ones on.
    Registers(u8),
}

/// The elements of a rep call that are still to be done, where the caller has
/// put them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List<A> {
    at: Place<A>,
    start: u16,
    end: u16,
}

impl<A: GuestAddress> List<A> {
    /// The elements from `start` to `end` of the list that begins at `at`.
    /// No call has its list in general registers.
    pub(super) fn new(at: Place<A>, start: u16, end: u16) -> Self {
        Self { at, start, end }
    }

    /// How many there are, at least one.
    pub fn count(&self) -> u16 {
        self.end - self.start
    }

    /// Reads them one after the other. Each is read once; one that is no
    /// element, or that cannot be read, ends the list with an error, the
    /// status the call is to end with.
    pub fn elements<'m, M: ReadMemory<A>, V: VectorRegisters>(
        &self,
        memory: &'m M,
        vectors: &'m V,
    ) -> Elements<'m, A, M, V> {
        Elements {
            list: *self,
            memory,
            vectors,
            words: [0; CHUNK],
            at: CHUNK,
        }
    }
}

/// The elements of a [`List`].
pub struct Elements<'m, A, M, V> {
    list: List<A>,
    memory: &'m M,
    vectors: &'m V,
    words: [u64; CHUNK],
    /// The next of `words`; their number if they are used up.
    at: usize,
}

impl<A: GuestAddress, M: ReadMemory<A>, V: VectorRegisters> Elements<'_, A, M, V> {
    fn refill(&mut self) -> Option<()> {
        let count = CHUNK.min(self.list.count().into());
        let words = &mut self.words[..count];
        match self.list.at {
            Place::Memory(at) => {
                let from = at.checked_add(u64::from(self.list.start) * 8)?;
                self.memory.read_words(from, words).ok()?;
            }
            Place::Registers(at) => {
                let from = usize::from(at) + usize::from(self.list.start);
                let first = from.checked_sub(GENERAL_WORDS)?;
                let xmm = self.vectors.xmm();
                words.copy_from_slice(xmm.get(first..first + count)?);
            }
        }
        self.at = 0;
        Some(())
    }

    fn take(&mut self) -> Result<GpaRange, Status> {
        if self.at == CHUNK {
            self.refill().ok_or(Status::INVALID_HYPERCALL_INPUT)?;
        }
        let element = range(self.words[self.at]).ok_or(Status::INVALID_PARAMETER)?;
        self.at += 1;
        self.list.start += 1;
        Ok(element)
    }
}

impl<A: GuestAddress, M: ReadMemory<A>, V: VectorRegisters> Iterator for Elements<'_, A, M, V> {
    type Item = Result<GpaRange, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.list.start == self.list.end {
            return None;
        }
        let element = self.take();
        if element.is_err() {
            self.list.end = self.list.start;
        }
        Some(element)
    }
}

/// The range that `word` stands for, if it stands for one.
pub(super) fn range(word: u64) -> Option<GpaRange> {
    let range = GpaRange::from_bits(word);
    let fits = range.start().checked_add(range.bytes() - 1).is_some();
    (fits && word & range.reserved() == 0).then_some(range)
}
