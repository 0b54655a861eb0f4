//! What the calls' parameters mean.

use super::list::range;
use super::*;
use addr::Gpa2;
use std::vec::Vec;
use tlfs::hypercall::GpaRange;

#[test]
fn vectors_and_trust_levels_of_ipis() {
    let ram = Ram::new(0);
    for vector in [0, 0xF, 0x100, 0xFFFF_FFFF] {
        assert_eq!(
            status(call(0x1_000B, vector, 1, &ram)),
            Status::INVALID_PARAMETER
        );
    }
    for vector in [0x10, 0xFF] {
        let outcome = call(0x1_000B, vector, 1, &ram);
        assert!(
            matches!(outcome, Outcome::Perform(..)),
            "{vector:#x}: {outcome:?}"
        );
    }
    for word in [0x20 | 1 << 32, 0x20 | 1 << 63] {
        assert_eq!(
            status(call(0x1_000B, word, 1, &ram)),
            Status::INVALID_HYPERCALL_INPUT
        );
    }
}

#[test]
fn ipis_to_sets() {
    // Banks 0 and 2, then everyone.
    let (sparse, ..) = request(0x15 | 2 << 17, &[0xFD, 0, 0b101, 1 << 3, 1 << 1]);
    let Request::SendIpi(SendIpi {
        vector: 0xFD,
        targets,
    }) = sparse
    else {
        panic!("{sparse:?}")
    };
    assert_eq!(targets.iter(1024).collect::<Vec<_>>(), [3, 129]);
    let (all, ..) = request(0x15, &[0xFD, 1, 0]);
    assert_eq!(
        all,
        Request::SendIpi(SendIpi {
            vector: 0xFD,
            targets: VpSet::ALL
        })
    );
    let (none, ..) = request(0x15, &[0xFD, 0, 0]);
    assert_eq!(
        none,
        Request::SendIpi(SendIpi {
            vector: 0xFD,
            targets: VpSet::NONE
        })
    );
    // A format that is none, a mask that is not the variable header's.
    assert_eq!(
        status(slow(0x15, &[0xFD, 2, 0]).0),
        Status::INVALID_PARAMETER
    );
    assert_eq!(
        status(slow(0x15, &[0xFD, 1, 1]).0),
        Status::INVALID_HYPERCALL_INPUT
    );
    assert_eq!(
        status(slow(0x15 | 1 << 17, &[0xFD, 0, 3]).0),
        Status::INVALID_HYPERCALL_INPUT
    );
    assert_eq!(
        status(slow(0x15 | 0x3FF << 17, &[0xFD, 0, 3]).0),
        Status::INVALID_ALIGNMENT
    );
    assert_eq!(
        status(slow(0x15 | 65 << 17, &[0xFD, 0, 3]).0),
        Status::INVALID_HYPERCALL_INPUT
    );
}

fn flush(control: u64, input: &[u64]) -> VpSet {
    match request(control, input) {
        (Request::FlushVirtual(flush), ..) => flush.targets,
        (other, ..) => panic!("{other:?}"),
    }
}

#[test]
fn flags_of_virtual_flushes() {
    assert_eq!(flush(2, &[0x1234_5000, 0, 6]), VpSet::mask(6));
    assert_eq!(flush(2, &[0x1234_5000, 7, 6]), VpSet::ALL);
    assert_eq!(
        flush(2, &[0, 0, 0]),
        VpSet::ALL,
        "an empty mask is everyone"
    );
    assert_eq!(
        flush(0x13, &[0, 0, 0, 0]),
        VpSet::NONE,
        "an empty set is nobody"
    );
    assert_eq!(flush(0x13, &[0, 1, 0, 0]), VpSet::ALL);
    for flags in [16, 1 << 63] {
        assert_eq!(status(slow(2, &[0, flags, 1]).0), Status::INVALID_PARAMETER);
        assert_eq!(
            status(slow(0x13, &[0, flags, 1, 0]).0),
            Status::INVALID_PARAMETER
        );
    }
    // Lists name their addresses: global or not is no question.
    let list = 3 | 1 << 32;
    assert_eq!(
        status(slow(list, &[0, 4, 1, 0]).0),
        Status::INVALID_PARAMETER
    );
    // Ranges of large pages are ranges.
    let large = 0x4000_0000 | 1 << 11 | 3;
    assert_eq!(flush(list, &[0, 8, 5, large]), VpSet::mask(5));
    assert_eq!(flush(0x14 | 1 << 32, &[0, 8, 1, 0, large]), VpSet::ALL);
}

#[test]
fn lists_of_virtual_addresses_come_after_the_banks() {
    let mut input = Vec::from([0x1000, 0, 0, 0b11, 1, 2]);
    input.extend((1..=40).map(|n| n << 12 | n));
    // 40 elements, of which the first 3 are done.
    let (request, reply, _) = request(0x14 | 2 << 17 | 40 << 32 | 3 << 48, &input);
    let Request::FlushVirtual(flush) = request else {
        panic!("{request:?}");
    };
    assert_eq!(flush.targets.iter(128).collect::<Vec<_>>(), [0, 65]);
    assert_eq!(reply.success().into_bits(), 40 << 32);
}

#[test]
fn lists_of_physical_addresses() {
    let good = 0x7_0000_0000 | 0x7FF;
    let bad = 1 << 13 | 1 << 11;
    let (request, reply, ram) = request(0xB0 | 3 << 32 | 1 << 48, &[0x9FFF, 0, bad, good, bad]);
    let Request::FlushGuestPhysical(FlushGuestPhysical { root, ranges }) = request else {
        panic!("{request:?}");
    };
    assert_eq!(
        root,
        Gpa1::new(0x9000),
        "the root's page, without EPTP attributes"
    );
    let mut elements = ranges.unwrap().elements(&ram, &ELSEWHERE);
    assert_eq!(elements.next(), Some(Ok(GpaRange::from_bits(good))));
    assert_eq!(elements.next(), Some(Err(Status::INVALID_PARAMETER)));
    assert_eq!(elements.next(), None);
    // One was done before the call, one by it.
    let word = reply.failure(Status::INVALID_PARAMETER, 1);
    assert_eq!((word.status(), word.reps_completed()), (5, 2));
    assert_eq!(
        status(slow(0xAF, &[0x9000, 1]).0),
        Status::INVALID_PARAMETER
    );
}

#[test]
fn a_range_does_not_wrap() {
    assert!(range(!0xFFF | 0x7FF & !0x800).is_none());
    assert!(range(0xFFFF_FFFF_FFFF_F000).is_some(), "the last page");
    assert!(range(0xFFFF_FFFF_FFFF_F001).is_none());
    assert!(
        range(0xFFFF_FFFF_FFE0_0800).is_some(),
        "the last large page"
    );
    assert!(range(0xFFFF_FFFF_FFE0_0801).is_none());
}

#[test]
fn l2_calls_are_decoded_with_its_own_addresses() {
    let ram = Ram::new(0x3000);
    ram.put(AT, &[0x1000, 0, 3, 0x5000]);
    let registers = Registers {
        rcx: 3 | 1 << 32,
        rdx: AT,
        ..Registers::default()
    };
    let outcome: Outcome<Gpa2> = decode(EVERY, &KERNEL, &registers, &ram, &ELSEWHERE);
    let Outcome::Perform(Request::FlushVirtual(flush), _) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(flush.targets, VpSet::mask(3));
    assert!(DIRECT_FLUSHES.contains(&CallCode(KERNEL.control(&registers).code())));
    assert!(
        DIRECT_FLUSHES
            .iter()
            .all(|code| Definition::of(*code).is_some())
    );
}
