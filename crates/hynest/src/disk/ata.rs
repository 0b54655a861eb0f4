//! An ATA disk's registers and commands.

use super::Position;
use super::dma::{BusMaster, Direction};
use super::error::Error;
use super::pci::Channel;
use super::wait;
use crate::cpu::port::{inb, inw, outb};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// Command ports, from the channel's first on.
const DATA: u16 = 0;
const ERROR: u16 = 1;
const COUNT: u16 = 2;
const LBA_LOW: u16 = 3;
const LBA_MID: u16 = 4;
const LBA_HIGH: u16 = 5;
const DEVICE: u16 = 6;
const STATUS: u16 = 7;
const COMMAND: u16 = 7;

const BUSY: u8 = 1 << 7;
const FAULT: u8 = 1 << 5;
const DATA_REQUEST: u8 = 1 << 3;
const FAILED: u8 = 1 << 0;

/// Device: addresses are sector numbers. The other two were once to be set.
const BY_SECTOR: u8 = 1 << 7 | 1 << 6 | 1 << 5;
const SLAVE: u8 = 1 << 4;
/// Device control: no interrupts.
const NO_INTERRUPTS: u8 = 1 << 1;

const READ_DMA_EXT: u8 = 0x25;
const WRITE_DMA_EXT: u8 = 0x35;
const FLUSH_CACHE_EXT: u8 = 0xEA;
const IDENTIFY_DEVICE: u8 = 0xEC;

/// Words of what IDENTIFY DEVICE gives.
const GENERAL: usize = 0;
const CAPABILITIES: usize = 49;
const COMMAND_SETS: usize = 83;
const SECTORS: usize = 100;

const NO_ATA: u16 = 1 << 15;
const HAS_DMA: u16 = 1 << 8;
const HAS_48_BITS: u16 = 1 << 10;

/// Seconds that a command may take: a disk that sleeps has to start up.
const PATIENCE: u64 = 15;

/// A disk at its channel.
#[derive(Debug)]
pub struct Drive {
    ports: Channel,
    device: u8,
    /// Ticks that a command may take.
    patience: u64,
    /// Sectors that it has.
    pub sectors: u64,
}

impl Drive {
    /// Asks the disk at `position`, whose channel has these ports, what it is.
    ///
    /// # Safety
    /// The ports are those of an IDE channel that nothing else uses.
    pub unsafe fn identify(ports: Channel, position: Position, tsc_hz: u64) -> Result<Self, Error> {
        let mut drive = Self {
            ports,
            device: BY_SECTOR | if position.slave { SLAVE } else { 0 },
            patience: PATIENCE.saturating_mul(tsc_hz),
            sectors: 0,
        };
        // SAFETY: the caller's promise. A port without a device reads all ones, or zero.
        let words = unsafe {
            outb(ports.control, NO_INTERRUPTS);
            outb(ports.command + DEVICE, drive.device);
            if matches!(drive.settled_status(), 0 | 0xFF) {
                return Err(Error::NoDisk(position));
            }
            drive.select(IDENTIFY_DEVICE)?;
            outb(ports.command + COMMAND, IDENTIFY_DEVICE);
            if drive.settled_status() == 0 {
                return Err(Error::NoDisk(position));
            }
            let is_over = |status| status & (DATA_REQUEST | FAILED | FAULT) != 0;
            drive.wait(IDENTIFY_DEVICE, is_over)?;
            // A CD-ROM drive, for one, refuses this command.
            if drive.status() & DATA_REQUEST == 0 {
                return Err(Error::Unfit(position));
            }
            let mut words = [0; 256];
            for word in &mut words {
                *word = inw(ports.command + DATA);
            }
            words
        };
        let is_fit = words[GENERAL] & NO_ATA == 0
            && words[CAPABILITIES] & HAS_DMA != 0
            && words[COMMAND_SETS] & HAS_48_BITS != 0;
        if !is_fit {
            return Err(Error::Unfit(position));
        }
        drive.sectors = (0..4)
            .map(|i| u64::from(words[SECTORS + i]) << (16 * i))
            .sum();
        Ok(drive)
    }

