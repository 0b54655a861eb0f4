//! What a local APIC answers to, and how destinations match it.
//! SDM vol. 3, 11.6.2 and 11.12.10.

use crate::interrupt::Destination;
use serde::{Deserialize, Serialize};

/// The operating mode that IA32_APIC_BASE selects. SDM vol. 3, 11.12.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// Globally disabled: the VP has no local APIC.
    Disabled,
    /// Registers are memory.
    XApic,
    /// Registers are MSRs.
    X2Apic,
}

/// What a local APIC answers to: its ids and how it reads a logical destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApicAddress {
    /// The operating mode.
    pub mode: Mode,
    /// The APIC id.
    pub id: u32,
    /// The logical id: bits 31:24 of LDR in xAPIC mode; unused in x2APIC mode,
    /// where the logical id follows from the id.
    pub logical: u8,
    /// Whether DFR selects the cluster model (xAPIC mode).
    pub cluster: bool,
    /// Whether the spurious-vector register enables the APIC: a disabled one
    /// takes INIT, startup messages and NMIs only.
    pub enabled: bool,
}

impl ApicAddress {
    /// The logical id that an x2APIC with this id has (SDM 11.12.10.2): cluster in the
    /// high half, one bit of the low half.
    pub const fn x2apic_logical(id: u32) -> u32 {
        (id >> 4) << 16 | 1 << (id & 0xF)
    }

    /// Whether fixed interrupts are taken.
    pub fn accepts_interrupts(&self) -> bool {
        self.enabled && self.mode != Mode::Disabled
    }

    /// Whether a message with this destination is for this APIC. `is_sender`
    /// says whether it also sent it.
    pub fn matches(&self, destination: Destination, is_sender: bool) -> bool {
        if self.mode == Mode::Disabled {
            return false;
        }
        match destination {
            Destination::All => true,
            Destination::AllButSender => !is_sender,
            Destination::Physical(id) => id == self.id,
            Destination::Logical(mda) => self.matches_logical(mda),
        }
    }

    fn matches_logical(&self, mda: u32) -> bool {
        if self.mode == Mode::X2Apic {
            let own = Self::x2apic_logical(self.id);
            return mda >> 16 == own >> 16 && mda & own & 0xFFFF != 0;
        }
        let Ok(mda) = u8::try_from(mda) else {
            return false;
        };
        if self.cluster {
            mda >> 4 == self.logical >> 4 && mda & self.logical & 0xF != 0
        } else {
            mda & self.logical != 0
        }
    }

    /// The address as one word, to be kept in an atomic.
    pub(super) const fn to_bits(self) -> u64 {
        self.id as u64
            | (self.logical as u64) << 32
            | (self.mode as u64) << 40
            | (self.cluster as u64) << 42
            | (self.enabled as u64) << 43
    }

    /// The inverse of [`to_bits`](Self::to_bits).
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self {
            mode: match bits >> 40 & 3 {
                1 => Mode::XApic,
                2 => Mode::X2Apic,
                _ => Mode::Disabled,
            },
            id: bits as u32,
            logical: (bits >> 32) as u8,
            cluster: bits >> 42 & 1 != 0,
            enabled: bits >> 43 & 1 != 0,
        }
    }
}
