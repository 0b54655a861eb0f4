//! What can be wrong with a disk, in one line each.

use core::fmt::{self, Display, Formatter};

use super::Position;

/// Why a disk is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// No PCI device says that it is an IDE controller and a bus master.
    NoController,
    /// No disk answers.
    NoDisk(Position),
    /// What answers is no disk, or one without 48-bit addresses or DMA.
    Unfit(Position),
    /// L0 has no frame left for the bus master's table.
    NoMemory,
    /// A command does not end.
    Timeout {
        /// The command's code.
        command: u8,
    },
    /// The disk reports an error.
    Failed {
        /// The command's code.
        command: u8,
        /// The disk's status register.
        status: u8,
        /// Its error register.
        error: u8,
    },
    /// The bus master reports an error.
    Bus {
        /// The command's code.
        command: u8,
    },
    /// Memory that the bus master does not reach.
    Unreachable {
        /// Its address.
        address: u64,
    },
    /// Beyond the end of the disk.
    OutOfRange {
        /// The sector.
        sector: u64,
    },
}

impl Display for Position {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let channel = if self.secondary { "ata1" } else { "ata0" };
        let drive = if self.slave { "slave" } else { "master" };
        write!(f, "{channel}-{drive}")
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoController => f.write_str("the machine has no PCI IDE controller with DMA"),
            Self::NoDisk(position) => write!(f, "no disk answers as {position}"),
            Self::Unfit(position) => write!(
                f,
                "what answers as {position} is no disk with 48-bit addresses and DMA"
            ),
            Self::NoMemory => f.write_str("L0's frame pool is empty"),
            Self::Timeout { command } => {
                write!(f, "the disk does not end its command {command:#04x}")
            }
            Self::Failed {
                command,
                status,
                error,
            } => write!(
                f,
                "the disk fails its command {command:#04x}: status {status:#04x}, error {error:#04x}"
            ),
            Self::Bus { command } => write!(
                f,
                "the IDE controller cannot transfer the data of the disk's command {command:#04x}"
            ),
            Self::Unreachable { address } => write!(
                f,
                "the IDE controller does not reach memory at {address:#x}: it needs an even address below 4 GiB"
            ),
            Self::OutOfRange { sector } => {
                write!(f, "sector {sector} lies beyond the end of the disk")
            }
        }
    }
}

impl core::error::Error for Error {}
