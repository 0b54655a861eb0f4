//! The bitmap that L2 runs on: L0's and L1's, bit by bit.

use super::{MsrAccess, MsrBitmap, WORDS, position};
use crate::bitmap_page::BitmapPage;

/// A set of words of a bitmap.
type WordSet = [u64; WORDS / 64];

/// First of the four words with reads of the x2APIC's MSRs, 0x800 to 0x8FF.
const X2APIC_READS: usize = 0x800 / 64;
/// First of the four words with writes of the x2APIC's MSRs.
const X2APIC_WRITES: usize = X2APIC_READS + WORDS / 2;

/// The x2APIC registers that L2 may reach without an exit, if L1 agrees.
///
/// They are open only while hardware redirects them to L1's virtual-APIC page
/// ("virtualize x2APIC mode" in VMCS 02): otherwise L2 would reach the physical
/// APIC. So the caller says for each merge what the controls of VMCS 12 allow,
/// and L0's own bitmap has no say here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct X2apicOpening {
    /// By register, a bit each, from 0x800: reads that may be open.
    reads: [u64; 4],
    /// The same for writes.
    writes: [u64; 4],
}

impl X2apicOpening {
    /// No register: x2APIC mode is not virtualised.
    pub const NONE: Self = Self {
        reads: [0; 4],
        writes: [0; 4],
    };

    /// What x2APIC virtualisation redirects (SDM volume 3, "Virtualizing
    /// MSR-Based APIC Accesses"): the task priority; with `registers` (APIC-register
    /// virtualisation) reads of all; with `interrupts` (virtual-interrupt
    /// delivery) writes of EOI and self-IPI.
    pub const fn virtualised(registers: bool, interrupts: bool) -> Self {
        const TPR: u32 = 0x08;
        const EOI: u32 = 0x0b;
        const SELF_IPI: u32 = 0x3f;
        let mut reads = [1 << TPR, 0, 0, 0];
        let mut writes = [1 << TPR, 0, 0, 0];
        if registers {
            reads = [u64::MAX; 4];
        }
        if interrupts {
            writes[0] |= 1 << EOI | 1 << SELF_IPI;
        }
        Self { reads, writes }
    }
}

/// What L0 leaves open to L2, prepared for merging.
#[derive(Clone, Debug)]
pub struct MsrFilter {
    bitmap: MsrBitmap,
    /// The words with an open bit.
    open: WordSet,
}

impl MsrFilter {
    /// The filter that opens nothing.
    pub const fn closed() -> Self {
        Self {
            bitmap: MsrBitmap::closed(),
            open: [0; WORDS / 64],
        }
    }

    /// Opens an access to L2s whose L1 leaves it open too. Returns whether it
    /// is open now: MSRs that no bitmap covers cannot be, and the x2APIC's are
    /// opened by [`X2apicOpening`] only.
    pub const fn open(&mut self, msr: u32, access: MsrAccess) -> bool {
        if msr >> 8 == 8 {
            return false;
        }
        let Some((word, _)) = position(msr, access) else {
            return false;
        };
        self.open[word / 64] |= 1 << (word % 64);
        self.bitmap.open(msr, access).is_ok()
    }

    /// L0's own bitmap.
    pub const fn bitmap(&self) -> &MsrBitmap {
        &self.bitmap
    }
}

/// The page for VMCS 02.
///
/// Cache, not state: it can be made anew at any time. Not to be changed while
/// L2 runs on it.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct MergedMsrBitmap {
    page: MsrBitmap,
    /// The words that may have an open bit; all others are closed.
    touched: WordSet,
}

impl MergedMsrBitmap {
    /// The page that intercepts everything.
    pub const fn closed() -> Self {
        Self {
            page: MsrBitmap::closed(),
            touched: [0; WORDS / 64],
        }
    }

    /// What L2 runs on.
    pub const fn page(&self) -> &MsrBitmap {
        &self.page
    }

    /// Intercepts everything: for an L1 without a bitmap.
    pub fn close(&mut self) {
        for (group, touched) in self.touched.iter_mut().enumerate() {
            for word in members(group, core::mem::take(touched)) {
                self.page.0[word] = u64::MAX;
            }
        }
    }

