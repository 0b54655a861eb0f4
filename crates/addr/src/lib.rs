//! Addresses of the levels, as types that do not mix.
//!
//! hynest handles three physical address spaces at once: L2's, L1's and the
//! machine's. A number of one used as another is the worst bug a nested
//! hypervisor can have, so each is a type of its own and there is no
//! conversion between them but a translation (EPT12, the partition's memory
//! map) that returns the other type.
#![no_std]
#![forbid(unsafe_code)]

use core::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a 4 KiB page.
pub const PAGE_SIZE: u64 = 4096;
/// Bits of an address that select a byte within its 4 KiB page.
pub const PAGE_MASK: u64 = PAGE_SIZE - 1;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw byte address.
            #[inline]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw byte address.
            #[inline]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The start of the 4 KiB page this address lies in.
            #[inline]
            pub const fn page(self) -> Self {
                Self(self.0 & !PAGE_MASK)
            }

            /// The page frame number: the address divided by 4096.
            #[inline]
            pub const fn frame(self) -> u64 {
                self.0 / PAGE_SIZE
            }

            /// The byte offset within the 4 KiB page.
            #[inline]
            pub const fn page_offset(self) -> u64 {
                self.0 & PAGE_MASK
            }

            /// Whether the address is a multiple of `align`, a power of two.
            #[inline]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// The address rounded down to a multiple of `align`, a power of two.
            #[inline]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }

            /// The address `bytes` further on; `None` past the end of the space.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// A system physical address: a byte of the machine's memory, what L0's
    /// own page tables and the hardware's EPT leaves hold.
    Spa,
    "Spa"
);
address!(
    /// A guest physical address of L1, the partition's own memory map.
    Gpa1,
    "Gpa1"
);
address!(
    /// A guest physical address of L2, translated by L1's EPT (EPT12).
    Gpa2,
    "Gpa2"
);
address!(
    /// A guest linear address, of whichever level the context names.
    Gva,
    "Gva"
);

impl Gva {
    /// Whether the address is canonical with 48 implemented bits.
    #[inline]
    pub const fn is_canonical(self) -> bool {
        // All bits from 47 on are the same: one more in the lowest of them leaves none of the others.
        self.0.wrapping_add(1 << 47) >> 48 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_offsets() {
        let a = Gpa1::new(0x1234_5678);
        assert_eq!(a.page().raw(), 0x1234_5000);
        assert_eq!(a.page_offset(), 0x678);
        assert_eq!(a.frame(), 0x12345);
        assert_eq!(a.align_down(1 << 21).raw(), 0x1220_0000);
    }

    #[test]
    fn addition_stops_at_the_end() {
        assert_eq!(Spa::new(u64::MAX).checked_add(1), None);
        assert_eq!(Spa::new(1).checked_add(1), Some(Spa::new(2)));
    }

    #[test]
    fn canonical_edges() {
        assert!(Gva::new(0x7fff_ffff_ffff).is_canonical());
        assert!(!Gva::new(0x8000_0000_0000).is_canonical());
        assert!(Gva::new(0xffff_8000_0000_0000).is_canonical());
        assert!(!Gva::new(0xffff_7fff_ffff_ffff).is_canonical());
    }
}
