//! Arithmetic and logic on two operands, with the flags it leaves (SDM vol. 1, 3.4.3.1).

/// RFLAGS: carry.
const CF: u64 = 1 << 0;
/// RFLAGS: even parity of the low byte.
const PF: u64 = 1 << 2;
/// RFLAGS: carry out of bit 3.
const AF: u64 = 1 << 4;
/// RFLAGS: zero.
const ZF: u64 = 1 << 6;
/// RFLAGS: sign.
const SF: u64 = 1 << 7;
/// RFLAGS: signed overflow.
const OF: u64 = 1 << 11;

/// What an instruction computes, in the order of the opcodes' bits 5:3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alu {
    /// ADD.
    Add,
    /// OR.
    Or,
    /// ADC: with carry.
    Adc,
    /// SBB: with borrow.
    Sbb,
    /// AND.
    And,
    /// SUB.
    Sub,
    /// XOR.
    Xor,
    /// CMP: SUB for its flags alone.
    Cmp,
    /// TEST: AND for its flags alone.
    Test,
    /// INC: ADD of 1 that leaves the carry flag.
    Inc,
    /// DEC: SUB of 1 that leaves the carry flag.
    Dec,
}

impl Alu {
    /// The eight of opcodes 0x00 to 0x3F and of groups 0x80 to 0x83, by their number.
    pub(super) const fn from_bits(bits: u8) -> Self {
        [
            Self::Add,
            Self::Or,
            Self::Adc,
            Self::Sbb,
            Self::And,
            Self::Sub,
            Self::Xor,
            Self::Cmp,
        ][(bits & 7) as usize]
    }

    /// Whether the result goes to the first operand.
    pub const fn stores(self) -> bool {
        !matches!(self, Self::Cmp | Self::Test)
    }

    /// The result for operands of `size` bytes, zero above them, and RFLAGS after it.
    pub const fn compute(self, size: u8, left: u64, right: u64, rflags: u64) -> (u64, u64) {
        let unused = 64 - 8 * size as u32;
        let mask = u64::MAX >> unused;
        let sign = 1 << (63 - unused);
        let (left, right) = (left & mask, right & mask);
        let carry_in = match self {
            Self::Adc | Self::Sbb => rflags & CF,
            _ => 0,
        };
        let (result, carry, overflow) = match self {
            Self::Add | Self::Adc | Self::Inc => {
                let wide = left as u128 + right as u128 + carry_in as u128;
                let result = wide as u64 & mask;
                let overflow = (left ^ result) & (right ^ result) & sign != 0;
                (result, wide > mask as u128, overflow)
            }
            Self::Sub | Self::Sbb | Self::Cmp | Self::Dec => {
                let result = left.wrapping_sub(right).wrapping_sub(carry_in) & mask;
                let overflow = (left ^ right) & (left ^ result) & sign != 0;
                let borrow = (left as u128) < right as u128 + carry_in as u128;
                (result, borrow, overflow)
            }
            Self::And | Self::Test => (left & right, false, false),
            Self::Or => (left | right, false, false),
            Self::Xor => (left ^ right, false, false),
        };
        let is_logic = matches!(self, Self::And | Self::Test | Self::Or | Self::Xor);
        let mut flags = rflags & !(PF | AF | ZF | SF | OF);
        if !matches!(self, Self::Inc | Self::Dec) {
            flags &= !CF;
            if carry {
                flags |= CF;
            }
        }
        if overflow {
            flags |= OF;
        }
        if result == 0 {
            flags |= ZF;
        }
        if result & sign != 0 {
            flags |= SF;
        }
        if (result as u8).count_ones().is_multiple_of(2) {
            flags |= PF;
        }
        // Undefined after logic; processors clear it.
        if !is_logic && (left ^ right ^ result) & 0x10 != 0 {
            flags |= AF;
        }
        (result, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: u64 = CF | PF | AF | ZF | SF | OF;

    #[test]
    fn results_and_flags() {
        for (alu, size, left, right, before, result, after) in [
            (Alu::Add, 1, 0x7F, 1, 0, 0x80, AF | SF | OF),
            (Alu::Add, 1, 0xFF, 1, 0, 0, CF | PF | AF | ZF),
            (Alu::Adc, 4, 0xFFFF_FFFF, 0, CF, 0, CF | PF | AF | ZF),
            (
                Alu::Adc,
                8,
                u64::MAX,
                u64::MAX,
                CF,
                u64::MAX,
                CF | PF | AF | SF,
            ),
            (Alu::Sub, 4, 0, 1, 0, 0xFFFF_FFFF, CF | PF | AF | SF),
            (Alu::Sub, 4, 0x8000_0000, 1, 0, 0x7FFF_FFFF, PF | AF | OF),
            (Alu::Sbb, 2, 5, 4, CF, 0, PF | ZF),
            (Alu::Sbb, 8, 0, u64::MAX, CF, 0, CF | PF | AF | ZF),
            (Alu::Cmp, 4, 7, 7, ALL, 0, PF | ZF),
            (Alu::And, 4, 0x1_0000_0100, 0x100, ALL, 0x100, PF),
            (Alu::Test, 1, 0x80, 0xFF, 0, 0x80, SF),
            (Alu::Or, 2, 0x8000, 1, CF | OF, 0x8001, SF),
            (Alu::Xor, 8, 3, 3, 0, 0, PF | ZF),
            (Alu::Inc, 4, 0xFFFF_FFFF, 1, CF, 0, CF | PF | AF | ZF),
            (Alu::Dec, 4, 0, 1, 0, 0xFFFF_FFFF, PF | AF | SF),
        ] {
            let got = alu.compute(size, left, right, before | 0x202);
            assert_eq!(got, (result, after | 0x202), "{alu:?} {left:#x} {right:#x}");
        }
    }

    proptest! {
        /// 32-bit sums and differences are what the language has them, overflow and carry too.
        #[test]
        fn agrees_with_the_language(left: u32, right: u32, rflags: u64) {
            let cases = [
                (Alu::Add, left.overflowing_add(right), (left as i32).overflowing_add(right as i32).1),
                (Alu::Sub, left.overflowing_sub(right), (left as i32).overflowing_sub(right as i32).1),
            ];
            for (alu, (result, carry), overflow) in cases {
                let (got, flags) = alu.compute(4, left.into(), right.into(), rflags);
                prop_assert_eq!(got, u64::from(result));
                prop_assert_eq!(flags & CF != 0, carry);
                prop_assert_eq!(flags & OF != 0, overflow);
                prop_assert_eq!(flags & !ALL, rflags & !ALL);
            }
        }
    }
}
