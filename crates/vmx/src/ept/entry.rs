//! One entry of an extended page table.

use super::{Access, EptCapabilities, Level, MemoryType, PageSize};

/// A 64-bit entry, as hardware reads it.
///
/// | bits | in a leaf | in a reference to a table |
/// | --- | --- | --- |
/// | 2:0 | read, write, execute | the same, for all below |
/// | 5:3 | memory type | reserved |
/// | 6 | ignore PAT | reserved |
/// | 7 | 1 above the page table (there ignored) | 0 |
/// | 8 | accessed, if the EPTP says so | the same |
/// | 9 | dirty, if the EPTP says so | ignored |
/// | 51:12 | page, aligned to its size | table |
///
/// The remaining bits are ignored as long as the controls that give them a
/// meaning (mode-based execution, #VE, sub-page permissions, guest-paging
/// verification) are off. An entry whose bits 2:0 are all zero is not present
/// and all its other bits are ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct EptEntry(u64);

/// What makes an entry an EPT misconfiguration (SDM volume 3, 29.3.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Misconfiguration {
    /// Writable but not readable.
    WriteWithoutRead,
    /// Executable but not readable, on a processor without execute-only entries.
    ExecuteOnly,
    /// A leaf with memory type 2, 3 or 7.
    MemoryType,
    /// Reserved bits are set; those bits.
    Reserved(u64),
}

const LARGE: u64 = 1 << 7;
const IGNORE_PAT: u64 = 1 << 6;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl EptEntry {
    /// The entry that maps nothing.
    pub const EMPTY: Self = Self(0);

    /// Wraps a word as found in a table.
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word to store in a table.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// A reference to the table at `address` (of its low 12 and upper 12 bits
    /// nothing is kept) that permits everything, so that leaves decide.
    #[inline]
    pub const fn table(address: u64) -> Self {
        Self(address & ADDRESS | Access::RWX.bits() as u64)
    }

    /// A leaf for a page of `size` at `address`, rounded down to that size.
    #[inline]
    pub const fn leaf(
        address: u64,
        size: PageSize,
        access: Access,
        memory_type: MemoryType,
        ignore_pat: bool,
    ) -> Self {
        let large = match size {
            PageSize::Size4K => 0,
            _ => LARGE,
        };
        let pat = if ignore_pat { IGNORE_PAT } else { 0 };
        let address = address & ADDRESS & !(size.bytes() - 1);
        Self(address | access.bits() as u64 | (memory_type as u64) << 3 | pat | large)
    }

    /// Whether the entry grants any access, so that its other bits count.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & 7 != 0
    }

    /// What the entry permits.
    #[inline]
    pub const fn access(self) -> Access {
        Access::from_bits_truncate(self.0 as u8 & 7)
    }

    /// Whether a present entry in a table of this level maps a page.
    #[inline]
    pub const fn is_leaf(self, level: Level) -> bool {
        match level {
            Level::Pt => true,
            Level::Pd | Level::Pdpt => self.0 & LARGE != 0,
            Level::Pml4 => false,
        }
    }

    /// The address of the table this entry refers to, or of the 4 KiB page.
    #[inline]
    pub const fn address(self) -> u64 {
        self.0 & ADDRESS
    }

    /// The address of the page of `size` this leaf maps.
    #[inline]
    pub const fn page_address(self, size: PageSize) -> u64 {
        self.0 & ADDRESS & !(size.bytes() - 1)
    }

    /// A leaf's memory type; `None` for the reserved encodings.
    #[inline]
    pub const fn memory_type(self) -> Option<MemoryType> {
        MemoryType::from_bits(self.0 >> 3 & 7)
    }

    /// Whether a leaf overrides the guest's PAT (bit 6).
    #[inline]
    pub const fn ignores_pat(self) -> bool {
        self.0 & IGNORE_PAT != 0
    }

    /// The accessed flag (bit 8), meaningful if the EPTP switches it on.
    #[inline]
    pub const fn accessed(self) -> bool {
        self.0 & ACCESSED != 0
    }

    /// A leaf's dirty flag (bit 9), meaningful if the EPTP switches it on.
    #[inline]
    pub const fn dirty(self) -> bool {
        self.0 & DIRTY != 0
    }

    /// The entry with its accessed flag set, and its dirty flag if `dirty`.
    #[inline]
    pub const fn marked(self, dirty: bool) -> Self {
        Self(self.0 | ACCESSED | if dirty { DIRTY } else { 0 })
    }

    /// Judges an entry of a table of this level as a walk would: whether using
    /// it is an EPT misconfiguration. One that is not present never is.
    ///
    /// # Errors
    /// What is wrong, the permissions before the rest.
    #[inline]
    pub const fn check(
        self,
        level: Level,
        capabilities: &EptCapabilities,
    ) -> Result<(), Misconfiguration> {
        if !self.is_present() {
            return Ok(());
        }
        let access = self.access();
        if !access.contains(Access::READ) {
            if access.contains(Access::WRITE) {
                return Err(Misconfiguration::WriteWithoutRead);
            }
            if !capabilities.execute_only {
                return Err(Misconfiguration::ExecuteOnly);
            }
        }
        let reserved = self.0 & reserved_bits(self.is_leaf(level), level, capabilities);
        if reserved != 0 {
            return Err(Misconfiguration::Reserved(reserved));
        }
        if self.is_leaf(level) && self.memory_type().is_none() {
            return Err(Misconfiguration::MemoryType);
        }
        Ok(())
    }
}

