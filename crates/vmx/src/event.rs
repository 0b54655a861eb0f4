//! Interruption information: events that are injected, that caused an exit or
//! whose delivery an exit interrupted (SDM Vol. 3, 25.8.3, 25.9.2, 25.9.3).

/// The type of an event (bits 10:8 of an interruption-information word).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EventType {
    /// An external interrupt.
    ExternalInterrupt = 0,
    /// Reserved (type 1).
    Reserved = 1,
    /// A non-maskable interrupt.
    Nmi = 2,
    /// A fault, trap or abort raised by the processor.
    HardwareException = 3,
    /// INT n.
    SoftwareInterrupt = 4,
    /// INT1.
    PrivilegedSoftwareException = 5,
    /// INT3 or INTO.
    SoftwareException = 6,
    /// No event: a monitor trap flag exit is pended (entry only).
    Other = 7,
}

impl EventType {
    #[inline]
    const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::ExternalInterrupt,
            1 => Self::Reserved,
            2 => Self::Nmi,
            3 => Self::HardwareException,
            4 => Self::SoftwareInterrupt,
            5 => Self::PrivilegedSoftwareException,
            6 => Self::SoftwareException,
            _ => Self::Other,
        }
    }

    /// Whether delivery takes the instruction-length field: types 4, 5 and 6.
    #[inline]
    pub const fn is_software(self) -> bool {
        matches!(
            self,
            Self::SoftwareInterrupt | Self::PrivilegedSoftwareException | Self::SoftwareException
        )
    }
}

/// An interruption-information word: vector in bits 7:0, type in 10:8,
/// error code valid in 11, NMI unblocking due to IRET in 12 (exits only),
/// valid in 31.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct InterruptionInfo(u32);

impl InterruptionInfo {
    /// No event.
    pub const NONE: Self = Self(0);
    /// The valid bit.
    pub const VALID: u32 = 1 << 31;
    /// The bit that says an error code goes with the event.
    pub const ERROR_CODE_VALID: u32 = 1 << 11;
    /// NMI unblocking due to IRET, in exit interruption information.
    pub const NMI_UNBLOCKING: u32 = 1 << 12;
    /// Bits that must be zero in a valid entry interruption information.
    pub const ENTRY_RESERVED: u32 = 0x7fff_f000;

    /// A word as a VMCS holds it.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The word as a VMCS holds it.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// A valid event without an error code.
    #[inline]
    pub const fn new(kind: EventType, vector: u8) -> Self {
        Self(Self::VALID | (kind as u32) << 8 | vector as u32)
    }

    /// The same event with an error code.
    #[inline]
    pub const fn with_error_code(self) -> Self {
        Self(self.0 | Self::ERROR_CODE_VALID)
    }

    /// An external interrupt.
    #[inline]
    pub const fn external_interrupt(vector: u8) -> Self {
        Self::new(EventType::ExternalInterrupt, vector)
    }

    /// An NMI.
    #[inline]
    pub const fn nmi() -> Self {
        Self::new(EventType::Nmi, 2)
    }

    /// A hardware exception; whether it carries an error code follows from
    /// the vector, as in protected mode.
    #[inline]
    pub const fn exception(vector: u8) -> Self {
        let info = Self::new(EventType::HardwareException, vector);
        if Self::vector_has_error_code(vector) {
            info.with_error_code()
        } else {
            info
        }
    }

    /// Whether a hardware exception with this vector pushes an error code in
    /// protected mode: #DF, #TS, #NP, #SS, #GP, #PF and #AC (#CP apart, which
    /// needs CET).
    #[inline]
    pub const fn vector_has_error_code(vector: u8) -> bool {
        vector < 32 && (1u32 << vector) & 0x0002_7d00 != 0
    }

    /// The vector.
    #[inline]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The event's type.
    #[inline]
    pub const fn event_type(self) -> EventType {
        EventType::from_bits(self.0 >> 8)
    }

    /// Whether an error code goes with the event.
    #[inline]
    pub const fn has_error_code(self) -> bool {
        self.0 & Self::ERROR_CODE_VALID != 0
    }

    /// Whether the word holds an event.
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// Whether the event is a valid NMI.
    #[inline]
    pub const fn is_nmi(self) -> bool {
        self.0 & (Self::VALID | 0x700) == Self::VALID | 0x200
    }

    /// The same event as VM entry takes it for injection: without what only exits tell.
    #[inline]
    pub const fn for_entry(self) -> Self {
        Self(self.0 & !Self::ENTRY_RESERVED)
    }

    /// Whether the event is the valid hardware exception `vector`.
    #[inline]
    pub const fn is_exception(self, vector: u8) -> bool {
        self.0 & (Self::VALID | 0x7ff) == Self::VALID | 0x300 | vector as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_the_sdm_lays_them_out() {
        assert_eq!(
            InterruptionInfo::external_interrupt(0xec).raw(),
            0x8000_00ec
        );
        assert_eq!(InterruptionInfo::nmi().raw(), 0x8000_0202);
        assert_eq!(InterruptionInfo::exception(14).raw(), 0x8000_0b0e);
        assert_eq!(InterruptionInfo::exception(6).raw(), 0x8000_0306);
        assert!(InterruptionInfo::exception(14).is_exception(14));
        assert!(!InterruptionInfo::nmi().is_exception(2));
        assert!(InterruptionInfo::nmi().is_nmi());
    }

    #[test]
    fn error_codes_go_with_the_right_vectors() {
        for vector in 0..=255u8 {
            assert_eq!(
                InterruptionInfo::vector_has_error_code(vector),
                [8, 10, 11, 12, 13, 14, 17].contains(&vector),
                "{vector}"
            );
        }
    }
}
