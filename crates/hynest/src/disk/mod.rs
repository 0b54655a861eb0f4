//! A disk of the machine: ATA, behind a PCI IDE controller that is a bus master.
//!
//! L0 saves a partition to it and restores it from there, while all VPs stand still: one command at a
//! time, and no interrupts, whose lines are all masked.

mod ata;
mod dma;
mod error;
mod pci;
mod wait;

use addr::Spa;
use snapshot::{PAGE, Sink, Source};

use crate::memory::frames;
use ata::{Drive, SECTOR};
use dma::{BusMaster, Direction};
pub use error::Error;

/// Sectors of a page.
const SECTORS: u64 = PAGE as u64 / SECTOR;

/// Where a disk is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The controller's second channel rather than the first.
    pub secondary: bool,
    /// The channel's second disk rather than the first.
    pub slave: bool,
}

/// A disk that answers.
#[derive(Debug)]
pub struct Disk {
    drive: Drive,
    master: BusMaster,
    /// The frame for the bus master's table.
    table: Spa,
}

impl Disk {
    /// Finds the disk at `position` and prepares it for transfers. `tsc_hz` is the rate by which the
    /// time is told that it may take.
    ///
    /// # Safety
    /// Nothing else uses the machine's IDE controller from now on, nor its PCI configuration while this
    /// runs.
    pub unsafe fn open(position: Position, tsc_hz: u64) -> Result<Self, Error> {
        // SAFETY: forwarded.
        let controller = unsafe { pci::find_ide()? };
        let ports = controller.channel(position.secondary);
        // SAFETY: the ports are those of an IDE channel that nothing else uses.
        let drive = unsafe { Drive::identify(ports, position, tsc_hz)? };
        let table = frames::allocate().ok_or(Error::NoMemory)?;
        Ok(Self {
            drive,
            master: BusMaster::new(ports.master, table),
            table,
        })
    }

    /// Transfers the bytes of `ranges`, in order, to or from `page` on, by commands of one range each
    /// that the bus master takes.
    ///
    /// # Safety
    /// The ranges are memory mapped one to one, and the caller's for this direction.
    unsafe fn transfer(
        &mut self,
        direction: Direction,
        page: u64,
        ranges: impl Iterator<Item = (u64, u64)>,
    ) -> Result<(), Error> {
        let mut sector = page * SECTORS;
        for (mut address, mut bytes) in ranges {
            while bytes > 0 {
                let size = dma::reach(address, bytes)?;
                let count = size / SECTOR;
                if sector + count > self.drive.sectors {
                    return Err(Error::OutOfRange { sector });
                }
                // SAFETY: part of a range that the caller vouches for.
                unsafe {
                    self.master.prepare(direction, address, size);
                    self.drive
                        .transfer(direction, sector, count, &self.master)?;
                }
                sector += count;
                address += size;
                bytes -= size;
            }
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // SAFETY: it came from `allocate`, and no command runs that the bus master would read it for.
        unsafe { frames::free(self.table) }
    }
}

impl Sink for Disk {
    type Error = Error;

    fn pages(&self) -> u64 {
        self.drive.sectors / SECTORS
    }

    fn write(&mut self, first: u64, pieces: &[&[u8]]) -> Result<(), Error> {
        let ranges = pieces
            .iter()
            .map(|piece| (piece.as_ptr() as u64, piece.len() as u64));
        // SAFETY: L0 maps memory one to one, and the pieces stay as they are until all is written.
        unsafe { self.transfer(Direction::ToDisk, first, ranges) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.drive.flush()
    }
}

impl Source for Disk {
    type Error = Error;

    fn pages(&self) -> u64 {
        self.drive.sectors / SECTORS
    }

    fn read(&mut self, first: u64, pieces: &mut [&mut [u8]]) -> Result<(), Error> {
        let ranges = pieces
            .iter_mut()
            .map(|piece| (piece.as_mut_ptr() as u64, piece.len() as u64));
        // SAFETY: L0 maps memory one to one, and the pieces are borrowed until all is read.
        unsafe { self.transfer(Direction::FromDisk, first, ranges) }
    }
}
