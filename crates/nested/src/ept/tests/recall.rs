//! What is recalled is what a walk finds.

use addr::{Gpa1, Gpa2};
use proptest::prelude::*;
use vmx::ept::{Access, Level, PageSize};

use super::super::{MisconfiguredPage, Recall, WalkError, walk};
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
        let mut recall = Recall::new();
        let mut misconfigured = MisconfiguredPage::new();
        let mut last = None;
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
            let at = page(at);
            let walked = walk(L1::eptp(root), &CAPABILITIES, &l1, at, Access::READ);
            let found = walked.map(|found| found.address);
            // What is remembered is right, and what is looked up is remembered.
            if let Some(recalled) = recall.recall(root, &l1, at) {
                prop_assert_eq!(found, Ok(recalled));
            }
            recall.look_up(root, &CAPABILITIES, &l1, at);
            prop_assert_eq!(recall.recall(root, &l1, at), found.ok());

            let met = match walked {
                Err(WalkError::Misconfigured(met)) => Some(met),
                _ => None,
            };
            if misconfigured.is_met(|| Some(root), &l1, at) {
                prop_assert!(met.is_some());
                // Whatever L2 tries there.
                for access in [Access::WRITE, Access::EXECUTE, Access::RWX] {
                    let walked = walk(L1::eptp(root), &CAPABILITIES, &l1, at, access);
                    prop_assert!(matches!(walked, Err(WalkError::Misconfigured(_))));
                }
            } else if let Some(met) = met {
                misconfigured.note(root, &CAPABILITIES, &l1, at);
                let again = last.replace(at) == Some(at);
                // But for a table where L1 has no memory.
                let leads_out = met.entry.raw() == u64::MAX;
                prop_assert_eq!(misconfigured.is_met(|| Some(root), &l1, at), again && !leads_out);
            }
        }
    }
}
