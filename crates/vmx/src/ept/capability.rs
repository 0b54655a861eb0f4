//! What a processor can do with extended page tables.

use super::{Access, Level};
use crate::ept_vpid;

/// The part of IA32_VMX_EPT_VPID_CAP (MSR 0x48C) that decides which entries,
/// pointers and invalidations are valid, with the width of physical addresses.
///
/// The same type describes the processor under L0 and the one L0 offers to L1.
/// Source: SDM volume 3, appendix A.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptCapabilities {
    /// Entries may permit execution without reading (bit 0).
    pub execute_only: bool,
    /// A walk of four levels is supported (bit 6).
    pub walk_4: bool,
    /// The tables themselves may be accessed uncacheable (bit 8).
    pub uncacheable: bool,
    /// The tables themselves may be accessed write-back (bit 14).
    pub write_back: bool,
    /// Page-directory entries may map 2 MiB pages (bit 16).
    pub page_2m: bool,
    /// Page-directory-pointer entries may map 1 GiB pages (bit 17).
    pub page_1g: bool,
    /// Accessed and dirty flags can be switched on in the EPTP (bit 21).
    pub accessed_dirty: bool,
    /// INVEPT knows the single-context type (bits 20 and 25).
    pub invept_single: bool,
    /// INVEPT knows the all-context type (bits 20 and 26).
    pub invept_all: bool,
    /// Bits in a physical address, MAXPHYADDR: 32 to 52.
    pub address_width: u32,
}

impl EptCapabilities {
    /// Reads the capability MSR's value. `address_width` is MAXPHYADDR
    /// (CPUID 0x8000_0008 EAX bits 7:0), limited to the 52 bits an entry holds.
    ///
    /// Five-level walks and supervisor shadow-stack control have no field
    /// here: hynest neither uses nor offers them.
    pub const fn from_msr(value: u64, address_width: u32) -> Self {
        const SINGLE: u64 = ept_vpid::INVEPT | ept_vpid::INVEPT_SINGLE;
        const ALL: u64 = ept_vpid::INVEPT | ept_vpid::INVEPT_ALL;
        Self {
            execute_only: value & ept_vpid::EXECUTE_ONLY != 0,
            walk_4: value & ept_vpid::WALK_LENGTH_4 != 0,
            uncacheable: value & ept_vpid::MEMORY_TYPE_UC != 0,
            write_back: value & ept_vpid::MEMORY_TYPE_WB != 0,
            page_2m: value & ept_vpid::PAGE_2M != 0,
            page_1g: value & ept_vpid::PAGE_1G != 0,
            accessed_dirty: value & ept_vpid::ACCESSED_DIRTY != 0,
            invept_single: value & SINGLE == SINGLE,
            invept_all: value & ALL == ALL,
            address_width: if address_width > 52 {
                52
            } else {
                address_width
            },
        }
    }

    /// Bits of a 64-bit word that lie above the physical address and below
    /// bit 52: reserved wherever an entry holds an address.
    #[inline]
    pub const fn reserved_address_bits(&self) -> u64 {
        ((1 << 52) - 1) & !((1 << self.address_width) - 1)
    }

    /// Whether an entry of this level may be a leaf.
    #[inline]
    pub const fn leaf_at(&self, level: Level) -> bool {
        match level {
            Level::Pt => true,
            Level::Pd => self.page_2m,
            Level::Pdpt => self.page_1g,
            Level::Pml4 => false,
        }
    }

    /// Whether one entry may hold exactly these permissions.
    #[inline]
    pub const fn can_express(&self, access: Access) -> bool {
        access.expressible(self.execute_only).bits() == access.bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_sets_its_field() {
        let none = EptCapabilities::from_msr(0, 39);
        assert!(!none.execute_only && !none.walk_4 && !none.uncacheable && !none.write_back);
        assert!(!none.page_2m && !none.page_1g && !none.accessed_dirty);
        assert!(!none.invept_single && !none.invept_all);
        assert!(EptCapabilities::from_msr(1 << 0, 39).execute_only);
        assert!(EptCapabilities::from_msr(1 << 6, 39).walk_4);
        assert!(EptCapabilities::from_msr(1 << 8, 39).uncacheable);
        assert!(EptCapabilities::from_msr(1 << 14, 39).write_back);
        assert!(EptCapabilities::from_msr(1 << 16, 39).page_2m);
        assert!(EptCapabilities::from_msr(1 << 17, 39).page_1g);
        assert!(EptCapabilities::from_msr(1 << 21, 39).accessed_dirty);
        assert!(EptCapabilities::from_msr(1 << 20 | 1 << 25, 39).invept_single);
        assert!(EptCapabilities::from_msr(1 << 20 | 1 << 26, 39).invept_all);
        let types_only = EptCapabilities::from_msr(1 << 25 | 1 << 26, 39);
        assert!(!types_only.invept_single && !types_only.invept_all);
    }

    #[test]
    fn address_bits_above_the_width_are_reserved() {
        let caps = EptCapabilities::from_msr(0, 39);
        assert_eq!(caps.reserved_address_bits(), 0x000f_ff80_0000_0000);
        let caps = EptCapabilities::from_msr(0, 60);
        assert_eq!(caps.reserved_address_bits(), 0);
    }
}
