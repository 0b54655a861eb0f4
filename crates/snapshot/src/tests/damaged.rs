//! Damage that comes by accident: every kind of it is found.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

#[test]
fn every_truncation_is_found() {
    let memory = memory_with(64, [1, 2, 5, 60]);
    let file = saved(&[7; 5000], &memory);
    assert_eq!(
        fault(&file[..PAGE - 1], memory.len()),
        Some(Invalid::NotAState)
    );
    let needed = (file.len() / PAGE) as u64;
    for pages in 1..needed {
        let found = fault(&file[..pages as usize * PAGE], memory.len());
        assert_eq!(found, Some(Invalid::Truncated { pages, needed }));
    }
}

#[test]
fn pages_lost_to_a_truncation_and_zero_since_are_found() {
    let memory = memory_with(64, [1, 2, 5, 60]);
    let file = saved(&[7; 5000], &memory);
    let mut runner = TestRunner::new(Config::with_cases(200));
    runner
        .run(&(0..file.len()), |kept| {
            let mut short = file.clone();
            short[kept..].fill(0);
            prop_assert_eq!(fault(&short, memory.len()).is_none(), short == file);
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_flipped_bit_is_found() {
    let memory = memory_with(64, (0..6).chain([10, 12, 14, 20, 63]));
    let file = saved(&[7; 5000], &memory);
    let mut runner = TestRunner::new(Config::with_cases(2000));
    runner
        .run(&(0..file.len(), 0..8u8), |(byte, bit)| {
            let mut flipped = file.clone();
            flipped[byte] ^= 1u8 << bit;
            prop_assert!(fault(&flipped, memory.len()).is_some(), "{byte} {bit}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_flipped_bit_of_the_files_own_pages_is_found() {
    let memory = memory_with(4, [2]);
    let file = saved(&[], &memory);
    // Header, table and end; every bit that means something and some that do not.
    for page in [0, 1, 3] {
        for bit in 0..8 * 200 {
            let mut flipped = file.clone();
            flipped[page * PAGE + bit / 8] ^= 1 << (bit % 8);
            assert!(fault(&flipped, memory.len()).is_some(), "{page} {bit}");
        }
    }
}

#[test]
fn what_is_wrong_is_said_of_what_is_wrong() {
    let (machine, memory) = example();
    let file = saved(&machine, &memory);
    let fault_at = |at: usize| {
        let mut flipped = file.clone();
        flipped[at] ^= 1;
        fault(&flipped, memory.len()).unwrap()
    };
    assert_eq!(fault_at(0), Invalid::NotAState);
    assert_eq!(fault_at(16), Invalid::Header);
    assert_eq!(fault_at(PAGE), Invalid::Machine);
    // The padding of the machine part.
    assert_eq!(fault_at(3 * PAGE - 1), Invalid::Machine);
    assert_eq!(fault_at(3 * PAGE + 100), Invalid::Table { block: 0 });
    assert_eq!(fault_at(4 * PAGE), Invalid::Block { block: 0 });
    // Block 0 has as many runs as fit, of one page.
    assert_eq!(fault_at((4 + 168) * PAGE), Invalid::Table { block: 1 });
    assert_eq!(fault_at(file.len() - PAGE), Invalid::Table { block: 3 });
}

#[test]
fn an_interrupted_save_leaves_nothing_that_passes() {
    let (machine, memory) = example();
    let mut whole = Medium::new(most_pages(machine.len() as u64, memory.len() as u64));
    write(&mut whole, &machine, &memory).unwrap();
    let transfers = usize::MAX - whole.transfers;
    // The last transfer is the flush after the header.
    for after in 0..transfers - 1 {
        // Onto an older save of another machine.
        let mut medium = Medium::holding(whole.bytes.clone());
        medium.transfers = after;
        let result = write(&mut medium, &[1; 5000], &memory);
        assert_eq!(result, Err(WriteError::Sink(Broken)));
        let expected = (after > 0).then_some(Invalid::Unfinished);
        assert_eq!(fault(&medium.bytes, memory.len()), expected);
    }
}

#[test]
fn a_medium_without_room_is_refused() {
    let (machine, memory) = example();
    let needed = (saved(&machine, &memory).len() / PAGE) as u64;
    for pages in [0, 1, 4, 5, needed - 1] {
        let mut medium = Medium::new(pages);
        let result = write(&mut medium, &machine, &memory);
        assert_eq!(result, Err(WriteError::Full { pages }));
        assert!(fault(&medium.bytes, memory.len()).is_some());
    }
    assert!(write(Medium::new(needed), &machine, &memory).is_ok());
    let uneven = write(Medium::new(needed), &machine, &memory[1..]);
    assert!(matches!(uneven, Err(WriteError::UnevenMemory { .. })));
}
