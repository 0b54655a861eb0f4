//! Segment access rights as the VMCS holds them (SDM Vol. 3, table 25-2).

/// A segment's access-rights word: type in bits 3:0, S in 4, DPL in 6:5, P in
/// 7, AVL in 12, L in 13, D/B in 14, G in 15, unusable in 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct AccessRights(u32);

impl AccessRights {
    /// The bits that hold something; VMWRITE drops the others on some processors.
    pub const DEFINED: u32 = 0x1_f0ff;
    /// The segment may not be used.
    pub const UNUSABLE: Self = Self(1 << 16);
    /// A flat 64-bit code segment, DPL 0, accessed.
    pub const CODE64: Self = Self(0xa09b);
    /// A flat 32-bit code segment, DPL 0, accessed.
    pub const CODE32: Self = Self(0xc09b);
    /// A flat writable data segment, DPL 0, accessed, with D/B and G set.
    pub const DATA: Self = Self(0xc093);
    /// A busy 32-bit (or 64-bit) TSS.
    pub const BUSY_TSS: Self = Self(0x008b);
    /// An LDT.
    pub const LDT: Self = Self(0x0082);

    /// Wraps the field's value.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The field's value.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Bits 3:0 of the descriptor's type.
    #[inline]
    pub const fn segment_type(self) -> u8 {
        (self.0 & 0xf) as u8
    }

    /// S: whether it is a code or data segment, not a system one.
    #[inline]
    pub const fn is_code_or_data(self) -> bool {
        self.0 & (1 << 4) != 0
    }

    /// DPL.
    #[inline]
    pub const fn dpl(self) -> u8 {
        ((self.0 >> 5) & 3) as u8
    }

    /// P.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & (1 << 7) != 0
    }

    /// L: 64-bit code.
    #[inline]
    pub const fn is_long(self) -> bool {
        self.0 & (1 << 13) != 0
    }

    /// Whether this is a 64-bit code segment that is not conforming and has DPL 0. In CS it means
    /// that 64-bit code runs at privilege level 0: only in a conforming segment the level is
    /// another than the segment's.
    #[inline(always)]
    pub const fn is_kernel_code64(self) -> bool {
        const CODE: u32 = 1 << 3;
        const CONFORMING: u32 = 1 << 2;
        const DPL: u32 = 3 << 5;
        const LONG: u32 = 1 << 13;
        self.0 & (CODE | CONFORMING | DPL | LONG) == CODE | LONG
    }

    /// D/B.
    #[inline]
    pub const fn is_default_big(self) -> bool {
        self.0 & (1 << 14) != 0
    }

    /// G: the limit counts pages.
    #[inline]
    pub const fn is_granular(self) -> bool {
        self.0 & (1 << 15) != 0
    }

    /// Whether the segment may be used.
    #[inline]
    pub const fn is_usable(self) -> bool {
        self.0 & (1 << 16) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_segments() {
        let code = AccessRights::CODE64;
        assert!(code.is_long() && code.is_present() && code.is_code_or_data() && code.is_usable());
        assert!(!code.is_default_big());
        assert!(code.is_kernel_code64() && !AccessRights::CODE32.is_kernel_code64());
        // A user's, a conforming one, data, and 32-bit code.
        for other in [0xA0FB, 0xA09F, 0xA093, 0xC09B] {
            assert!(
                !AccessRights::from_raw(other).is_kernel_code64(),
                "{other:#x}"
            );
        }
        assert_eq!((code.segment_type(), code.dpl()), (11, 0));
        assert_eq!(AccessRights::DATA.segment_type(), 3);
        assert!(!AccessRights::BUSY_TSS.is_code_or_data());
        assert!(!AccessRights::UNUSABLE.is_usable());
        for known in [
            code,
            AccessRights::DATA,
            AccessRights::BUSY_TSS,
            AccessRights::LDT,
        ] {
            assert_eq!(known.raw() & !AccessRights::DEFINED, 0);
        }
    }
}
