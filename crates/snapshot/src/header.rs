//! The first page.

use crate::error::Invalid;
use crate::page::{self, Form, PAGE};

/// The format version that is written and read.
pub const VERSION: u64 = 2;
/// The first one, whose checksum was another.
const FIRST_VERSION: u64 = 1;

const NAME: &[u8; 8] = b"HYNSTATE";
/// The machine part follows the header.
pub(crate) const MACHINE_FIRST: u64 = 1;

mod at {
    pub const VERSION: usize = 16;
    pub const PAGES: usize = 24;
    pub const MACHINE_FIRST: usize = 32;
    pub const MACHINE_BYTES: usize = 40;
    pub const MACHINE_CHECKSUM: usize = 48;
    pub const MEMORY_FIRST: usize = 56;
    pub const MEMORY_BYTES: usize = 64;
    pub const DATA_PAGES: usize = 72;
    pub const BLOCKS: usize = 80;
    pub const MEMORY_CHECKSUM: usize = 88;
    pub const ZERO: usize = 96;
}

/// What the header says of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes of the machine part.
    pub machine_bytes: u64,
    /// Its checksum, with its padding.
    pub machine_checksum: u64,
    /// Bytes of the partition's memory.
    pub memory_bytes: u64,
    /// Pages of it that are in the file: those that do not repeat one word.
    pub data_pages: u64,
    /// Blocks that they are in.
    pub blocks: u64,
    /// The checksum that stands for all of them: the end block's own.
    pub memory_checksum: u64,
}

impl Header {
    /// Pages of the machine part.
    pub(crate) const fn machine_pages(&self) -> u64 {
        self.machine_bytes.div_ceil(PAGE as u64)
    }

    /// Page of the first block.
    pub(crate) const fn memory_first(&self) -> u64 {
        MACHINE_FIRST + self.machine_pages()
    }

    /// Pages of the partition's memory.
    pub(crate) const fn memory_pages(&self) -> u64 {
        self.memory_bytes / PAGE as u64
    }

    /// Pages of the file.
    pub const fn pages(&self) -> u64 {
        // The end block is the one more.
        self.memory_first() + self.data_pages + self.blocks + 1
    }

    /// Writes it into a page.
    pub(crate) fn encode(&self, page: &mut [u8]) {
        let mut form = Form(page);
        form.begin(NAME);
        form.put(at::VERSION, VERSION);
        form.put(at::PAGES, self.pages());
        form.put(at::MACHINE_FIRST, MACHINE_FIRST);
        form.put(at::MACHINE_BYTES, self.machine_bytes);
        form.put(at::MACHINE_CHECKSUM, self.machine_checksum);
        form.put(at::MEMORY_FIRST, self.memory_first());
        form.put(at::MEMORY_BYTES, self.memory_bytes);
        form.put(at::DATA_PAGES, self.data_pages);
        form.put(at::BLOCKS, self.blocks);
        form.put(at::MEMORY_CHECKSUM, self.memory_checksum);
        form.seal();
    }

    /// Reads it from the first of `available` pages.
    pub(crate) fn decode(page: &[u8], available: u64) -> Result<Self, Invalid> {
        if page::is_zero(page) {
            return Err(Invalid::Unfinished);
        }
        if !page::has_name(page, NAME) {
            return Err(Invalid::NotAState);
        }
        let number = |at| page::number(page, at);
        let found = number(at::VERSION);
        if page::sealed(page).is_none() && found != FIRST_VERSION {
            return Err(Invalid::Header);
        }
        if found != VERSION {
            return Err(Invalid::Version { found });
        }
        let header = Self {
            machine_bytes: number(at::MACHINE_BYTES),
            machine_checksum: number(at::MACHINE_CHECKSUM),
            memory_bytes: number(at::MEMORY_BYTES),
            data_pages: number(at::DATA_PAGES),
            blocks: number(at::BLOCKS),
            memory_checksum: number(at::MEMORY_CHECKSUM),
        };
        let pages = number(at::PAGES);
        // Smaller than this, no sum of them overflows.
        const LIMIT: u64 = 1 << 60;
        let is_consistent = header.machine_bytes < LIMIT
            && header.memory_bytes < LIMIT
            && header.memory_bytes.is_multiple_of(PAGE as u64)
            && header.data_pages <= header.memory_pages()
            && header.blocks <= header.memory_pages()
            && pages == header.pages()
            && number(at::MACHINE_FIRST) == MACHINE_FIRST
            && number(at::MEMORY_FIRST) == header.memory_first()
            && page[at::ZERO..].iter().all(|&byte| byte == 0);
        if !is_consistent {
            return Err(Invalid::HeaderContents);
        }
        if available < pages {
            return Err(Invalid::Truncated {
                pages: available,
                needed: pages,
            });
        }
        Ok(header)
    }
}
