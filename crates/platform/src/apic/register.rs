//! The registers of a local APIC by number, and the bits each has.
//! SDM vol. 3, tables 11-1 and 11-6.

/// An entry of the local vector table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(super) enum LocalVector {
    Timer,
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
}

impl LocalVector {
    pub(super) const COUNT: usize = 6;
    /// The mask bit of every entry.
    pub(super) const MASKED: u32 = 1 << 16;

    /// The bits software can set. Delivery status (12) and remote IRR (14) are
    /// read-only; the rest is reserved.
    pub(super) const fn writable(self) -> u32 {
        const VECTOR: u32 = 0xFF;
        const DELIVERY_MODE: u32 = 7 << 8;
        const POLARITY: u32 = 1 << 13;
        const LEVEL: u32 = 1 << 15;
        const TIMER_MODE: u32 = 3 << 17;
        VECTOR
            | Self::MASKED
            | match self {
                Self::Timer => TIMER_MODE,
                Self::Thermal | Self::Performance => DELIVERY_MODE,
                Self::Lint0 | Self::Lint1 => DELIVERY_MODE | POLARITY | LEVEL,
                Self::Error => 0,
            }
    }

    /// The read-only bits, which may be written with anything.
    pub(super) const fn read_only(self) -> u32 {
        match self {
            Self::Lint0 | Self::Lint1 => 1 << 12 | 1 << 14,
            _ => 1 << 12,
        }
    }
}

/// A register of the local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Register {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    Eoi,
    LogicalDestination,
    DestinationFormat,
    Spurious,
    /// In-service register 0 to 7.
    InService(u8),
    /// Trigger-mode register 0 to 7.
    TriggerMode(u8),
    /// Interrupt-request register 0 to 7.
    Requested(u8),
    ErrorStatus,
    CommandLow,
    CommandHigh,
    Local(LocalVector),
    InitialCount,
    CurrentCount,
    Divide,
    SelfIpi,
}

impl Register {
    /// The register at MSR `0x800 + number`, or at byte `16 * number` of the page.
    pub(super) const fn at(number: u32) -> Option<Self> {
        Some(match number {
            0x02 => Self::Id,
            0x03 => Self::Version,
            0x08 => Self::TaskPriority,
            0x09 => Self::ArbitrationPriority,
            0x0A => Self::ProcessorPriority,
            0x0B => Self::Eoi,
            0x0D => Self::LogicalDestination,
            0x0E => Self::DestinationFormat,
            0x0F => Self::Spurious,
            0x10..=0x17 => Self::InService(number as u8 - 0x10),
            0x18..=0x1F => Self::TriggerMode(number as u8 - 0x18),
            0x20..=0x27 => Self::Requested(number as u8 - 0x20),
            0x28 => Self::ErrorStatus,
            0x30 => Self::CommandLow,
            0x31 => Self::CommandHigh,
            0x32 => Self::Local(LocalVector::Timer),
            0x33 => Self::Local(LocalVector::Thermal),
            0x34 => Self::Local(LocalVector::Performance),
            0x35 => Self::Local(LocalVector::Lint0),
            0x36 => Self::Local(LocalVector::Lint1),
            0x37 => Self::Local(LocalVector::Error),
            0x38 => Self::InitialCount,
            0x39 => Self::CurrentCount,
            0x3E => Self::Divide,
            0x3F => Self::SelfIpi,
            _ => return None,
        })
    }
}

/// Bits of the error status register. SDM vol. 3, 11.5.3.
pub(super) mod error {
    pub(crate) const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub(crate) const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub(crate) const ILLEGAL_REGISTER: u32 = 1 << 7;
}
