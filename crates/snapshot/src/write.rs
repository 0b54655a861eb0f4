//! Saving.

use alloc::vec::Vec;

use crate::checksum::Running;
use crate::error::WriteError;
use crate::header::{Header, MACHINE_FIRST};
use crate::page::{self, PAGE};
use crate::staging::Staging;
use crate::table::{MOST_PAGES, MOST_RUNS, Run, Table};
use crate::transfer::Sink;

/// Pages of the machine part that are written together.
const STAGED_PAGES: usize = 16;

/// Most pages that the file of such a partition can have: those it has when each page of its memory
/// has to be in it.
pub const fn most_pages(machine_bytes: u64, memory_bytes: u64) -> u64 {
    let memory_pages = memory_bytes.div_ceil(PAGE as u64);
    Header {
        machine_bytes,
        machine_checksum: 0,
        memory_bytes,
        data_pages: memory_pages,
        blocks: memory_pages.div_ceil(MOST_PAGES),
        memory_checksum: 0,
    }
    .pages()
}

/// Writes the file of a partition with this machine part and this memory, and says what is in it: its
/// first [`Header::pages`] pages are the file.
///
/// Until everything else is written the first page is zero, so that what an interrupted save leaves
/// is not taken for a saved partition.
///
/// # Errors
///
/// [`WriteError`]; what has been written until then does not pass for a saved partition.
pub fn write<S: Sink>(
    sink: S,
    machine: &[u8],
    memory: &[u8],
) -> Result<Header, WriteError<S::Error>> {
    if !memory.len().is_multiple_of(PAGE) {
        return Err(WriteError::UnevenMemory {
            bytes: memory.len() as u64,
        });
    }
    let mut writer = Writer { sink, next: 0 };
    let mut staging = Staging::new(STAGED_PAGES);
    // In the place of the header.
    writer.append(&[&staging.bytes()[..PAGE]])?;
    let machine_checksum = writer.machine(machine, &mut staging)?;
    let mut header = Header {
        machine_bytes: machine.len() as u64,
        machine_checksum,
        memory_bytes: memory.len() as u64,
        data_pages: 0,
        blocks: 0,
        memory_checksum: 0,
    };
    let page = &mut staging.bytes_mut()[..PAGE];
    writer.memory(memory, page, &mut header)?;
    header.encode(page);
    writer.sink.flush().map_err(WriteError::Sink)?;
    writer.next = 0;
    writer.append(&[page])?;
    writer.sink.flush().map_err(WriteError::Sink)?;
    Ok(header)
}

struct Writer<S> {
    sink: S,
    /// The page to be written next.
    next: u64,
}

impl<S: Sink> Writer<S> {
    fn append(&mut self, pieces: &[&[u8]]) -> Result<(), WriteError<S::Error>> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let end = self.next + (bytes / PAGE) as u64;
        if end > self.sink.pages() {
            return Err(WriteError::Full {
                pages: self.sink.pages(),
            });
        }
        self.sink
            .write(self.next, pieces)
            .map_err(WriteError::Sink)?;
        self.next = end;
        Ok(())
    }

    /// Writes the machine part; returns its checksum.
    fn machine(
        &mut self,
        machine: &[u8],
        staging: &mut Staging,
    ) -> Result<u64, WriteError<S::Error>> {
        debug_assert_eq!(self.next, MACHINE_FIRST);
        let mut sum = Running::new();
        for piece in machine.chunks(STAGED_PAGES * PAGE) {
            let pages = &mut staging.bytes_mut()[..piece.len().next_multiple_of(PAGE)];
            let (bytes, padding) = pages.split_at_mut(piece.len());
            bytes.copy_from_slice(piece);
            padding.fill(0);
            sum.add(pages);
            self.append(&[pages])?;
        }
        Ok(sum.value())
    }

    /// Writes the blocks and the end block, with `page` for their tables; tells `header` of them.
    fn memory(
        &mut self,
        memory: &[u8],
        page: &mut [u8],
        header: &mut Header,
    ) -> Result<(), WriteError<S::Error>> {
        let mut chain = Running::new();
        let mut from = 0;
        loop {
            let mut table = Table {
                number: header.blocks,
                checksum: 0,
                runs: gather(memory, &mut from),
            };
            if table.runs.is_empty() {
                table.checksum = chain.value();
                header.memory_checksum = table.encode(page);
                return self.append(&[page]);
            }
            let mut sum = Running::new();
            let mut pieces = Vec::with_capacity(1 + table.runs.len());
            for run in table.runs.iter().filter(|run| run.word.is_none()) {
                let piece = &memory[run.first as usize * PAGE..run.end() as usize * PAGE];
                sum.add(piece);
                pieces.push(piece);
            }
            table.checksum = sum.value();
            chain.add_pair(table.encode(page), table.number);
            pieces.insert(0, page);
            self.append(&pieces)?;
            header.blocks += 1;
            header.data_pages += table.pages();
        }
    }
}

/// The runs of pages that are not zero from page `from` on, as many as a block takes. `from` is then
/// the page to go on at.
fn gather(memory: &[u8], from: &mut u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut pages = 0;
    for page in memory[*from as usize * PAGE..].chunks_exact(PAGE) {
        let word = page::repeated(page);
        if word != Some(0) {
            let is_full = runs.len() == MOST_RUNS;
            let is_stored = word.is_none();
            if is_stored && pages == MOST_PAGES {
                break;
            }
            match runs.last_mut() {
                Some(last) if last.end() == *from && last.word == word => last.pages += 1,
                _ if is_full => break,
                _ => runs.push(Run {
                    first: *from,
                    pages: 1,
                    word,
                }),
            }
            pages += u64::from(is_stored);
        }
        *from += 1;
    }
    runs
}
