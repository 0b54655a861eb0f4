//! The bus master of an IDE channel, by the "Programming Interface for Bus Master IDE Controller".

use core::arch::asm;

use addr::Spa;

use super::error::Error;
use crate::cpu::port::{inb, outb, outl};
use crate::memory::pointer;

/// Ports, from the channel's first on.
const COMMAND: u16 = 0;
const STATUS: u16 = 2;
const TABLE: u16 = 4;

const START: u8 = 1 << 0;
/// To memory.
const INWARD: u8 = 1 << 3;

const ACTIVE: u8 = 1 << 0;
const FAULT: u8 = 1 << 1;
const INTERRUPT: u8 = 1 << 2;

/// In a descriptor: it is the last one.
const LAST: u32 = 1 << 31;

/// What one descriptor describes lies between two multiples of this.
const BOUNDARY: u64 = 64 << 10;

/// Which way the data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From memory to the disk.
    ToDisk,
    /// From the disk to memory.
    FromDisk,
}

/// A channel's bus master.
#[derive(Debug)]
pub struct BusMaster {
    port: u16,
    table: Spa,
}

/// How much of the `bytes` at `address` one descriptor describes.
pub fn reach(address: u64, bytes: u64) -> Result<u64, Error> {
    let size = bytes.min(BOUNDARY - address % BOUNDARY);
    if !address.is_multiple_of(2) || address + size > 1 << 32 {
        return Err(Error::Unreachable { address });
    }
    Ok(size)
}

/// Whatever has been written to memory is there before what follows, and nothing is known of memory
/// any more: the bus master reads and writes it behind the compiler's back.
fn memory_barrier() {
    // SAFETY: no instruction. The compiler has to take it for an access to memory.
    unsafe { asm!("", options(nostack, preserves_flags)) }
}

impl BusMaster {
    /// The one at this port, with a frame for its table.
    pub fn new(port: u16, table: Spa) -> Self {
        Self { port, table }
    }

    /// Sets it up for one range.
    ///
    /// A table may list many ranges. It never does: a transfer of several ranges takes a command for
    /// each. An emulator lets a time pass between two ranges of a command, 64 KiB in 4 ms, that it does
    /// not between two commands.
    ///
    /// # Safety
    /// `size` bytes at `address` are as [`reach`] says, and the caller's until [`stop`](Self::stop).
    pub unsafe fn prepare(&self, direction: Direction, address: u64, size: u64) {
        // A size of 64 KiB is written as 0.
        let descriptor = [address as u32, LAST | u32::from(size as u16)];
        // SAFETY: the frame is the table's; the ports are the bus master's, which stands still.
        unsafe {
            pointer::<[u32; 2]>(self.table).write_volatile(descriptor);
            outb(self.port + COMMAND, direction.bits());
            outl(self.port + TABLE, self.table.raw() as u32);
            // A one clears.
            let status = inb(self.port + STATUS);
            outb(self.port + STATUS, status | FAULT | INTERRUPT);
        }
    }

    /// Starts the transfer.
    ///
    /// # Safety
    /// It has been prepared, and the disk has got its command.
    pub unsafe fn start(&self, direction: Direction) {
        memory_barrier();
        // SAFETY: the caller's promise.
        unsafe { outb(self.port + COMMAND, direction.bits() | START) }
    }

    /// Whether it has done all there was to do.
    pub fn is_done(&self) -> bool {
        // SAFETY: reading the status has no effect.
        unsafe { inb(self.port + STATUS) & ACTIVE == 0 }
    }

    /// Stops it, whatever it is at; returns whether it has met no error.
    pub fn stop(&self, direction: Direction) -> bool {
        // SAFETY: the ports are the bus master's.
        let status = unsafe {
            let status = inb(self.port + STATUS);
            outb(self.port + COMMAND, direction.bits());
            status
        };
        memory_barrier();
        status & FAULT == 0
    }
}

impl Direction {
    const fn bits(self) -> u8 {
        match self {
            Self::ToDisk => 0,
            Self::FromDisk => INWARD,
        }
    }
}
