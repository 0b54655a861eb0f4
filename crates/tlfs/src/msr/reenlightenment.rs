//! The registers by which a guest hypervisor learns of a migration.

use bitfield_struct::bitfield;
use serde::{Deserialize, Serialize};

/// REENLIGHTENMENT_CONTROL: the interrupt that says "the partition moved".
#[bitfield(u64)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct ReenlightenmentControl {
    /// The interrupt's vector.
    pub vector: u8,
    #[bits(8)]
    __: u8,
    /// The interrupt is wanted.
    pub enabled: bool,
    #[bits(15)]
    __: u16,
    /// Index of the VP that takes it.
    pub target_vp: u32,
}

impl ReenlightenmentControl {
    /// The bits that must be written as zero.
    pub const RESERVED: u64 = 0xFFFE_FF00;
}

/// TSC_EMULATION_CONTROL (bit 0: emulation is wanted after a migration) and
/// TSC_EMULATION_STATUS (bit 0: it is under way).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct TscEmulation {
    /// Wanted, or under way.
    pub active: bool,
    #[bits(63)]
    __: u64,
}

impl TscEmulation {
    /// The bits that have no meaning.
    pub const RESERVED: u64 = !1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_control_decodes() {
        let control = ReenlightenmentControl::from_bits(0x3_0001_00EE);
        assert_eq!(
            (control.vector(), control.enabled(), control.target_vp()),
            (0xEE, true, 3)
        );
        let all = ReenlightenmentControl::new()
            .with_vector(0xFF)
            .with_enabled(true)
            .with_target_vp(u32::MAX);
        assert_eq!(all.into_bits(), !ReenlightenmentControl::RESERVED);
        assert_eq!(
            TscEmulation::new().with_active(true).into_bits(),
            !TscEmulation::RESERVED
        );
    }
}
