//! The extended-page-table pointer.

use super::{EptCapabilities, MemoryType};

/// The EPTP of a VMCS (SDM volume 3, "Extended-Page-Table Pointer").
///
/// | bits | meaning |
/// | --- | --- |
/// | 2:0 | memory type for accesses to the tables |
/// | 5:3 | walk length minus one |
/// | 6 | accessed and dirty flags on |
/// | 7 | supervisor shadow-stack control on |
/// | 11:8 | reserved |
/// | 51:12 | root table |
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Eptp(u64);

/// Why VM entry, INVEPT or EPTP switching refuses an EPTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EptpError {
    /// The memory type is neither UC nor WB, or the processor lacks that one.
    MemoryType(u8),
    /// The processor does not walk this many levels (bits 5:3, plus one).
    WalkLength(u8),
    /// Accessed and dirty flags are on but the processor has none.
    AccessedDirty,
    /// Reserved bits are set (11:7, or above the address width); those bits.
    Reserved(u64),
}

const ROOT: u64 = 0x000f_ffff_ffff_f000;
const ACCESSED_DIRTY: u64 = 1 << 6;

impl Eptp {
    /// Wraps a VMCS field's value or an INVEPT operand.
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// A pointer to a four-level hierarchy whose tables are ordinary
    /// (write-back) memory, without accessed and dirty flags. `root` is the
    /// PML4's address; its low 12 bits are dropped.
    #[inline]
    pub const fn new(root: u64) -> Self {
        Self(root & ROOT | 3 << 3 | MemoryType::WriteBack as u64)
    }

    /// The value for a VMCS field or an INVEPT descriptor.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The root table's address. It is what the processor tags cached
    /// translations with (EP4TA): pointers that differ only elsewhere are
    /// one address space to it.
    #[inline]
    pub const fn root(self) -> u64 {
        self.0 & ROOT
    }

    /// Whether the processor maintains accessed and dirty flags.
    #[inline]
    pub const fn accessed_dirty(self) -> bool {
        self.0 & ACCESSED_DIRTY != 0
    }

    /// The check of VM entry, also made by INVEPT's single-context form and by
    /// EPTP switching (SDM volume 3, "VM-Execution Control Fields" among the
    /// checks on VMX controls).
    ///
    /// # Errors
    /// The first rule broken.
    pub const fn check(self, capabilities: &EptCapabilities) -> Result<(), EptpError> {
        let memory_type = self.0 as u8 & 7;
        let supported = match MemoryType::from_bits(memory_type as u64) {
            Some(MemoryType::Uncacheable) => capabilities.uncacheable,
            Some(MemoryType::WriteBack) => capabilities.write_back,
            _ => false,
        };
        if !supported {
            return Err(EptpError::MemoryType(memory_type));
        }
        let length = (self.0 >> 3) as u8 & 7;
        if length != 3 || !capabilities.walk_4 {
            return Err(EptpError::WalkLength(length + 1));
        }
        if self.accessed_dirty() && !capabilities.accessed_dirty {
            return Err(EptpError::AccessedDirty);
        }
        let above = !((1 << capabilities.address_width) - 1);
        let reserved = self.0 & (0xf80 | above);
        if reserved != 0 {
            return Err(EptpError::Reserved(reserved));
        }
        Ok(())
    }
}

impl core::fmt::Debug for Eptp {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Eptp({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: EptCapabilities =
        EptCapabilities::from_msr(1 | 1 << 6 | 1 << 8 | 1 << 14 | 1 << 21, 39);

    #[test]
    fn a_built_pointer_is_valid() {
        let eptp = Eptp::new(0x12_3456_7fff);
        assert_eq!(eptp.raw(), 0x12_3456_701e);
        assert_eq!(eptp.root(), 0x12_3456_7000);
        assert_eq!(eptp.check(&ALL), Ok(()));
    }

    #[test]
    fn memory_types() {
        for kind in 0..8u8 {
            let eptp = Eptp::from_raw(0x1018 | u64::from(kind));
            let want = match kind {
                0 | 6 => Ok(()),
                _ => Err(EptpError::MemoryType(kind)),
            };
            assert_eq!(eptp.check(&ALL), want);
        }
        let mut less = ALL;
        less.uncacheable = false;
        assert_eq!(
            Eptp::from_raw(0x1018).check(&less),
            Err(EptpError::MemoryType(0))
        );
        less = ALL;
        less.write_back = false;
        assert_eq!(
            Eptp::from_raw(0x101e).check(&less),
            Err(EptpError::MemoryType(6))
        );
    }

    #[test]
    fn walk_lengths() {
        for length in 0..8u64 {
            let want = match length {
                3 => Ok(()),
                n => Err(EptpError::WalkLength(n as u8 + 1)),
            };
            assert_eq!(Eptp::from_raw(0x1006 | length << 3).check(&ALL), want);
        }
    }

    #[test]
    fn accessed_and_dirty_need_the_capability() {
        let eptp = Eptp::from_raw(0x105e);
        assert_eq!(eptp.check(&ALL), Ok(()));
        let mut without = ALL;
        without.accessed_dirty = false;
        assert_eq!(eptp.check(&without), Err(EptpError::AccessedDirty));
    }

    #[test]
    fn every_reserved_bit() {
        for bit in (7..12).chain(39..64) {
            assert_eq!(
                Eptp::from_raw(0x101e | 1 << bit).check(&ALL),
                Err(EptpError::Reserved(1 << bit))
            );
        }
        for bit in 12..39 {
            assert_eq!(Eptp::from_raw(0x1e | 1 << bit).check(&ALL), Ok(()));
        }
    }
}
