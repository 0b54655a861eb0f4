//! Exit qualifications (SDM Vol. 3, 28.2.1).

/// What a control-register access does (SDM table 28-3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrAccess {
    /// MOV to CR `cr` from general-purpose register `gpr`.
    MovTo {
        /// 0, 3, 4 or 8.
        cr: u8,
        /// Register number, 0 = RAX ... 15 = R15.
        gpr: u8,
    },
    /// MOV from CR `cr` to general-purpose register `gpr`.
    MovFrom {
        /// 3 or 8.
        cr: u8,
        /// Register number, 0 = RAX ... 15 = R15.
        gpr: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW with the 16-bit operand `source`.
    Lmsw {
        /// The operand's value.
        source: u16,
    },
}

impl CrAccess {
    /// Decodes the qualification of a control-register exit.
    #[inline]
    pub const fn from_qualification(q: u64) -> Self {
        let cr = (q & 0xf) as u8;
        let gpr = ((q >> 8) & 0xf) as u8;
        match (q >> 4) & 3 {
            0 => Self::MovTo { cr, gpr },
            1 => Self::MovFrom { cr, gpr },
            2 => Self::Clts,
            _ => Self::Lmsw {
                source: (q >> 16) as u16,
            },
        }
    }
}

/// A MOV DR (SDM table 28-4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrAccess {
    /// Debug register, 0-7.
    pub dr: u8,
    /// General-purpose register, 0 = RAX ... 15 = R15.
    pub gpr: u8,
    /// Whether the debug register is read (MOV from DR).
    pub is_read: bool,
}

impl DrAccess {
    /// Decodes the qualification of a MOV DR exit.
    #[inline]
    pub const fn from_qualification(q: u64) -> Self {
        Self {
            dr: (q & 7) as u8,
            gpr: ((q >> 8) & 0xf) as u8,
            is_read: q & 0x10 != 0,
        }
    }
}

/// An I/O instruction (SDM table 28-5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct IoAccess(u64);

impl IoAccess {
    /// Wraps the qualification of an I/O exit.
    #[inline]
    pub const fn from_qualification(q: u64) -> Self {
        Self(q)
    }

    /// Bytes per access: 1, 2 or 4.
    #[inline]
    pub const fn size(self) -> u8 {
        (self.0 & 7) as u8 + 1
    }

    /// Whether it is IN or INS.
    #[inline]
    pub const fn is_in(self) -> bool {
        self.0 & 8 != 0
    }

    /// Whether it is INS or OUTS.
    #[inline]
    pub const fn is_string(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// Whether it has a REP prefix.
    #[inline]
    pub const fn is_rep(self) -> bool {
        self.0 & 0x20 != 0
    }

    /// Whether the port is an immediate operand instead of DX.
    #[inline]
    pub const fn is_immediate(self) -> bool {
        self.0 & 0x40 != 0
    }

    /// The port.
    #[inline]
    pub const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// An EPT violation's qualification (SDM table 28-7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct EptViolation(u64);

impl EptViolation {
    /// The access was a data read.
    pub const READ: u64 = 1 << 0;
    /// The access was a data write.
    pub const WRITE: u64 = 1 << 1;
    /// The access was an instruction fetch.
    pub const FETCH: u64 = 1 << 2;
    /// The address was readable; WRITABLE and EXECUTABLE are the next bits up.
    pub const READABLE: u64 = 1 << 3;
    /// The address was writable.
    pub const WRITABLE: u64 = 1 << 4;
    /// The address was executable (by supervisor-mode linear addresses with
    /// mode-based execute control).
    pub const EXECUTABLE: u64 = 1 << 5;
    /// The guest-linear-address field is valid.
    pub const LINEAR_VALID: u64 = 1 << 7;
    /// The access was to the translation of the linear address, not to a
    /// paging-structure entry.
    pub const FINAL_TRANSLATION: u64 = 1 << 8;
    /// NMI unblocking due to IRET.
    pub const NMI_UNBLOCKING: u64 = 1 << 12;

    /// Wraps a qualification.
    #[inline]
    pub const fn from_qualification(q: u64) -> Self {
        Self(q)
    }

    /// The word as the VMCS holds it.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether the access was a data read.
    #[inline]
    pub const fn is_read(self) -> bool {
        self.0 & Self::READ != 0
    }

    /// Whether the access was a data write.
    #[inline]
    pub const fn is_write(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// Whether the access was an instruction fetch.
    #[inline]
    pub const fn is_fetch(self) -> bool {
        self.0 & Self::FETCH != 0
    }

    /// Whether the guest-linear-address field is valid.
    #[inline]
    pub const fn linear_valid(self) -> bool {
        self.0 & Self::LINEAR_VALID != 0
    }

    /// Whether the access was to the linear address's translation.
    #[inline]
    pub const fn is_final(self) -> bool {
        self.0 & Self::FINAL_TRANSLATION != 0
    }

    /// The same access with the permissions (bits 5:3) of another mapping:
    /// what L0 tells L1 about EPT12.
    #[inline]
    pub const fn with_permissions(self, read: bool, write: bool, execute: bool) -> Self {
        let bits = (read as u64) << 3 | (write as u64) << 4 | (execute as u64) << 5;
        Self(self.0 & !0x38 | bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_register_accesses() {
        assert_eq!(
            CrAccess::from_qualification(0x300),
            CrAccess::MovTo { cr: 0, gpr: 3 }
        );
        assert_eq!(
            CrAccess::from_qualification(0xf13),
            CrAccess::MovFrom { cr: 3, gpr: 15 }
        );
        assert_eq!(CrAccess::from_qualification(0x20), CrAccess::Clts);
        assert_eq!(
            CrAccess::from_qualification(0x000f_0030),
            CrAccess::Lmsw { source: 15 }
        );
    }

    #[test]
    fn io_instructions() {
        let out = IoAccess::from_qualification(0x03f8_0000);
        assert_eq!((out.port(), out.size(), out.is_in()), (0x3f8, 1, false));
        let rep_insd = IoAccess::from_qualification(0x01f0_003b);
        assert_eq!((rep_insd.port(), rep_insd.size()), (0x1f0, 4));
        assert!(rep_insd.is_in() && rep_insd.is_string() && rep_insd.is_rep());
    }

    #[test]
    fn permissions_are_replaced_and_the_rest_kept() {
        let q = EptViolation::from_qualification(0x1ba).with_permissions(true, false, true);
        assert_eq!(q.raw(), 0x1aa);
    }
}
