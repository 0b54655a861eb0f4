//! The synthetic timers' registers.

use bitfield_struct::bitfield;
use serde::{Deserialize, Serialize};

/// Synthetic timers of a VP.
pub const STIMER_COUNT: usize = 4;

/// STIMERn_CONFIG.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct StimerConfig {
    /// The timer runs.
    pub enabled: bool,
    /// COUNT is a period, not a deadline.
    pub periodic: bool,
    /// A late expiration may be skipped rather than caught up with.
    pub lazy: bool,
    /// Writing a COUNT other than zero enables the timer.
    pub auto_enable: bool,
    /// The interrupt's vector in direct mode.
    pub vector: u8,
    /// The timer asserts an interrupt; otherwise it sends a message to `sint`.
    pub direct: bool,
    #[bits(3)]
    __: u8,
    /// The SynIC's interrupt source that the message goes to.
    #[bits(4)]
    pub sint: u8,
    #[bits(44)]
    __: u64,
}

impl StimerConfig {
    /// The bits that have no meaning and must be written as zero.
    pub const RESERVED: u64 = !0xF_1FFF;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_configuration_decodes() {
        let config = StimerConfig::from_bits(0x1ED9);
        assert!(config.enabled() && config.auto_enable() && config.direct());
        assert!(!config.periodic() && !config.lazy());
        assert_eq!(config.vector(), 0xED);
        assert_eq!(config.sint(), 0);
        assert_eq!(StimerConfig::new().with_sint(0xF).into_bits(), 0xF << 16);
    }

    #[test]
    fn reserved_bits_are_those_without_a_field() {
        let all = StimerConfig::new()
            .with_enabled(true)
            .with_periodic(true)
            .with_lazy(true)
            .with_auto_enable(true)
            .with_vector(0xFF)
            .with_direct(true)
            .with_sint(0xF);
        assert_eq!(all.into_bits(), !StimerConfig::RESERVED);
    }
}
