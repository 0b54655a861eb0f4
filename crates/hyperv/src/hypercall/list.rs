//! The list of a rep call, read as it is worked off.

use crate::memory::{GuestAddress, ReadMemory};
use core::fmt;
use core::marker::PhantomData;
use tlfs::hypercall::{GpaRange, GvaRange, Status};

/// Elements that are read at once.
const CHUNK: usize = 16;

/// What a list is of: a word with some meaning.
pub trait Element: Sized {
    /// The element that `word` stands for, if it stands for one.
    fn from_word(word: u64) -> Option<Self>;
}

impl Element for GvaRange {
    fn from_word(word: u64) -> Option<Self> {
        Some(Self::from_bits(word))
    }
}

impl Element for GpaRange {
    fn from_word(word: u64) -> Option<Self> {
        let range = Self::from_bits(word);
        let fits = range.start().checked_add(range.bytes() - 1).is_some();
        (fits && word & range.reserved() == 0).then_some(range)
    }
}

/// The elements of a rep call that are still to be done, in the caller's
/// memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct List<A, T> {
    at: A,
    start: u16,
    end: u16,
    of: PhantomData<T>,
}

impl<A: GuestAddress, T> List<A, T> {
    /// The elements from `start` to `end` of the list that begins at `at`.
    pub(super) fn new(at: A, start: u16, end: u16) -> Self {
        Self {
            at,
            start,
            end,
            of: PhantomData,
        }
    }

    /// How many there are, at least one.
    pub fn count(&self) -> u16 {
        self.end - self.start
    }

    /// Reads them one after the other. Each is read once; one that is no
    /// element, or that cannot be read, ends the list with an error, the
    /// status the call is to end with.
    pub fn elements<'m, M: ReadMemory<A>>(&self, memory: &'m M) -> Elements<'m, A, T, M> {
        Elements {
            list: List::new(self.at, self.start, self.end),
            memory,
            words: [0; CHUNK],
            at: CHUNK,
        }
    }
}

impl<A: fmt::Debug, T> fmt::Debug for List<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "List({:?}, {}..{})", self.at, self.start, self.end)
    }
}

/// The elements of a [`List`].
pub struct Elements<'m, A, T, M> {
    list: List<A, T>,
    memory: &'m M,
    words: [u64; CHUNK],
    /// The next of `words`; their number if they are used up.
    at: usize,
}

impl<A: GuestAddress, T: Element, M: ReadMemory<A>> Elements<'_, A, T, M> {
    fn refill(&mut self) -> Option<()> {
        let mut bytes = [0; CHUNK * 8];
        let count = CHUNK.min(self.list.count().into());
        let from = self.list.at.checked_add(u64::from(self.list.start) * 8)?;
        self.memory.read(from, &mut bytes[..count * 8]).ok()?;
        let (chunks, _) = bytes.as_chunks();
        for (word, chunk) in self.words.iter_mut().zip(chunks) {
            *word = u64::from_le_bytes(*chunk);
        }
        self.at = 0;
        Some(())
    }

    fn take(&mut self) -> Result<T, Status> {
        if self.at == CHUNK {
            self.refill().ok_or(Status::INVALID_HYPERCALL_INPUT)?;
        }
        let element = T::from_word(self.words[self.at]).ok_or(Status::INVALID_PARAMETER)?;
        self.at += 1;
        self.list.start += 1;
        Ok(element)
    }
}

impl<A: GuestAddress, T: Element, M: ReadMemory<A>> Iterator for Elements<'_, A, T, M> {
    type Item = Result<T, Status>;

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