    /// Merges: an access is open if `l0` and `l1` both leave it open, or, for
    /// an x2APIC register, `x2apic` and `l1`. Reads each word of `l1` at most
    /// once, and only those in which something can be open.
    pub fn merge(&mut self, l0: &MsrFilter, l1: &impl BitmapPage, x2apic: &X2apicOpening) {
        for group in 0..self.touched.len() {
            // Words that were open under another filter are closed first.
            let left = self.touched[group] & !l0.open[group];
            for word in members(group, left) {
                self.page.0[word] = u64::MAX;
            }
            for word in members(group, l0.open[group]) {
                self.page.0[word] = l0.bitmap.0[word] | l1.word(word);
            }
            self.touched[group] = l0.open[group];
        }
        self.merge_x2apic(l1, X2APIC_READS, &x2apic.reads);
        self.merge_x2apic(l1, X2APIC_WRITES, &x2apic.writes);
    }

    fn merge_x2apic(&mut self, l1: &impl BitmapPage, first: usize, opening: &[u64; 4]) {
        for (word, open) in (first..).zip(opening) {
            if *open != 0 {
                self.page.0[word] = !open | l1.word(word);
                self.touched[word / 64] |= 1 << (word % 64);
            }
        }
    }
}

/// The words of one group of 64 that are in a set.
#[inline]
fn members(group: usize, mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = set.trailing_zeros() as usize;
        // For an empty set, `bit` is 64 and there is no lowest bit to clear.
        set &= set.checked_sub(1)?;
        Some(group * 64 + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use MsrAccess::{Read, Write};
    use alloc::vec::Vec;
    use core::cell::RefCell;
    use proptest::prelude::*;

    /// L1's page, which counts how often each word is read.
    struct L1Page {
        bitmap: MsrBitmap,
        reads: RefCell<Vec<usize>>,
    }

    impl L1Page {
        fn new(open: &[(u32, MsrAccess)]) -> Self {
            let mut bitmap = MsrBitmap::closed();
            for (msr, access) in open {
                bitmap.open(*msr, *access).unwrap();
            }
            Self {
                bitmap,
                reads: RefCell::default(),
            }
        }

        fn everything_open() -> Self {
            Self {
                bitmap: MsrBitmap([0; WORDS]),
                reads: RefCell::default(),
            }
        }
    }

    impl BitmapPage for L1Page {
        fn word(&self, index: usize) -> u64 {
            self.reads.borrow_mut().push(index);
            self.bitmap.0[index]
        }
    }

    fn filter(open: &[(u32, MsrAccess)]) -> MsrFilter {
        let mut filter = MsrFilter::closed();
        for (msr, access) in open {
            assert!(filter.open(*msr, *access));
        }
        filter
    }

    /// The MSRs of a bitmap that are open, found the slow way.
    fn open_in(bitmap: &MsrBitmap) -> Vec<(u32, MsrAccess)> {
        let msrs = (0..0x2000).chain(0xc000_0000..0xc000_2000);
        msrs.flat_map(|msr| [(msr, Read), (msr, Write)])
            .filter(|(msr, access)| !bitmap.intercepts(*msr, *access))
            .collect()
    }

    const FS_BASE: u32 = 0xc000_0100;

    #[test]
    fn open_needs_both() {
        let l0 = filter(&[(0x10, Read), (FS_BASE, Read), (FS_BASE, Write)]);
        let l1 = L1Page::new(&[(FS_BASE, Read), (0x10, Write), (0x1d9, Read)]);
        let mut merged = MergedMsrBitmap::closed();
        merged.merge(&l0, &l1, &X2apicOpening::NONE);
        assert_eq!(open_in(merged.page()), [(FS_BASE, Read)]);
    }

    #[test]
    fn only_words_that_matter_are_read_and_once() {
        let l0 = filter(&[
            (0x10, Read),
            (0x11, Read),
            (0x1fff, Write),
            (FS_BASE, Write),
        ]);
        let l1 = L1Page::everything_open();
        MergedMsrBitmap::closed().merge(&l0, &l1, &X2apicOpening::NONE);
        assert_eq!(*l1.reads.borrow(), [0, 256 + 127, 256 + 128 + 4]);
    }

    #[test]
    fn another_filter_leaves_nothing_open() {
        let l1 = L1Page::everything_open();
        let mut merged = MergedMsrBitmap::closed();
        merged.merge(
            &filter(&[(0x10, Read), (FS_BASE, Write)]),
            &l1,
            &X2apicOpening::virtualised(true, true),
        );
        merged.merge(&filter(&[(0x1d9, Read)]), &l1, &X2apicOpening::NONE);
        assert_eq!(open_in(merged.page()), [(0x1d9, Read)]);
        merged.close();
        assert_eq!(*merged.page(), MsrBitmap::closed());
    }

    #[test]
    fn l0_cannot_open_the_x2apic_by_its_filter() {
        let mut l0 = MsrFilter::closed();
        for msr in 0x800..0x900 {
            assert!(!l0.open(msr, Read) && !l0.open(msr, Write));
        }
        assert!(l0.open(0x7ff, Read) && l0.open(0x900, Write));
        assert!(!l0.open(0x2000, Read) && !l0.open(0xc000_2000, Write));
        let l1 = L1Page::everything_open();
        let mut merged = MergedMsrBitmap::closed();
        merged.merge(&l0, &l1, &X2apicOpening::NONE);
        assert_eq!(open_in(merged.page()), [(0x7ff, Read), (0x900, Write)]);
    }

    #[test]
    fn x2apic_registers_need_l1_and_the_controls() {
        let l0 = MsrFilter::closed();
        let mut merged = MergedMsrBitmap::closed();
        let mut open = |l1: &L1Page, registers, interrupts| {
            let opening = X2apicOpening::virtualised(registers, interrupts);
            merged.merge(&l0, l1, &opening);
            open_in(merged.page())
        };
        let all = L1Page::everything_open();
        assert_eq!(open(&all, false, false), [(0x808, Read), (0x808, Write)]);
        assert_eq!(
            open(&all, false, true),
            [
                (0x808, Read),
                (0x808, Write),
                (0x80b, Write),
                (0x83f, Write)
            ]
        );
        let reads: Vec<u32> = open(&all, true, false)
            .iter()
            .filter(|(_, access)| *access == Read)
            .map(|(msr, _)| *msr)
            .collect();
        assert_eq!(reads, (0x800..0x900).collect::<Vec<u32>>());
        let some = L1Page::new(&[(0x80b, Write), (0x802, Read), (0x830, Write)]);
        assert_eq!(open(&some, true, true), [(0x802, Read), (0x80b, Write)]);
    }

    #[test]
    fn the_page_comes_first() {
        let merged = MergedMsrBitmap::closed();
        let page = core::ptr::from_ref(merged.page()).addr();
        assert_eq!(page, core::ptr::from_ref(&merged).addr());
        assert_eq!(page % 4096, 0);
    }

    fn any_access() -> impl Strategy<Value = (u32, MsrAccess)> {
        let low = prop_oneof![0u32..0x2000, 0x7f0u32..0x910];
        let msr = prop_oneof![low, 0xc000_0000u32..0xc000_2000];
        (msr, any::<bool>()).prop_map(|(msr, write)| (msr, if write { Write } else { Read }))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against the definition, over a sequence of merges into one page.
        #[test]
        fn merged_is_the_or(
            rounds in prop::collection::vec(
                (
                    prop::collection::vec(any_access(), 0..12),
                    prop::collection::vec(any_access(), 0..12),
                    any::<[bool; 3]>(),
                ),
                1..4,
            )
        ) {
            let mut merged = MergedMsrBitmap::closed();
            for (l0_open, mut l1_open, [virtualise, registers, interrupts]) in rounds {
                // Some in common, or nothing would ever be open.
                l1_open.extend(l0_open.iter().step_by(2));
                let mut l0 = MsrFilter::closed();
                for (msr, access) in &l0_open {
                    l0.open(*msr, *access);
                }
                let l1 = L1Page::new(&l1_open);
                let opening = if virtualise {
                    X2apicOpening::virtualised(registers, interrupts)
                } else {
                    X2apicOpening::NONE
                };
                merged.merge(&l0, &l1, &opening);
                for (msr, access) in l0_open.iter().chain(&l1_open) {
                    let (msr, access) = (*msr, *access);
                    let by_l0 = if (0x800..0x900).contains(&msr) {
                        virtualise
                            && (msr == 0x808
                                || registers && access == Read
                                || interrupts && access == Write && [0x80b, 0x83f].contains(&msr))
                    } else {
                        l0_open.contains(&(msr, access))
                    };
                    let want = by_l0 && l1_open.contains(&(msr, access));
                    prop_assert_eq!(!merged.page().intercepts(msr, access), want);
                }
                let allowed = |pair: &(u32, MsrAccess)| l1_open.contains(pair);
                prop_assert!(open_in(merged.page()).iter().all(allowed));
            }
        }
    }
}
