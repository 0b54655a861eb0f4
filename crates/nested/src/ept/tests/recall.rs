//! What is recalled is what a walk finds.

use addr::{Gpa1, Gpa2};
use proptest::prelude::*;
use vmx::ept::{Access, Level, PageSize};

use super::super::{Recall, walk};
use super::machine::{CAPABILITIES, G1, L1, M2};

fn page(n: u64) -> Gpa2 {
    // Two pages of a page table, one of the next, one of another directory, one far away.
    Gpa2::new([0, 0x1000, M2, G1, 600 * G1][n as usize] + 0x18)
}

/// What L1 may do to its tables.
#[derive(Clone, Copy, Debug)]
enum Change {
    Map(u64, u64, PageSize, Access),
    Store(u64, Level, u64),
    Nothing,
}

fn change() -> impl Strategy<Value = Change> {
    let size = prop::sample::select(&PageSize::DESCENDING[..]);
    let level = prop::sample::select(&[Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt][..]);
    let access = prop::sample::select(&[Access::RWX, Access::RW, Access::READ, Access::WRITE][..]);
    // Absent, misconfigured, or leading out of L1's memory.
    let word = prop::sample::select(&[0u64, 2, 0x7, 0xffff_ffff_f000_0007][..]);
    prop_oneof![
        (0..5u64, 0..3u64, size, access)
            .prop_map(|(p, to, size, access)| Change::Map(p, to, size, access)),
        (0..5u64, level, word).prop_map(|(p, level, word)| Change::Store(p, level, word)),
        Just(Change::Nothing),
    ]
}

proptest! {
    #[test]
    fn it_is_a_walk(steps in proptest::collection::vec((change(), 0..2usize, 0..5u64), 1..40)) {
        let mut l1 = L1::new();
        let roots = [l1.new_table(), l1.new_table()];
        let recall = Recall::new();
        for (change, root, at) in steps {
            let root = roots[root];
            match change {
                Change::Map(p, to, size, access) => {
                    let target = Gpa1::new(G1 + to * M2).align_down(size.bytes());
                    let from = Gpa2::new(page(p).raw() & !(size.bytes() - 1));
                    l1.map(root, from, target, size, access);
                }
                Change::Store(p, level, word) => {
                    let slot = l1.entry(root, page(p), level);
                    l1.write(slot, word);
                }
                Change::Nothing => {}
            }
            for _ in 0..2 {
                let eptp = L1::eptp(root);
                let walked = walk(eptp, &CAPABILITIES, &l1, page(at), Access::READ);
                let recalled = recall.translate(eptp, &CAPABILITIES, &l1, page(at));
                prop_assert_eq!(recalled, walked.map(|found| found.address));
            }
        }
    }
}
