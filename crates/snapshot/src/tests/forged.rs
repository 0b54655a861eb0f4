//! Files whose checksums are right and whose contents are not: whoever makes one gets an error, and
//! never a panic or a write outside of the partition's memory.

use proptest::prelude::*;

use super::*;
use crate::page::{Form, number};

const MEMORY: usize = 16 * PAGE;
/// Pages of the file of `forgeable`.
const TABLE: usize = 1;
const END: usize = 5;

/// No machine part, one block with the runs 2+2 and 7+1.
fn forgeable() -> Vec<u8> {
    let file = saved(&[], &memory_with(16, [2, 3, 7]));
    assert_eq!(file.len(), (END + 1) * PAGE);
    file
}

/// Puts numbers into a page and makes all checksums right that depend on it.
fn forge(page: usize, numbers: &[(usize, u64)]) -> Vec<u8> {
    let mut file = forgeable();
    for &(at, value) in numbers {
        Form(&mut file[page * PAGE..][..PAGE]).put(at, value);
    }
    seal(&mut file);
    file
}

fn seal(file: &mut [u8]) {
    let table = Form(&mut file[TABLE * PAGE..][..PAGE]).seal();
    let chain = crate::checksum::of(&[table.to_le_bytes(), [0; 8]].concat());
    let mut end = Form(&mut file[END * PAGE..][..PAGE]);
    end.put(24, chain);
    let own = end.seal();
    let mut header = Form(&mut file[..PAGE]);
    header.put(88, own);
    header.seal();
}

#[test]
fn the_forger_forges_well() {
    assert_eq!(forge(TABLE, &[]), forgeable());
    assert_eq!(fault(&forgeable(), MEMORY), None);
}

#[test]
fn another_version_is_named() {
    let found = fault(&forge(0, &[(16, 3)]), MEMORY);
    assert_eq!(found, Some(Invalid::Version { found: 3 }));
    // The first one had another checksum.
    let mut first = forgeable();
    Form(&mut first[..PAGE]).put(16, 1);
    assert_eq!(fault(&first, MEMORY), Some(Invalid::Version { found: 1 }));
}

#[test]
fn headers_that_contradict_themselves() {
    let huge = [1 << 59, 1 << 60, 1 << 63, u64::MAX, u64::MAX - 4095];
    for at in (24..96).step_by(8) {
        for value in huge.into_iter().chain([0, 1, 2, 3, 5, 100]) {
            // Nothing in the header hangs on the checksums, nor on the memory's size if it is no smaller.
            let is_free = matches!(at, 48 | 88) || at == 64 && value == 1 << 59;
            if is_free || value == number(&forgeable(), at) {
                continue;
            }
            let found = fault(&forge(0, &[(at, value)]), MEMORY);
            assert_eq!(found, Some(Invalid::HeaderContents), "{at} {value:#x}");
        }
    }
    let beyond = forge(0, &[(96, 1)]);
    assert_eq!(fault(&beyond, MEMORY), Some(Invalid::HeaderContents));
}

#[test]
fn a_machine_part_that_no_heap_holds_is_refused() {
    // A header that is consistent, in front of a source that says it has as much.
    struct Endless(Vec<u8>);
    impl Source for Endless {
        type Error = Broken;
        fn pages(&self) -> u64 {
            u64::MAX
        }
        fn read(&mut self, _: u64, pieces: &mut [&mut [u8]]) -> Result<(), Broken> {
            pieces[0].copy_from_slice(&self.0[..PAGE]);
            Ok(())
        }
    }
    for bytes in [(1 << 60) - 1, crate::LARGEST_MACHINE + 1] {
        let pages = u64::div_ceil(bytes, PAGE as u64);
        let numbers = [(24, 6 + pages), (40, bytes), (56, 1 + pages)];
        let mut reader = Reader::open(Endless(forge(0, &numbers))).unwrap();
        let wanted = ReadError::Invalid(Invalid::MachineSize { bytes });
        assert_eq!(reader.machine(), Err(wanted));
    }
}

