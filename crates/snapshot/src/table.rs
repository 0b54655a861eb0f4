//! The first page of a block.

use alloc::vec::Vec;

use crate::error::Invalid;
use crate::page::{self, Form};

const NAME: &[u8; 8] = b"HYNBLOCK";
/// Most pages of memory in a block.
pub const MOST_PAGES: u64 = 256;
/// Most runs in a block: what its table has room for.
pub const MOST_RUNS: usize = (crate::PAGE - at::RUNS) / RUN;
const RUN: usize = 24;

mod at {
    pub const NUMBER: usize = 16;
    pub const CHECKSUM: usize = 24;
    pub const PAGES: usize = 32;
    pub const RUN_COUNT: usize = 40;
    pub const ZERO: usize = 48;
    pub const RUNS: usize = 64;
}

/// Pages of the partition's memory, one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first one's number.
    pub first: u64,
    /// How many.
    pub pages: u64,
    /// The word, not zero, that fills them. None: they are in the file.
    pub word: Option<u64>,
}

impl Run {
    /// The number after the last one's.
    pub const fn end(self) -> u64 {
        self.first + self.pages
    }

    /// Pages of it in the file.
    pub const fn stored(self) -> u64 {
        match self.word {
            Some(_) => 0,
            None => self.pages,
        }
    }
}

/// What a table says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// The block's number.
    pub number: u64,
    /// The checksum of its pages.
    pub checksum: u64,
    /// What it holds, in ascending order. Nothing: the end block.
    pub runs: Vec<Run>,
}

impl Table {
    /// Pages of memory in the block, as it is in the file.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| run.stored()).sum()
    }

    /// Writes it into a page; returns its own checksum.
    pub fn encode(&self, page: &mut [u8]) -> u64 {
        let mut form = Form(page);
        form.begin(NAME);
        form.put(at::NUMBER, self.number);
        form.put(at::CHECKSUM, self.checksum);
        form.put(at::PAGES, self.pages());
        form.put(at::RUN_COUNT, self.runs.len() as u64);
        for (i, run) in self.runs.iter().enumerate() {
            form.put(at::RUNS + i * RUN, run.first);
            form.put(at::RUNS + i * RUN + 8, run.pages);
            form.put(at::RUNS + i * RUN + 16, run.word.unwrap_or(0));
        }
        form.seal()
    }

    /// Reads the table of block `number`, whose pages lie from page `first` on in a memory of
    /// `memory_pages`; returns it and its own checksum.
    pub fn decode(
        page: &[u8],
        number: u64,
        first: u64,
        memory_pages: u64,
    ) -> Result<(Self, u64), Invalid> {
        let wrong = Invalid::Table { block: number };
        if !page::has_name(page, NAME) {
            return Err(wrong);
        }
        let own = page::sealed(page).ok_or(wrong)?;
        if page::number(page, at::NUMBER) != number {
            return Err(wrong);
        }
        let impossible = Invalid::Runs { block: number };
        let count = usize::try_from(page::number(page, at::RUN_COUNT)).unwrap_or(usize::MAX);
        if count > MOST_RUNS {
            return Err(impossible);
        }
        let (listed, unused) = page[at::RUNS..].split_at(count * RUN);
        let mut table = Self {
            number,
            checksum: page::number(page, at::CHECKSUM),
            runs: Vec::with_capacity(count),
        };
        let (mut next, mut pages) = (first, 0);
        for entry in listed.chunks_exact(RUN) {
            let run = Run {
                first: page::number(entry, 0),
                pages: page::number(entry, 8),
                word: Some(page::number(entry, 16)).filter(|&word| word != 0),
            };
            let is_possible = run.first >= next
                && run.first < memory_pages
                && (1..=memory_pages - run.first).contains(&run.pages);
            if !is_possible {
                return Err(impossible);
            }
            next = run.end();
            pages += run.stored();
            table.runs.push(run);
        }
        let is_consistent = pages <= MOST_PAGES
            && page::number(page, at::PAGES) == pages
            && page[at::ZERO..at::RUNS]
                .iter()
                .chain(unused)
                .all(|&byte| byte == 0);
        if !is_consistent {
            return Err(impossible);
        }
        Ok((table, own))
    }
}
