//! What can be wrong with a file, in one line each.

use core::error::Error;
use core::fmt::{self, Display, Formatter};

use crate::header::VERSION;
use crate::page::PAGE;

/// Why a file is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// Its first page is zero.
    Unfinished,
    /// It does not begin as one.
    NotAState,
    /// It is of another format.
    Version {
        /// Its format version.
        found: u64,
    },
    /// It has fewer pages than its header says.
    Truncated {
        /// Pages that there are.
        pages: u64,
        /// Pages that there have to be.
        needed: u64,
    },
    /// There is something behind its last page.
    TooLong {
        /// Bytes that there are.
        bytes: u64,
        /// Bytes that its header says there are.
        expected: u64,
    },
    /// The header's checksum is wrong.
    Header,
    /// The header contradicts itself.
    HeaderContents,
    /// The machine part's checksum is wrong.
    Machine,
    /// There is no memory to hold the machine part.
    MachineSize {
        /// Its bytes.
        bytes: u64,
    },
    /// It is of a partition with another size of memory.
    MemorySize {
        /// Bytes of the memory in the file.
        found: u64,
        /// Bytes of the memory to load it into.
        expected: u64,
    },
    /// A block's table has a wrong checksum, or is not the one that belongs here.
    Table {
        /// Number of the block.
        block: u64,
    },
    /// A block's table lists what cannot be.
    Runs {
        /// Number of the block.
        block: u64,
    },
    /// The checksum of a block's memory is wrong.
    Block {
        /// Number of the block.
        block: u64,
    },
    /// The end block is not the one that the header knows.
    End,
}

impl Display for Invalid {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished => f.write_str("not a saved partition: the save was not finished"),
            Self::NotAState => f.write_str("not a saved partition"),
            Self::Version { found } => write!(
                f,
                "a saved partition of format version {found}; this reads version {VERSION}"
            ),
            Self::Truncated { pages, needed } => write!(
                f,
                "truncated: the saved partition has {needed} pages of {PAGE} bytes, and {pages} are there"
            ),
            Self::TooLong { bytes, expected } => write!(
                f,
                "too long: the saved partition has {expected} bytes, and {bytes} are there"
            ),
            Self::Header => f.write_str("corrupt: the header's checksum is wrong"),
            Self::HeaderContents => f.write_str("corrupt: the header contradicts itself"),
            Self::Machine => f.write_str("corrupt: the machine part's checksum is wrong"),
            Self::MachineSize { bytes } => write!(
                f,
                "the machine part has {bytes} bytes, for which there is no room"
            ),
            Self::MemorySize { found, expected } => write!(
                f,
                "the saved partition has {} of memory, and this one {}",
                Size(*found),
                Size(*expected)
            ),
            Self::Table { block } => write!(f, "corrupt: the table of block {block} is wrong"),
            Self::Runs { block } => write!(
                f,
                "corrupt: the table of block {block} lists what cannot be"
            ),
            Self::Block { block } => write!(
                f,
                "corrupt: the checksum of the memory in block {block} is wrong"
            ),
            Self::End => f.write_str("corrupt: the end of the memory is wrong"),
        }
    }
}

impl Error for Invalid {}

/// A size of memory, in MiB where it is of whole ones.
struct Size(u64);

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 % (1 << 20) {
            0 => write!(f, "{} MiB", self.0 >> 20),
            _ => write!(f, "{} bytes", self.0),
        }
    }
}

/// Why there is no partition from a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadError<E> {
    /// It could not be read.
    Source(E),
    /// What was read is wrong.
    Invalid(Invalid),
}

impl<E> From<Invalid> for ReadError<E> {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl<E: Display> Display for ReadError<E> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(error) => write!(f, "the saved partition cannot be read: {error}"),
            Self::Invalid(invalid) => invalid.fmt(f),
        }
    }
}

impl<E: Display + fmt::Debug> Error for ReadError<E> {}

/// Why a partition is not saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteError<E> {
    /// It could not be written.
    Sink(E),
    /// There is no room for it.
    Full {
        /// Pages that there is room for.
        pages: u64,
    },
    /// Its memory is not of whole pages.
    UnevenMemory {
        /// Bytes of the memory.
        bytes: u64,
    },
}

impl<E: Display> Display for WriteError<E> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sink(error) => write!(f, "the partition cannot be saved: {error}"),
            Self::Full { pages } => write!(
                f,
                "the partition cannot be saved: it needs more than the {pages} pages of {PAGE} bytes that there are"
            ),
            Self::UnevenMemory { bytes } => write!(
                f,
                "the partition cannot be saved: its memory of {bytes} bytes is not of whole pages"
            ),
        }
    }
}

impl<E: Display + fmt::Debug> Error for WriteError<E> {}
