//! The file of a saved partition: what it holds, how it is written, how it is read and checked.
//!
//! The transport is the caller's: [`write()`] goes to a [`Sink`], a [`Reader`] comes from a
//! [`Source`], both of whole pages by their number. L0's are a disk of the machine, the lab's are
//! files.
//!
//! # The format, version 2
//!
//! The file is a sequence of pages of 4096 bytes. Numbers are unsigned, of 8 bytes, little-endian;
//! what is called zero is checked to be zero.
//!
//! A *checksum* *s* is of a multiple of 16 bytes. It begins as 0x27D4EB2F165667C5. With each 16 bytes, taken
//! as the numbers *a* and *b*, it becomes the lower half XOR the upper half of the 128-bit product of
//! (*s* XOR *a* XOR 0x9E3779B185EBCA87) and (*s* XOR *b*). In version 1 it was XXH64.
//!
//! | pages | what |
//! | --- | --- |
//! | 1 | header |
//! | any | machine part, padded with zeros to whole pages |
//! | 1 + 0 to 256, any number of times | block: table, then the pages of memory that it lists as stored |
//! | 1 | end block: a table that lists nothing |
//!
//! **Header.** It is zero while a file is being written, and written last.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0-7 | the characters `HYNSTATE` |
//! | 8-15 | checksum of bytes 16-4095 |
//! | 16-23 | format version: 2. All versions have bytes 0-7 and 16-23 in common. |
//! | 24-31 | pages of the file |
//! | 32-39 | first page of the machine part: 1 |
//! | 40-47 | bytes of the machine part |
//! | 48-55 | checksum of the machine part with its padding |
//! | 56-63 | first page of the first block: the one after the machine part |
//! | 64-71 | bytes of the partition's memory: a multiple of 4096 |
//! | 72-79 | pages of memory stored in all blocks |
//! | 80-87 | blocks, without the end block |
//! | 88-95 | the end block's own checksum (its bytes 8-15) |
//! | 96-4095 | zero |
//!
//! **Machine part.** Opaque here: all of a partition but its memory, of at most 512 KiB ([`LARGEST_MACHINE`]). What it says begins
//! with the number of its own form (`state::FORM`).
//!
//! **Table.** The first page of a block.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0-7 | the characters `HYNBLOCK` |
//! | 8-15 | checksum of bytes 16-4095 |
//! | 16-23 | number of the block, from 0 |
//! | 24-31 | checksum of the block's pages of memory, in the order in which they lie in the file |
//! | 32-39 | pages of memory stored in the block: 0 to 256 |
//! | 40-47 | runs: 1 to 168 |
//! | 48-63 | zero |
//! | 64-4095 | three numbers for each run: first page of the partition's memory, pages, word; then zero |
//!
//! Runs ascend, within a block and from block to block, and do not overlap. A run whose word is zero is
//! stored: its pages lie in the file. The pages of any other hold nothing but that word of 8 bytes, again
//! and again. (So does the memory that Linux poisons when it frees it: a third of all that a fresh one has
//! written to.) A page of memory that is in no run is zero.
//!
//! **End block.** A table whose number is the count of blocks before it, with no pages and no runs. In
//! the place of the pages' checksum it has the checksum of the own checksums (bytes 8-15) of all tables
//! before it, each followed by its number, one after the other. The header so stands for every byte of the file, and blocks of
//! another save that are left in it do not pass.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod checksum;
mod error;
mod header;
mod page;
mod read;
mod staging;
mod table;
mod transfer;
mod write;

#[cfg(test)]
mod tests;

pub use error::{Invalid, ReadError, WriteError};
pub use header::{Header, VERSION};
pub use page::PAGE;
pub use read::{LARGEST_MACHINE, Reader};
pub use transfer::{Sink, Source};
pub use write::{most_pages, write};
