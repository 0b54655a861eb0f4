//! Restoring.

use alloc::vec::Vec;
use core::mem;

use crate::checksum::Running;
use crate::error::{Invalid, ReadError};
use crate::header::{Header, MACHINE_FIRST};
use crate::page::{self, PAGE};
use crate::staging::Staging;
use crate::table::Table;
use crate::transfer::Source;

/// Pages that are read together where there is no other place for them.
const STAGED_PAGES: usize = 16;

/// Bytes of the largest machine part that is read: some thirty VPs'. Who takes it apart has no more
/// memory for it than that takes.
pub const LARGEST_MACHINE: u64 = 512 << 10;

/// Reads a file and believes nothing in it that has not been checked.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    header: Header,
}

impl<S: Source> Reader<S> {
    /// Reads and checks the header.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn open(mut source: S) -> Result<Self, ReadError<S::Error>> {
        let pages = source.pages();
        if pages == 0 {
            return Err(Invalid::NotAState.into());
        }
        let mut staging = Staging::new(1);
        source
            .read(0, &mut [staging.bytes_mut()])
            .map_err(ReadError::Source)?;
        let header = Header::decode(staging.bytes(), pages)?;
        Ok(Self { source, header })
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads and checks the machine part, which may have [`LARGEST_MACHINE`] bytes.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn machine(&mut self) -> Result<Vec<u8>, ReadError<S::Error>> {
        let bytes = self.header.machine_bytes;
        let mut machine = Vec::new();
        usize::try_from(bytes)
            .ok()
            .filter(|_| bytes <= LARGEST_MACHINE)
            .and_then(|size| machine.try_reserve_exact(size).ok())
            .ok_or(Invalid::MachineSize { bytes })?;
        self.each_of_machine(|pages, left| {
            let size = pages.len().min(left as usize);
            machine.extend_from_slice(&pages[..size]);
        })?;
        Ok(machine)
    }

    /// Reads and checks the pages of the machine part, and shows them to `each` with the number of the
    /// part's bytes that are left.
    fn each_of_machine(
        &mut self,
        mut each: impl FnMut(&[u8], u64),
    ) -> Result<(), ReadError<S::Error>> {
        let mut staging = Staging::new(STAGED_PAGES);
        let mut sum = Running::new();
        let end = self.header.memory_first();
        let mut next = MACHINE_FIRST;
        let mut left = self.header.machine_bytes;
        while next < end {
            let count = (end - next).min(STAGED_PAGES as u64);
            let pages = &mut staging.bytes_mut()[..count as usize * PAGE];
            self.source
                .read(next, &mut [&mut *pages])
                .map_err(ReadError::Source)?;
            sum.add(pages);
            each(pages, left);
            next += count;
            left = left.saturating_sub(pages.len() as u64);
        }
        if sum.value() != self.header.machine_checksum {
            return Err(Invalid::Machine.into());
        }
        Ok(())
    }

    /// Loads the partition's memory and checks it. `clear` makes the pages zero that the file does not
    /// mention. In `memory` is nothing of use after an error.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn load_memory(
        &mut self,
        memory: &mut [u8],
        mut clear: impl FnMut(&mut [u8]),
    ) -> Result<(), ReadError<S::Error>> {
        if memory.len() as u64 != self.header.memory_bytes {
            return Err(Invalid::MemorySize {
                found: self.header.memory_bytes,
                expected: memory.len() as u64,
            }
            .into());
        }
        // What is not loaded yet, and the number of its first page.
        let (mut unread, mut at) = (memory, 0);
        self.each_block(|source, first, table, next_table| {
            let mut pieces = Vec::with_capacity(table.runs.len() + 1);
            for run in &table.runs {
                // Runs ascend and end in the memory: the table has been checked.
                let (gap, tail) =
                    mem::take(&mut unread).split_at_mut((run.first - at) as usize * PAGE);
                clear(gap);
                let (piece, tail) = tail.split_at_mut(run.pages as usize * PAGE);
                match run.word {
                    Some(word) => page::fill(piece, word),
                    None => pieces.push(piece),
                }
                (unread, at) = (tail, run.end());
            }
            pieces.push(next_table);
            source.read(first, &mut pieces)?;
            pieces.pop();
            let mut sum = Running::new();
            for piece in pieces {
                sum.add(piece);
            }
            Ok(sum.value())
        })?;
        clear(unread);
        Ok(())
    }

    /// Checks the whole file, without a partition to load it into.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn verify(&mut self) -> Result<(), ReadError<S::Error>> {
        self.each_of_machine(|_, _| ())?;
        let mut staging = Staging::new(STAGED_PAGES);
        self.each_block(|source, first, table, next_table| {
            let mut sum = Running::new();
            let end = first + table.pages();
            let mut next = first;
            while next < end {
                let count = (end - next).min(STAGED_PAGES as u64);
                let pages = &mut staging.bytes_mut()[..count as usize * PAGE];
                source.read(next, &mut [&mut *pages])?;
                sum.add(pages);
                next += count;
            }
            source.read(next, &mut [next_table])?;
            Ok(sum.value())
        })
    }

    /// Reads and checks the tables. For each, `load` reads the block's pages from page `first` on and
    /// the table behind them, and returns the pages' checksum.
    fn each_block(
        &mut self,
        mut load: impl FnMut(&mut S, u64, &Table, &mut [u8]) -> Result<u64, S::Error>,
    ) -> Result<(), ReadError<S::Error>> {
        let header = self.header;
        let mut staging = Staging::new(1);
        let mut chain = Running::new();
        let mut at = header.memory_first();
        let mut data_pages = 0;
        let mut from = 0;
        self.source
            .read(at, &mut [staging.bytes_mut()])
            .map_err(ReadError::Source)?;
        for number in 0..header.blocks {
            let (table, own) = Table::decode(staging.bytes(), number, from, header.memory_pages())?;
            chain.add_pair(own, number);
            let pages = table.pages();
            data_pages += pages;
            let (Some(last), true) = (table.runs.last(), data_pages <= header.data_pages) else {
                return Err(Invalid::Runs { block: number }.into());
            };
            from = last.end();
            let sum = load(&mut self.source, at + 1, &table, staging.bytes_mut())
                .map_err(ReadError::Source)?;
            if sum != table.checksum {
                return Err(Invalid::Block { block: number }.into());
            }
            at += 1 + pages;
        }
        let (end, own) =
            Table::decode(staging.bytes(), header.blocks, from, header.memory_pages())?;
        let is_end = end.runs.is_empty()
            && end.checksum == chain.value()
            && own == header.memory_checksum
            && data_pages == header.data_pages;
        if !is_end {
            return Err(Invalid::End.into());
        }
        Ok(())
    }
}
