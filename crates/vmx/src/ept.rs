//! Extended page tables: the words hardware walks from a guest-physical to a
//! physical address.
//!
//! The same words appear on three sides of a nested hypervisor: in EPT 01
//! (L0's tables for L1), in EPT 12 (L1's tables for L2, which L0 reads from
//! L1's memory and must judge as hardware would) and in EPT 02 (L0's
//! composition of both). Addresses inside a word are therefore raw here; the
//! user of a word knows which space they belong to.
//!
//! Source: SDM volume 3, "The Extended Page Table Mechanism" (28.3 or 29.3,
//! depending on the edition).

mod builder;
mod capability;
mod entry;
mod memory;
mod pointer;

pub use builder::{Builder, Leaf, MapError};
pub use capability::EptCapabilities;
pub use entry::{EptEntry, Misconfiguration};
pub use memory::{TableFrames, TableMemory};
pub use pointer::{Eptp, EptpError};

use bitflags::bitflags;

/// Entries in one table: 512 words of 8 bytes, one 4 KiB page.
pub const ENTRIES: usize = 512;

/// Width in bits of the guest-physical addresses that four levels translate.
pub const WIDTH_OF_4_LEVELS: u32 = 48;

bitflags! {
    /// Ways to touch memory. The bits are those of an entry's permissions
    /// (2:0), of an EPT violation's access (qualification 2:0) and, shifted by
    /// three, of the permissions it reports (qualification 5:3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Access: u8 {
        /// Data reads.
        const READ = 1;
        /// Data writes.
        const WRITE = 2;
        /// Instruction fetches.
        const EXECUTE = 4;
    }
}

impl Access {
    /// Read, write and execute.
    pub const RWX: Self = Self::all();
    /// Read and write.
    pub const RW: Self = Self::READ.union(Self::WRITE);

    /// The access that caused an EPT violation, from its exit qualification.
    #[inline]
    pub const fn from_qualification(qualification: u64) -> Self {
        Self::from_bits_truncate(qualification as u8 & 7)
    }

    /// The most of these permissions that an entry may express: writing needs
    /// reading, and executing needs reading unless the processor has
    /// execute-only entries.
    #[inline]
    pub const fn expressible(self, execute_only: bool) -> Self {
        if self.contains(Self::READ) {
            self
        } else if execute_only {
            self.intersection(Self::EXECUTE)
        } else {
            Self::empty()
        }
    }
}

/// The memory types an EPT leaf can hold (bits 5:3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemoryType {
    /// UC.
    Uncacheable = 0,
    /// WC.
    WriteCombining = 1,
    /// WT.
    WriteThrough = 4,
    /// WP.
    WriteProtected = 5,
    /// WB, that of ordinary memory.
    WriteBack = 6,
}

impl MemoryType {
    /// Decodes the three-bit encoding; `None` for the reserved 2, 3 and 7.
    #[inline]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match bits {
            0 => Some(Self::Uncacheable),
            1 => Some(Self::WriteCombining),
            4 => Some(Self::WriteThrough),
            5 => Some(Self::WriteProtected),
            6 => Some(Self::WriteBack),
            _ => None,
        }
    }
}

/// A table's place in the hierarchy. The number is that of the levels from
/// there down to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// EPT page table: its entries map 4 KiB pages.
    Pt = 1,
    /// EPT page directory: page tables or 2 MiB pages.
    Pd = 2,
    /// EPT page-directory-pointer table: page directories or 1 GiB pages.
    Pdpt = 3,
    /// EPT PML4 table, the root of a four-level walk.
    Pml4 = 4,
}

impl Level {
    /// Bits of the address below this level's index.
    #[inline]
    pub const fn shift(self) -> u32 {
        12 + 9 * (self as u32 - 1)
    }

    /// Bytes that one entry of this level covers.
    #[inline]
    pub const fn entry_bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The index that a guest-physical address selects in a table of this
    /// level, below [`ENTRIES`].
    #[inline]
    pub const fn index(self, address: u64) -> usize {
        (address >> self.shift()) as usize & (ENTRIES - 1)
    }

    /// The level of the tables that this level's entries refer to; `None`
    /// below the page table.
    #[inline]
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::Pml4 => Some(Self::Pdpt),
            Self::Pdpt => Some(Self::Pd),
            Self::Pd => Some(Self::Pt),
            Self::Pt => None,
        }
    }

    /// The page that an entry of this level maps when it is a leaf; `None`
    /// for the PML4, whose entries never are.
    #[inline]
    pub const fn page_size(self) -> Option<PageSize> {
        match self {
            Self::Pt => Some(PageSize::Size4K),
            Self::Pd => Some(PageSize::Size2M),
            Self::Pdpt => Some(PageSize::Size1G),
            Self::Pml4 => None,
        }
    }
}

/// The sizes of page a leaf can map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB, a leaf in a page table.
    Size4K,
    /// 2 MiB, a leaf in a page directory.
    Size2M,
    /// 1 GiB, a leaf in a page-directory-pointer table.
    Size1G,
}

impl PageSize {
    /// Every size, the largest first.
    pub const DESCENDING: [Self; 3] = [Self::Size1G, Self::Size2M, Self::Size4K];

    /// The level of the table that holds leaves of this size.
    #[inline]
    pub const fn level(self) -> Level {
        match self {
            Self::Size4K => Level::Pt,
            Self::Size2M => Level::Pd,
            Self::Size1G => Level::Pdpt,
        }
    }

    /// Bytes in the page.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.level().entry_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_sizes_agree() {
        assert_eq!(PageSize::Size4K.bytes(), 1 << 12);
        assert_eq!(PageSize::Size2M.bytes(), 1 << 21);
        assert_eq!(PageSize::Size1G.bytes(), 1 << 30);
        for size in PageSize::DESCENDING {
            assert_eq!(size.level().page_size(), Some(size));
        }
        assert_eq!(Level::Pml4.page_size(), None);
        assert_eq!(
            Level::Pml4.entry_bytes() << 9,
            1 << WIDTH_OF_4_LEVELS,
            "a full PML4 covers the width"
        );
    }

    #[test]
    fn indices_split_an_address() {
        let address = (3 << 39) | (511 << 30) | (17 << 21) | (256 << 12) | 0xabc;
        assert_eq!(Level::Pml4.index(address), 3);
        assert_eq!(Level::Pdpt.index(address), 511);
        assert_eq!(Level::Pd.index(address), 17);
        assert_eq!(Level::Pt.index(address), 256);
    }

    #[test]
    fn memory_types_round_trip() {
        let mut known = 0;
        for bits in 0..8 {
            if let Some(kind) = MemoryType::from_bits(bits) {
                assert_eq!(kind as u64, bits);
                known += 1;
            }
        }
        assert_eq!(known, 5);
        assert_eq!(MemoryType::from_bits(8), None);
    }

    #[test]
    fn expressible_permissions() {
        let wx = Access::WRITE | Access::EXECUTE;
        assert_eq!(wx.expressible(true), Access::EXECUTE);
        assert_eq!(wx.expressible(false), Access::empty());
        assert_eq!(Access::RWX.expressible(false), Access::RWX);
        assert_eq!(Access::from_qualification(0x1fa), Access::WRITE);
    }
}
