//! Finding the IDE controller among the PCI devices (configuration mechanism 1).

use super::error::Error;
use crate::cpu::port::{inl, outl};

const CONFIGURATION_ADDRESS: u16 = 0xCF8;
const CONFIGURATION_DATA: u16 = 0xCFC;

/// Vendor and device.
const IDENTITY: u8 = 0x00;
const COMMAND: u8 = 0x04;
/// Class, subclass, programming interface, revision.
const CLASS: u8 = 0x08;
const HEADER_TYPE: u8 = 0x0C;
const BAR: u8 = 0x10;

const NOBODY: u32 = 0xFFFF_FFFF;
/// Mass storage, IDE.
const IDE: u32 = 0x0101;
/// In the header type's doubleword: the device has several functions.
const SEVERAL_FUNCTIONS: u32 = 1 << 23;
/// I/O space and bus mastering.
const IO_AND_MASTER: u32 = 1 << 0 | 1 << 2;
/// In a base address register: of I/O space.
const IO_SPACE: u32 = 1;

/// The ports of an IDE channel.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// First of the eight command ports.
    pub command: u16,
    /// Alternate status and device control.
    pub control: u16,
    /// First of the bus master's eight ports.
    pub master: u16,
}

/// An IDE controller.
#[derive(Debug)]
pub struct Controller {
    interface: u8,
    bars: [u16; 5],
}

impl Controller {
    /// The ports of one of its channels.
    pub fn channel(&self, secondary: bool) -> Channel {
        let number = usize::from(secondary);
        // A channel is where IDE has always been, or, in native mode, where its registers say.
        let is_native = self.interface & (1 << (2 * number)) != 0;
        let (command, control) = match (is_native, secondary) {
            (true, _) => (self.bars[2 * number], self.bars[2 * number + 1] + 2),
            (false, false) => (0x1F0, 0x3F6),
            (false, true) => (0x170, 0x376),
        };
        Channel {
            command,
            control,
            master: self.bars[4] + 8 * number as u16,
        }
    }
}

/// Finds the first IDE controller that is a bus master, and makes it one.
///
/// # Safety
/// Nothing else uses the PCI configuration ports meanwhile.
pub unsafe fn find_ide() -> Result<Controller, Error> {
    for device in 0..256 * 32 {
        // SAFETY: the caller's promise; reading configuration has no effect.
        let several = unsafe {
            if read(device << 3, IDENTITY) == NOBODY {
                continue;
            }
            read(device << 3, HEADER_TYPE) & SEVERAL_FUNCTIONS != 0
        };
        let functions = if several { 8 } else { 1 };
        for function in (0..functions).map(|function| device << 3 | function) {
            // SAFETY: as above; the command register is the controller's, which is L0's.
            unsafe {
                let class = read(function, CLASS);
                let master = read(function, BAR + 4 * 4);
                if class >> 16 == IDE && master & IO_SPACE != 0 && master & !3 != 0 {
                    // The upper half is status, whose bits a one would clear.
                    let command = read(function, COMMAND) & 0xFFFF;
                    write(function, COMMAND, command | IO_AND_MASTER);
                    let bars = [0, 1, 2, 3, 4].map(|bar| read(function, BAR + 4 * bar) as u16 & !3);
                    let interface = (class >> 8) as u8;
                    return Ok(Controller { interface, bars });
                }
            }
        }
    }
    Err(Error::NoController)
}

/// # Safety
/// As [`find_ide`].
unsafe fn read(function: u32, register: u8) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        outl(CONFIGURATION_ADDRESS, address(function, register));
        inl(CONFIGURATION_DATA)
    }
}

/// # Safety
/// As [`find_ide`], and the write does what L0 means.
unsafe fn write(function: u32, register: u8, value: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        outl(CONFIGURATION_ADDRESS, address(function, register));
        outl(CONFIGURATION_DATA, value);
    }
}

const fn address(function: u32, register: u8) -> u32 {
    1 << 31 | function << 8 | register as u32
}