#[test]
fn tables_that_list_what_cannot_be() {
    // Pages, runs, and the runs themselves.
    let cases: [&[(usize, u64)]; 21] = [
        &[(32, 4)],
        &[(32, 0)],
        &[(40, 1)],
        &[(40, 3)],
        &[(40, 169)],
        &[(40, u64::MAX)],
        &[(48, 1)],
        &[(56, 1)],
        &[(112, 1)],
        &[(4088, 1)],
        // Overlap, descent, nothing.
        &[(88, 3)],
        &[(88, 1)],
        &[(72, 0), (96, 3)],
        // Out of the memory, by little and by much.
        &[(88, 16)],
        &[(88, u64::MAX)],
        &[(96, 10), (32, 12)],
        &[(96, u64::MAX), (32, 1)],
        // Filled: not in the file, but in the memory all the same.
        &[(104, 5)],
        &[(104, 5), (88, 3), (32, 2)],
        &[(104, 5), (96, 10), (32, 2)],
        &[(104, 5), (96, u64::MAX), (32, 2)],
    ];
    for case in cases {
        let found = fault(&forge(TABLE, case), MEMORY);
        assert_eq!(found, Some(Invalid::Runs { block: 0 }), "{case:?}");
    }
}

#[test]
fn more_pages_than_the_header_knows() {
    let found = fault(&forge(TABLE, &[(96, 2), (32, 4)]), MEMORY);
    assert_eq!(found, Some(Invalid::Runs { block: 0 }));
}

#[test]
fn a_table_in_the_place_of_another() {
    let wrong = Some(Invalid::Table { block: 0 });
    assert_eq!(fault(&forge(TABLE, &[(16, 1)]), MEMORY), wrong);
    assert_eq!(fault(&forge(TABLE, &[(0, 0)]), MEMORY), wrong);
    // An end block too early.
    let early = forge(
        TABLE,
        &[(32, 0), (40, 0), (64, 0), (72, 0), (88, 0), (96, 0)],
    );
    assert_eq!(fault(&early, MEMORY), Some(Invalid::Runs { block: 0 }));
}

#[test]
fn blocks_of_another_save_do_not_pass() {
    let memory = memory_with(600, 0..600);
    let mut other = memory.clone();
    other[0] ^= 1;
    other[300 * PAGE] ^= 1;
    let (file, old) = (saved(&[], &memory), saved(&[], &other));
    let block = |number: usize| {
        let first = 1 + number * 257;
        first * PAGE..(first + 257) * PAGE
    };
    for number in [0, 1] {
        let mut mixed = file.clone();
        mixed[block(number)].copy_from_slice(&old[block(number)]);
        assert_eq!(fault(&mixed, memory.len()), Some(Invalid::End));
    }
    let mut swapped = file.clone();
    swapped[block(0)].copy_from_slice(&file[block(1)]);
    swapped[block(1)].copy_from_slice(&file[block(0)]);
    assert_eq!(
        fault(&swapped, memory.len()),
        Some(Invalid::Table { block: 0 })
    );
}

proptest! {
    #[test]
    fn any_numbers_in_a_table_do_no_harm(
        numbers in proptest::collection::vec(((2..40usize).prop_map(|n| n * 8), prop_oneof![0..20u64, any::<u64>()]), 1..6)
    ) {
        // It panics neither here nor there, and they agree: that is all that is asked.
        fault(&forge(TABLE, &numbers), MEMORY);
    }

    #[test]
    fn any_numbers_in_a_header_do_no_harm(
        numbers in proptest::collection::vec(((2..13usize).prop_map(|n| n * 8), prop_oneof![0..20u64, any::<u64>()]), 1..4)
    ) {
        let file = forge(0, &numbers);
        let _ = restored(&file, MEMORY);
    }
}
