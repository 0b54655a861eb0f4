//! A partition on a disk: saved there when somebody asks for it, and taken up from there.
//!
//! Saving ends the run, as suspending to disk does: the partition goes on where it is restored. A
//! save that fails, for want of room or of a disk that works, is told and forgotten; the partition
//! goes on here then.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use snapshot::{Header, ReadError, Reader, WriteError};
use state::{Bad, Machine, Setup, Unfit};

use super::memory::L1Memory;
use super::partition::Partition;
use super::{Vp, saving};
use crate::cpu::{tsc, zero};
use crate::disk::{self, Disk, Position};
use crate::fatal::{self, End};
use crate::log;
use crate::output::{self, Channel};

/// Why a partition cannot be saved, or taken up.
pub enum Problem {
    /// The disk.
    Disk(disk::Error),
    /// What is read from it.
    Read(ReadError<disk::Error>),
    /// What is written to it.
    Write(WriteError<disk::Error>),
    /// The state in it.
    State(Bad),
    /// Its two parts are of partitions with different memory.
    Memory {
        /// Bytes by the state.
        state: u64,
        /// Bytes by the file.
        file: u64,
    },
    /// This machine.
    Unfit(Unfit),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => error.fmt(f),
            Self::Read(error) => error.fmt(f),
            Self::Write(error) => error.fmt(f),
            Self::State(bad) => bad.fmt(f),
            Self::Memory { state, file } => write!(
                f,
                "the saved state is of {state} bytes of memory and the file holds {file}"
            ),
            Self::Unfit(unfit) => write!(f, "the saved partition cannot go on here: {unfit}"),
        }
    }
}

/// Whether and when the partition is to be saved.
pub struct SaveOrder {
    /// The disk.
    pub to: Position,
    /// When, in the machine's TSC; only when somebody asks, where there is none.
    pub at: Option<u64>,
    /// That moment has come.
    has_come: AtomicBool,
}

impl SaveOrder {
    /// To the disk at `to`, and at the moment `at`.
    pub const fn new(to: Position, at: Option<u64>) -> Self {
        Self {
            to,
            at,
            has_come: AtomicBool::new(false),
        }
    }

    /// The moment, while it has not come.
    pub fn next(&self) -> Option<u64> {
        self.at.filter(|_| !self.has_come.load(Ordering::Relaxed))
    }

    /// Whether it comes now that the machine's TSC is `now`: once. The first VP alone looks.
    pub fn comes(&self, now: u64) -> bool {
        let comes = self.next().is_some_and(|at| at <= now);
        if comes {
            self.has_come.store(true, Ordering::Relaxed);
        }
        comes
    }
}

impl Vp {
    /// Somebody has asked for the partition to be saved: it is, before the VP's next entry.
    pub fn ask_for_save(&mut self) {
        if self.partition.save.is_some() {
            self.save_asked = true;
            self.attention = true;
        }
    }

    /// Saves the partition if that was asked for. The VP is in no guest and in the middle of nothing.
    #[cold]
    pub fn save_if_asked(&mut self) {
        if !core::mem::take(&mut self.save_asked) {
            return;
        }
        let partition = self.partition;
        let Some(position) = partition.save.as_ref().map(|order| order.to) else {
            return;
        };
        let outcome = self.with_each_stopped(Self::leave_state, |vp| write(vp.partition, position));
        match outcome {
            Ok((header, ticks)) => {
                let pages = header.data_pages;
                output::write(
                    Channel::Report,
                    format_args!("{{\"event\":\"saved\",\"pages\":{pages},\"ticks\":{ticks}}}\n"),
                );
                fatal::end(
                    End::Saved,
                    format_args!("{pages} pages of memory, {ticks} ticks"),
                )
            }
            Err(error) => log!("the partition cannot be saved and goes on: {error}"),
        }
    }
}

/// Writes the partition, whose VPs are stopped and have left their states. Returns what it came to
/// and how long it took.
fn write(partition: &Partition, position: Position) -> Result<(Header, u64), Problem> {
    let began = tsc::now();
    let shared = partition.shared_state(began);
    let machine = state::encode(&partition.setup, &shared, &saving::take_left(partition));
    // SAFETY: L0 alone uses the controller, from one processor at a time: VPs are stopped.
    let disk = unsafe { Disk::open(position, partition.tsc_hz) }.map_err(Problem::Disk)?;
    // SAFETY: no VP runs as long as the slice lives.
    let memory = unsafe { partition.memory.as_slice() };
    let header = snapshot::write(disk, &machine, memory).map_err(Problem::Write)?;
    Ok((header, tsc::now().wrapping_sub(began)))
}

/// A saved partition on a disk, whose state has been read and found good.
pub struct Saved {
    reader: Reader<Disk>,
    /// The state.
    pub machine: Machine,
}

/// Opens the saved partition on the disk at `position` for a machine that would be `here`.
///
/// # Errors
/// What is wrong with it, or with the machine.
pub fn open(position: Position, tsc_hz: u64, here: &Setup) -> Result<Saved, Problem> {
    // SAFETY: no VP runs yet, and nothing but this uses the controller.
    let disk = unsafe { Disk::open(position, tsc_hz) }.map_err(Problem::Disk)?;
    let mut reader = Reader::open(disk).map_err(Problem::Read)?;
    let bytes = reader.machine().map_err(Problem::Read)?;
    let machine = Machine::decode(&bytes).map_err(Problem::State)?;
    if machine.setup.memory != reader.header().memory_bytes {
        return Err(Problem::Memory {
            state: machine.setup.memory,
            file: reader.header().memory_bytes,
        });
    }
    machine.setup.fits(here).map_err(Problem::Unfit)?;
    Ok(Saved { reader, machine })
}

impl Saved {
    /// Loads L1's memory, before any VP is there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load_memory(mut self, memory: &L1Memory) -> Result<Machine, Problem> {
        // SAFETY: no VP runs yet.
        let bytes = unsafe { memory.as_mut_slice() };
        self.reader
            .load_memory(bytes, zero::clear)
            .map_err(Problem::Read)?;
        Ok(self.machine)
    }
}
