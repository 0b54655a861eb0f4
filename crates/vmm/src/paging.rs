//! Page tables with which a guest starts in long mode: the first 4 GiB, each
//! address mapped to itself, in 2 MiB pages.
//!
//! Accessed and dirty bits are set from the start, so that the processor never
//! writes to the tables: a walk costs the same each time and no EPT violation
//! comes from it.

/// How many 4 KiB pages the tables take: a PML4, a PDPT and four page directories.
pub const PAGES: u64 = 6;

/// Bytes in one page of tables.
pub const PAGE_SIZE: u64 = 4096;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const PAGE_SIZE_2M: u64 = 1 << 7;

const TABLE: u64 = PRESENT | WRITABLE | ACCESSED;
const LEAF: u64 = PRESENT | WRITABLE | ACCESSED | DIRTY | PAGE_SIZE_2M;

/// The tables as the 64-bit words of [`PAGES`] consecutive pages that will lie at
/// guest-physical address `base` (page-aligned); `base` is then the guest's CR3.
pub fn identity_map(base: u64) -> Vec<u64> {
    debug_assert_eq!(base % PAGE_SIZE, 0);
    let page = |n: u64| base + n * PAGE_SIZE;
    let mut words = vec![0; (PAGES * PAGE_SIZE / 8) as usize];
    words[0] = page(1) | TABLE;
    for directory in 0..4 {
        words[512 + directory as usize] = page(2 + directory) | TABLE;
    }
    for (n, word) in words[1024..].iter_mut().enumerate() {
        *word = (n as u64) << 21 | LEAF;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the processor does with the tables (SDM volume 3, 4-level paging).
    fn walk(words: &[u64], base: u64, address: u64) -> Option<u64> {
        let entry = |table: u64, shift: u32| {
            let index = (address >> shift) & 0x1FF;
            let word = words[(((table - base) / 8) + index) as usize];
            (word & PRESENT != 0).then_some(word)
        };
        let next = |word: u64| word & 0x000F_FFFF_FFFF_F000;
        let pdpt = next(entry(base, 39)?);
        let directory = next(entry(pdpt, 30)?);
        let leaf = entry(directory, 21)?;
        assert_ne!(leaf & PAGE_SIZE_2M, 0);
        Some((next(leaf) & !0x1F_FFFF) | (address & 0x1F_FFFF))
    }

    proptest! {
        #[test]
        fn the_first_4_gib_map_to_themselves(address in 0u64..1 << 32, page in 0u64..0x1000) {
            let base = page * PAGE_SIZE;
            prop_assert_eq!(walk(&identity_map(base), base, address), Some(address));
        }

        #[test]
        fn nothing_above_is_mapped(address in 1u64 << 32..1 << 48) {
            prop_assert_eq!(walk(&identity_map(0x9000), 0x9000, address), None);
        }
    }

    #[test]
    fn the_processor_has_no_bit_to_set() {
        for word in identity_map(0x9000)
            .into_iter()
            .filter(|w| w & PRESENT != 0)
        {
            assert_ne!(word & ACCESSED, 0);
            if word & PAGE_SIZE_2M != 0 {
                assert_ne!(word & DIRTY, 0);
            }
        }
    }
}
