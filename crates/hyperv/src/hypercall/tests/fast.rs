//! Input in registers.

use super::*;
use crate::enlightenments::Set;
use proptest::prelude::*;
use std::vec::Vec;
use tlfs::hypercall::GpaRange;

const FAST: u64 = 1 << 16;

/// A fast call whose input is `input`.
fn fast(control: u64, input: &[u64]) -> (Outcome<Gpa1>, Vectors) {
    fast_by(EVERY, control, input)
}

fn fast_by(set: Set, control: u64, input: &[u64]) -> (Outcome<Gpa1>, Vectors) {
    let mut words = [0xDEAD_DEAD_DEAD_DEAD; 2 + XMM_WORDS];
    words[..input.len()].copy_from_slice(input);
    let registers = Registers {
        rcx: control | FAST,
        rdx: words[0],
        r8: words[1],
        ..Registers::default()
    };
    let vectors = Vectors(core::array::from_fn(|n| words[n + 2]));
    let outcome = decode(set, &KERNEL, &registers, &Ram::new(0), &vectors);
    (outcome, vectors)
}

#[test]
fn two_words_need_no_vector_registers() {
    let without = EVERY.without(Enlightenment::XmmInput);
    let reply = Reply {
        rep_start: 0,
        rep_count: 0,
    };
    let ipi = SendIpi {
        vector: 0xFB,
        targets: VpSet::mask(0b101),
    };
    let flush = FlushGuestPhysical {
        root: Gpa1::new(0x7000),
        ranges: None,
    };
    for set in [EVERY, without] {
        assert_eq!(
            fast_by(set, 0xB, &[0xFB, 0b101]).0,
            Outcome::Perform(Request::SendIpi(ipi), reply)
        );
        assert_eq!(fast_by(set, 8, &[100]).0, Outcome::Done(ResultWord::new()));
        assert_eq!(
            fast_by(set, 0xAF, &[0x7000, 0]).0,
            Outcome::Perform(Request::FlushGuestPhysical(flush), reply)
        );
    }
    for definition in CALLS.iter().filter(|call| call.header > 2 || call.list) {
        let (outcome, _) = fast_by(without, control_of(definition), &input_of(definition));
        assert_eq!(outcome, Outcome::Undefined, "{definition:?}");
    }
}

#[test]
fn no_list_begins_in_the_general_registers() {
    assert!(CALLS.iter().all(|call| !call.list || call.header >= 2));
}

#[test]
fn the_registers_end_after_fourteen_words() {
    for definition in CALLS.iter().filter(|call| call.list) {
        let input = [0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let room = 14 - u64::from(definition.header);
        let control = u64::from(definition.code.0);
        let (outcome, _) = fast(control | room << 32, &input);
        let is_flags_call = definition.what == What::FlushVirtual;
        assert!(
            matches!(outcome, Outcome::Perform(..)) == is_flags_call,
            "{definition:?}: {outcome:?}"
        );
        let (outcome, _) = fast(control | (room + 1) << 32, &input);
        assert_eq!(status(outcome), Status::INVALID_HYPERCALL_INPUT);
    }
}

#[test]
fn sets_and_lists_go_on_where_the_header_ends() {
    // FlushVirtualAddressListEx: two banks in XMM1, ten ranges would follow.
    let input = [0x1000, 0, 0, 0b101, 1 << 3, 1 << 1, 0x5000, 0x6000];
    let (outcome, _) = fast(0x14 | 2 << 17 | 2 << 32, &input);
    let Outcome::Perform(Request::FlushVirtual(flush), reply) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(flush.targets.iter(256).collect::<Vec<_>>(), [3, 129]);
    assert_eq!(reply.success().into_bits(), 2 << 32);
    // SendSyntheticClusterIpiEx: its mask is XMM0's low half, its bank the high one.
    let (outcome, _) = fast(0x15 | 1 << 17, &[0xFD, 0, 1, 0b110]);
    let Outcome::Perform(Request::SendIpi(ipi), _) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((ipi.vector, ipi.targets), (0xFD, VpSet::mask(0b110)));
    // FlushGuestPhysicalAddressList, of whose twelve ranges two are done.
    let ranges: Vec<u64> = (1..=12).map(|n| n << 12).collect();
    let mut input = Vec::from([0x9000, 0]);
    input.extend(&ranges);
    let (outcome, vectors) = fast(0xB0 | 12 << 32 | 2 << 48, &input);
    let Outcome::Perform(Request::FlushGuestPhysical(flush), _) = outcome else {
        panic!("{outcome:?}");
    };
    let read: Vec<_> = flush
        .ranges
        .unwrap()
        .elements(&Ram::new(0), &vectors)
        .map(|range| range.map(GpaRange::into_bits))
        .collect();
    assert_eq!(read, ranges[2..].iter().map(|n| Ok(*n)).collect::<Vec<_>>());
}

proptest! {
    // A call means the same whether its input is in memory or in registers.
    #[test]
    fn fast_and_slow_mean_the_same(
        code in prop::sample::select(&[2u64, 3, 8, 0xB, 0x13, 0x14, 0x15, 0xAF, 0xB0][..]),
        banks in 0..6u64, reps in 0..6u64, start in 0..4u64, words: [u64; 14], sparse: u64, small: bool,
    ) {
        let mask = if small { 0xFF } else { sparse };
        let words = words.map(|word| word & mask);
        let control = code | banks << 17 | reps << 32 | start << 48;
        let (in_memory, ram) = slow(control, &words);
        let (in_registers, vectors) = fast(control, &words);
        match (in_memory, in_registers) {
            (
                Outcome::Perform(Request::FlushGuestPhysical(one), a),
                Outcome::Perform(Request::FlushGuestPhysical(other), b),
            ) => {
                prop_assert_eq!((one.root, a), (other.root, b));
                let one: Option<Vec<_>> = one.ranges.map(|list| list.elements(&ram, &ELSEWHERE).collect());
                let other: Option<Vec<_>> = other.ranges.map(|list| list.elements(&ram, &vectors).collect());
                prop_assert_eq!(one, other);
            }
            (one, other) => prop_assert_eq!(one, other),
        }
    }
}
