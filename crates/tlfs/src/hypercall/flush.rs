//! The flags of the virtual-address flushes.

use bitfield_struct::bitfield;

/// Flags of FlushVirtualAddressSpace, -List and their Ex forms.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct FlushFlags {
    /// On all VPs; the mask or set is ignored.
    pub all_processors: bool,
    /// In all address spaces; the given one is ignored.
    pub all_address_spaces: bool,
    /// Global translations may stay. Not for the List forms.
    pub non_global_only: bool,
    /// Ranges may be of large pages, where EDX bit 14 of leaf 0x40000003
    /// offers it.
    pub extended_ranges: bool,
    #[bits(60)]
    __: u64,
}

impl FlushFlags {
    /// The bits that must be zero.
    pub const RESERVED: u64 = !0xF;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_lie_where_the_tlfs_puts_them() {
        assert_eq!(FlushFlags::new().with_all_processors(true).into_bits(), 1);
        assert_eq!(
            FlushFlags::new().with_all_address_spaces(true).into_bits(),
            2
        );
        assert_eq!(FlushFlags::new().with_non_global_only(true).into_bits(), 4);
        assert_eq!(FlushFlags::new().with_extended_ranges(true).into_bits(), 8);
    }
}
