//! An interrupt message on its way from a source (IOAPIC pin, ICR, MSI) to
//! local APICs. SDM vol. 3, 11.6 (IPIs) and 11.11 (message format).

/// What a message does at its target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryMode {
    /// The vector, at every target.
    Fixed,
    /// The vector, at one of the targets.
    LowestPriority,
    /// A system management interrupt. No VP has SMM: dropped.
    Smi,
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: the VP resets and waits for a startup message.
    Init,
    /// Startup: the VP begins at page `vector` in real mode.
    Startup,
    /// An interrupt whose vector an external PIC gives. There is no PIC: dropped.
    ExtInt,
}

impl DeliveryMode {
    /// The mode in bits 10:8 of an ICR, redirection entry or MSI; `None` for
    /// the encodings that are reserved everywhere.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            7 => Self::ExtInt,
            _ => return None,
        })
    }
}

/// How the source signals; decides whether an EOI goes back to the IOAPIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// One message an edge.
    Edge,
    /// The line stays up until the device is served.
    Level,
}

/// Which local APICs a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The APIC with this id.
    Physical(u32),
    /// Every APIC whose logical id matches, each by its own model: x2APIC
    /// cluster, xAPIC flat or xAPIC cluster.
    Logical(u32),
    /// All APICs.
    All,
    /// All APICs but the sender's.
    AllButSender,
}

impl Destination {
    /// The destination of an 8-bit field (xAPIC ICR, IOAPIC, MSI).
    pub const fn from_xapic(logical: bool, field: u8) -> Self {
        match (logical, field) {
            (_, 0xFF) => Self::All,
            (false, id) => Self::Physical(id as u32),
            (true, mda) => Self::Logical(mda as u32),
        }
    }

    /// The destination of a 32-bit field (x2APIC ICR).
    pub const fn from_x2apic(logical: bool, field: u32) -> Self {
        match (logical, field) {
            (_, u32::MAX) => Self::All,
            (false, id) => Self::Physical(id),
            (true, mda) => Self::Logical(mda),
        }
    }
}

/// One interrupt message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// What it does.
    pub mode: DeliveryMode,
    /// Interrupt vector; page number for [`DeliveryMode::Startup`].
    pub vector: u8,
    /// How its source signals.
    pub trigger: Trigger,
    /// Whom it is for.
    pub destination: Destination,
}