    /// Transfers `count` sectors, at most 65535, from `sector` on: to or from what `master` has been
    /// prepared for.
    ///
    /// # Safety
    /// `master` is that of this channel, prepared for this direction and as many bytes.
    pub unsafe fn transfer(
        &mut self,
        direction: Direction,
        sector: u64,
        count: u64,
        master: &BusMaster,
    ) -> Result<(), Error> {
        let command = match direction {
            Direction::ToDisk => WRITE_DMA_EXT,
            Direction::FromDisk => READ_DMA_EXT,
        };
        self.select(command)?;
        let [low, mid, high, low_2, mid_2, high_2, ..] = sector.to_le_bytes();
        let [count, count_2, ..] = count.to_le_bytes();
        // Each port takes the upper half first.
        let registers = [
            (COUNT, count_2),
            (LBA_LOW, low_2),
            (LBA_MID, mid_2),
            (LBA_HIGH, high_2),
            (COUNT, count),
            (LBA_LOW, low),
            (LBA_MID, mid),
            (LBA_HIGH, high),
            (COMMAND, command),
        ];
        // SAFETY: the ports are this disk's, and the caller has prepared the bus master.
        unsafe {
            for (port, value) in registers {
                outb(self.ports.command + port, value);
            }
            master.start(direction);
        }
        // The bus master goes on for ever if the disk gives up.
        let result = self.wait(command, |status| {
            status & (FAILED | FAULT) != 0 || status & DATA_REQUEST == 0 && master.is_done()
        });
        let is_well = master.stop(direction);
        result?;
        self.check(command)?;
        if !is_well {
            return Err(Error::Bus { command });
        }
        Ok(())
    }

    /// Has the disk keep what has been written.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.select(FLUSH_CACHE_EXT)?;
        // SAFETY: the port is this disk's.
        unsafe { outb(self.ports.command + COMMAND, FLUSH_CACHE_EXT) }
        self.settled_status();
        self.wait(FLUSH_CACHE_EXT, |_| true)?;
        self.check(FLUSH_CACHE_EXT)
    }

    /// Makes the disk, and not the channel's other one, the one that takes the next command, `command`.
    fn select(&self, command: u8) -> Result<(), Error> {
        // SAFETY: the port is this channel's.
        unsafe { outb(self.ports.command + DEVICE, self.device) }
        self.settled_status();
        self.wait(command, |status| status & DATA_REQUEST == 0)
    }

    /// Waits until the disk is not busy and its status satisfies `is_over`.
    fn wait(&self, command: u8, is_over: impl Fn(u8) -> bool) -> Result<(), Error> {
        let is_in_time = wait::until(self.patience, || {
            let status = self.status();
            status & BUSY == 0 && is_over(status)
        });
        if is_in_time {
            Ok(())
        } else {
            Err(Error::Timeout { command })
        }
    }

    /// Says what the disk says of its last command.
    fn check(&self, command: u8) -> Result<(), Error> {
        // SAFETY: the ports are this disk's. Reading the status takes its interrupt back.
        let (status, error) = unsafe {
            (
                inb(self.ports.command + STATUS),
                inb(self.ports.command + ERROR),
            )
        };
        if status & (FAILED | FAULT) != 0 {
            return Err(Error::Failed {
                command,
                status,
                error,
            });
        }
        Ok(())
    }

    /// The status now.
    fn status(&self) -> u8 {
        // SAFETY: reading the alternate status has no effect.
        unsafe { inb(self.ports.control) }
    }

    /// The status 400 ns after a register was written, before which it means nothing: a read takes
    /// 100 ns.
    fn settled_status(&self) -> u8 {
        for _ in 0..4 {
            self.status();
        }
        self.status()
    }
}
