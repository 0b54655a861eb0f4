//! Files written, read back, damaged and forged.

mod damaged;
mod forged;
mod round_trip;

use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Invalid, ReadError, WriteError};
use crate::page::PAGE;
use crate::read::Reader;
use crate::transfer::{Sink, Source};
use crate::write::{most_pages, write};

/// A file in memory.
#[derive(Clone, PartialEq, Debug)]
struct Medium {
    bytes: Vec<u8>,
    /// Transfers that it takes before it breaks.
    transfers: usize,
}

/// The medium has broken.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Broken;

impl Medium {
    /// One of as many pages, full of an older file's.
    fn new(pages: u64) -> Self {
        Self::holding(vec![0x5A; pages as usize * PAGE])
    }

    fn holding(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            transfers: usize::MAX,
        }
    }

    fn transfer(&mut self, first: u64) -> Result<&mut [u8], Broken> {
        self.transfers = self.transfers.checked_sub(1).ok_or(Broken)?;
        Ok(&mut self.bytes[first as usize * PAGE..])
    }
}

impl Sink for Medium {
    type Error = Broken;

    fn pages(&self) -> u64 {
        (self.bytes.len() / PAGE) as u64
    }

    fn write(&mut self, first: u64, pieces: &[&[u8]]) -> Result<(), Broken> {
        let mut to = self.transfer(first)?;
        for piece in pieces {
            assert!(piece.len().is_multiple_of(PAGE));
            to.split_off_mut(..piece.len())
                .unwrap()
                .copy_from_slice(piece);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Broken> {
        self.transfer(0).map(|_| ())
    }
}

impl Source for Medium {
    type Error = Broken;

    fn pages(&self) -> u64 {
        (self.bytes.len() / PAGE) as u64
    }

    fn read(&mut self, first: u64, pieces: &mut [&mut [u8]]) -> Result<(), Broken> {
        let mut from: &[u8] = self.transfer(first)?;
        for piece in pieces {
            assert!(piece.len().is_multiple_of(PAGE));
            piece.copy_from_slice(from.split_off(..piece.len()).unwrap());
        }
        Ok(())
    }
}

type Read<T> = Result<T, ReadError<Broken>>;

/// The file of a partition, without anything behind it.
fn saved(machine: &[u8], memory: &[u8]) -> Vec<u8> {
    let mut medium = Medium::new(most_pages(machine.len() as u64, memory.len() as u64));
    let header = write(&mut medium, machine, memory).unwrap();
    medium.bytes.truncate(header.pages() as usize * PAGE);
    medium.bytes
}

/// The machine part and the memory of a file; `size` bytes of it, which held something before.
fn restored(file: &[u8], size: usize) -> Read<(Vec<u8>, Vec<u8>)> {
    let mut reader = Reader::open(Medium::holding(file.to_vec()))?;
    let machine = reader.machine()?;
    let mut memory = vec![0xA5; size];
    reader.load_memory(&mut memory, |rest| rest.fill(0))?;
    Ok((machine, memory))
}

/// What is wrong with a file, which both who loads and who verifies it have to find.
fn fault(file: &[u8], size: usize) -> Option<Invalid> {
    let loaded = restored(file, size).err();
    let verified = Reader::open(Medium::holding(file.to_vec()))
        .and_then(|mut reader| reader.verify())
        .err();
    assert_eq!(loaded, verified);
    match loaded? {
        ReadError::Invalid(invalid) => Some(invalid),
        ReadError::Source(broken) => panic!("{broken:?}"),
    }
}

/// A memory of `pages` pages, of which those listed hold something.
fn memory_with(pages: usize, listed: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let mut memory = vec![0; pages * PAGE];
    for page in listed {
        let bytes = &mut memory[page * PAGE..][..PAGE];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (page * 31 + i * 7 + 1) as u8;
        }
    }
    memory
}

/// A partition whose file has several blocks, of few and of many runs.
fn example() -> (Vec<u8>, Vec<u8>) {
    let scattered = (0..600).step_by(2);
    let together = 700..1000;
    let memory = memory_with(1024, scattered.chain(together));
    (vec![0xC3; 5000], memory)
}