/// The bits that must be zero in a present entry.
const fn reserved_bits(leaf: bool, level: Level, capabilities: &EptCapabilities) -> u64 {
    let kind = if !leaf {
        // Bits 6:3 hold nothing in a reference; bit 7 is clear in one by
        // definition, except in a PML4 entry, where it may not be set.
        match level {
            Level::Pml4 => 0xf8,
            _ => 0x78,
        }
    } else if capabilities.leaf_at(level) {
        // The address bits below the page's size.
        (level.entry_bytes() - 1) & ADDRESS
    } else {
        // Without large pages of this size, bit 7 is one more reserved bit,
        // and the entry is a reference.
        0xf8
    };
    kind | capabilities.reserved_address_bits()
}

impl core::fmt::Debug for EptEntry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if !self.is_present() {
            return write!(f, "EptEntry(empty {:#x})", self.0);
        }
        let flag = |access, name| {
            if self.access().contains(access) {
                name
            } else {
                '-'
            }
        };
        write!(
            f,
            "EptEntry({:#x} {}{}{} {:#x})",
            self.address(),
            flag(Access::READ, 'r'),
            flag(Access::WRITE, 'w'),
            flag(Access::EXECUTE, 'x'),
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [Level; 4] = [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt];

    fn capabilities(execute_only: bool, large: bool) -> EptCapabilities {
        let mut value = 1 << 6 | 1 << 14;
        if execute_only {
            value |= 1;
        }
        if large {
            value |= 3 << 16;
        }
        EptCapabilities::from_msr(value, 39)
    }

    #[test]
    fn permissions_matrix() {
        for level in LEVELS {
            for execute_only in [false, true] {
                let caps = capabilities(execute_only, true);
                for bits in 0..8 {
                    let got = EptEntry::from_raw(0x1000 | bits).check(level, &caps);
                    let want = match bits {
                        0b010 | 0b110 => Err(Misconfiguration::WriteWithoutRead),
                        0b100 if !execute_only => Err(Misconfiguration::ExecuteOnly),
                        _ => Ok(()),
                    };
                    assert_eq!(got, want, "{level:?} {bits:03b}");
                    let access = Access::from_bits_truncate(bits as u8);
                    assert_eq!(got.is_ok(), caps.can_express(access), "{access:?}");
                }
            }
        }
    }

    #[test]
    fn an_absent_entry_is_never_misconfigured() {
        for level in LEVELS {
            for bit in 3..64 {
                let entry = EptEntry::from_raw(1 << bit);
                assert_eq!(entry.check(level, &capabilities(false, false)), Ok(()));
            }
        }
    }

    /// Which single bits, added to a valid entry, are reserved: written out
    /// from the manual's tables and independent of the code above.
    #[test]
    fn reserved_bits_of_every_kind_of_entry() {
        let caps = capabilities(true, true);
        let above_width = 39..52;
        let cases: [(Level, u64, &[core::ops::Range<u32>]); 6] = [
            (Level::Pml4, 0x7, &[3..8, above_width.clone()]),
            (Level::Pdpt, 0x7, &[3..7, above_width.clone()]),
            (Level::Pdpt, 0xb7, &[12..30, above_width.clone()]),
            (Level::Pd, 0x7, &[3..7, above_width.clone()]),
            (Level::Pd, 0xb7, &[12..21, above_width.clone()]),
            (Level::Pt, 0x37, core::slice::from_ref(&above_width)),
        ];
        for (level, base, reserved) in cases {
            for bit in 3..64 {
                let added = base | 1 << bit;
                // Bit 7 turns a reference into a leaf and the type bits change
                // the memory type: those are not about reserved bits.
                let changes_kind = bit == 7 && matches!(level, Level::Pd | Level::Pdpt);
                let changes_type = (3..6).contains(&bit) && base & 0x30 != 0;
                if changes_kind || changes_type || added == base {
                    continue;
                }
                let want = if reserved.iter().any(|range| range.contains(&bit)) {
                    Err(Misconfiguration::Reserved(1 << bit))
                } else {
                    Ok(())
                };
                let got = EptEntry::from_raw(added).check(level, &caps);
                assert_eq!(got, want, "{level:?} {base:#x} bit {bit}");
            }
        }
    }

    #[test]
    fn large_pages_need_the_capability() {
        for level in [Level::Pd, Level::Pdpt] {
            let leaf = EptEntry::from_raw(0x87);
            assert_eq!(leaf.check(level, &capabilities(true, true)), Ok(()));
            assert_eq!(
                leaf.check(level, &capabilities(true, false)),
                Err(Misconfiguration::Reserved(0x80))
            );
        }
        assert!(
            EptEntry::from_raw(0x87)
                .check(Level::Pt, &capabilities(true, false))
                .is_ok()
        );
    }

    #[test]
    fn reserved_memory_types() {
        let caps = capabilities(true, true);
        for kind in 0..8 {
            for (level, base) in [(Level::Pt, 7), (Level::Pd, 0x87), (Level::Pdpt, 0x87)] {
                let got = EptEntry::from_raw(base | kind << 3).check(level, &caps);
                let want = match kind {
                    2 | 3 | 7 => Err(Misconfiguration::MemoryType),
                    _ => Ok(()),
                };
                assert_eq!(got, want, "{level:?} type {kind}");
            }
        }
    }

    #[test]
    fn built_entries_are_valid_and_read_back() {
        let caps = capabilities(true, true);
        for size in PageSize::DESCENDING {
            let page = size.bytes() * 3;
            let leaf = EptEntry::leaf(
                page + 0x123,
                size,
                Access::READ | Access::EXECUTE,
                MemoryType::WriteBack,
                true,
            );
            assert_eq!(leaf.check(size.level(), &caps), Ok(()));
            assert!(leaf.is_leaf(size.level()) && leaf.ignores_pat());
            assert_eq!(leaf.page_address(size), page);
            assert_eq!(leaf.access(), Access::READ | Access::EXECUTE);
            assert_eq!(leaf.memory_type(), Some(MemoryType::WriteBack));
            assert!(!leaf.accessed() && !leaf.dirty());
            assert!(leaf.marked(false).accessed() && !leaf.marked(false).dirty());
            assert!(leaf.marked(true).accessed() && leaf.marked(true).dirty());
            let table = EptEntry::table(page);
            assert_eq!(table.address(), page);
        }
        for level in [Level::Pml4, Level::Pdpt, Level::Pd] {
            let table = EptEntry::table(0x7f_ffff_f000);
            assert_eq!(table.check(level, &caps), Ok(()));
            assert!(!table.is_leaf(level));
        }
    }
}
