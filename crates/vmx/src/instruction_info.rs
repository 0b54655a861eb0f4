//! VM-exit instruction information (SDM Vol. 3, 28.2.5).

/// A segment register, in the numbering that instructions use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentRegister {
    /// ES.
    Es = 0,
    /// CS.
    Cs = 1,
    /// SS.
    Ss = 2,
    /// DS.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

/// The size of a memory operand's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressSize {
    /// 16 bits.
    Bits16,
    /// 32 bits.
    Bits32,
    /// 64 bits.
    Bits64,
}

impl AddressSize {
    /// The bits an effective address has.
    #[inline]
    pub const fn mask(self) -> u64 {
        match self {
            Self::Bits16 => 0xffff,
            Self::Bits32 => 0xffff_ffff,
            Self::Bits64 => u64::MAX,
        }
    }
}

/// The word of the instructions with a VMX-style operand: VMCLEAR, VMPTRLD,
/// VMPTRST, VMXON, XRSTORS, XSAVES (SDM table 28-14), VMREAD and VMWRITE
/// (28-15), INVEPT, INVPCID and INVVPID (28-10). The fields lie in the same
/// places in all of them; which are defined depends on the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct InstructionInfo(u32);

impl InstructionInfo {
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

    /// The factor of the index register: 1, 2, 4 or 8.
    #[inline]
    pub const fn scale(self) -> u64 {
        1 << (self.0 & 3)
    }

    /// The register operand of VMREAD and VMWRITE whose other operand is a
    /// register too (bits 6:3).
    #[inline]
    pub const fn register1(self) -> u8 {
        ((self.0 >> 3) & 0xf) as u8
    }

    /// The size of the operand's address.
    #[inline]
    pub const fn address_size(self) -> AddressSize {
        match (self.0 >> 7) & 7 {
            0 => AddressSize::Bits16,
            1 => AddressSize::Bits32,
            _ => AddressSize::Bits64,
        }
    }

    /// Whether VMREAD or VMWRITE has a register instead of a memory operand.
    #[inline]
    pub const fn is_register(self) -> bool {
        self.0 & (1 << 10) != 0
    }

    /// The segment of the memory operand.
    #[inline]
    pub const fn segment(self) -> SegmentRegister {
        match (self.0 >> 15) & 7 {
            0 => SegmentRegister::Es,
            1 => SegmentRegister::Cs,
            2 => SegmentRegister::Ss,
            4 => SegmentRegister::Fs,
            5 => SegmentRegister::Gs,
            _ => SegmentRegister::Ds,
        }
    }

    /// The index register; `None` when there is none.
    #[inline]
    pub const fn index(self) -> Option<u8> {
        if self.0 & (1 << 22) != 0 {
            None
        } else {
            Some(((self.0 >> 18) & 0xf) as u8)
        }
    }

    /// The base register; `None` when there is none.
    #[inline]
    pub const fn base(self) -> Option<u8> {
        if self.0 & (1 << 27) != 0 {
            None
        } else {
            Some(((self.0 >> 23) & 0xf) as u8)
        }
    }

    /// The other register operand: VMREAD's and VMWRITE's field encoding,
    /// INVEPT's, INVVPID's and INVPCID's type (bits 31:28).
    #[inline]
    pub const fn register2(self) -> u8 {
        (self.0 >> 28) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmread_to_a_register() {
        // vmread %rdi, %rax: register 1 = RAX (0), register form, register 2 = RDI (7).
        let info = InstructionInfo::from_raw(0x7000_0500);
        assert!(info.is_register());
        assert_eq!((info.register1(), info.register2()), (0, 7));
    }

    #[test]
    fn a_memory_operand() {
        // 8(%rsp,%r12,4) in 64-bit mode, SS.
        let raw = 2 | 2 << 7 | 2 << 15 | 12 << 18 | 4 << 23;
        let info = InstructionInfo::from_raw(raw);
        assert!(!info.is_register());
        assert_eq!(info.scale(), 4);
        assert_eq!(info.address_size(), AddressSize::Bits64);
        assert_eq!(info.segment(), SegmentRegister::Ss);
        assert_eq!((info.base(), info.index()), (Some(4), Some(12)));
        let none = InstructionInfo::from_raw(raw | 1 << 22 | 1 << 27);
        assert_eq!((none.base(), none.index()), (None, None));
    }
}
