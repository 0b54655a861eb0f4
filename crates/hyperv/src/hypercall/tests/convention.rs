//! The calling convention's rules, each for every call.

use super::*;
use crate::clock::Tsc;
use crate::config::Config;
use crate::partition::PartitionState;
use crate::testing::CONFIG;
use proptest::prelude::*;
use std::vec::Vec;

#[test]
fn every_call_has_right_input() {
    for call in &CALLS {
        let (outcome, _) = slow(control_of(call), &input_of(call));
        assert!(
            matches!(outcome, Outcome::Perform(..)) != (call.what == What::LongSpinWait),
            "{call:?}: {outcome:?}"
        );
        assert!(usize::from(call.header) <= call::HEADER_MAX);
        let codes = CALLS.iter().filter(|other| other.code == call.code);
        assert_eq!(codes.count(), 1, "{call:?} is defined twice");
    }
}

#[test]
fn only_the_kernel_calls() {
    let ram = Ram::new(0x3000);
    let registers = Registers {
        rcx: 8,
        rdx: AT,
        ..Registers::default()
    };
    let outcome = |mode, cpl| {
        let protected = Registers {
            rax: 8,
            rcx: AT,
            ..Registers::default()
        };
        let registers = if mode == Mode::Long {
            registers
        } else {
            protected
        };
        decode::<Gpa1>(EVERY, &Caller { mode, cpl }, &registers, &ram, &ELSEWHERE)
    };
    for cpl in 1..4 {
        assert_eq!(outcome(Mode::Long, cpl), Outcome::Undefined);
        assert_eq!(outcome(Mode::Protected, cpl), Outcome::Undefined);
    }
    assert_eq!(outcome(Mode::Real, 0), Outcome::Undefined);
    assert_eq!(outcome(Mode::Long, 0), Outcome::Done(ResultWord::new()));
    assert_eq!(
        outcome(Mode::Protected, 0),
        Outcome::Done(ResultWord::new())
    );
}

#[test]
fn without_identity_or_hv1_there_are_no_calls() {
    let ram = Ram::new(0x3000);
    let registers = Registers {
        rcx: 8,
        rdx: AT,
        ..Registers::default()
    };
    let outcome = |enlightenments, guest_os_id| {
        let config = Config {
            enlightenments,
            ..CONFIG
        };
        let state = PartitionState {
            guest_os_id,
            ..PartitionState::default()
        };
        let partition = Partition::restore(config, &state, Tsc(0)).unwrap();
        partition.hypercall(&KERNEL, &registers, &ram, &ELSEWHERE)
    };
    assert_eq!(outcome(Set::ALL, 0), Outcome::Undefined);
    assert_eq!(outcome(Set::NONE, 1), Outcome::Undefined);
    assert_eq!(outcome(Set::ALL, 1), Outcome::Done(ResultWord::new()));
}

#[test]
fn unknown_codes_and_denied_calls() {
    let ram = Ram::new(0x3000);
    for code in (0..=0xFFFF).filter(|code| Definition::of(CallCode(*code)).is_none()) {
        assert_eq!(
            status(call(code.into(), AT, 0, &ram)),
            Status::INVALID_HYPERCALL_CODE
        );
    }
    for call in CALLS
        .iter()
        .filter(|call| call.needs != Enlightenment::Base)
    {
        let registers = Registers {
            rcx: control_of(call),
            rdx: AT,
            ..Registers::default()
        };
        let outcome = decode(
            EVERY.without(call.needs),
            &KERNEL,
            &registers,
            &ram,
            &ELSEWHERE,
        );
        assert_eq!(status(outcome), Status::ACCESS_DENIED, "{call:?}");
    }
}

#[test]
fn the_control_word_has_rules() {
    for call in &CALLS {
        let good = control_of(call);
        let bad = |control| {
            let (outcome, _) = slow(control, &input_of(call));
            assert_eq!(
                status(outcome),
                Status::INVALID_HYPERCALL_INPUT,
                "{call:?} {control:#x}"
            );
        };
        for bit in (27..32).chain(44..48).chain(60..64) {
            bad(good | 1 << bit);
        }
        if call.list {
            bad(good & !(0xFFF << 32));
            bad(good | 1 << 48);
            bad(good | 0xFFF << 48);
        } else {
            bad(good | 1 << 32);
            bad(good | 1 << 48);
        }
        // A variable header where there is none, or not what the mask says.
        bad(good | 1 << 17);
    }
}

#[test]
fn input_is_aligned_and_in_one_page() {
    let ram = Ram::new(0x3000);
    for definition in &CALLS {
        let control = control_of(definition);
        let bytes = 8 * u64::from(definition.header) + 8 * u64::from(definition.list);
        ram.put(0x2000 - bytes, &input_of(definition)[..bytes as usize / 8]);
        let outcome = |at| call(control, at, 0, &ram);
        let last = outcome(0x2000 - bytes);
        assert!(
            !matches!(last, Outcome::Done(word) if word.status() != 0),
            "{definition:?}: {last:?}"
        );
        for at in [0x2000 - bytes + 8, 0x1001, 0x1004, 0x1FFF] {
            if definition.header > 1 || at % 8 != 0 {
                assert_eq!(
                    status(outcome(at)),
                    Status::INVALID_ALIGNMENT,
                    "{definition:?} {at:#x}"
                );
            }
        }
        for outside in [0x3000, 1 << 60, !0xFFF] {
            assert_eq!(status(outcome(outside)), Status::INVALID_HYPERCALL_INPUT);
        }
    }
}

#[test]
fn a_list_fits_its_page() {
    let most = 510;
    let (request, reply, _) = request(0xB0 | most << 32, &[0x5000, 0]);
    let Request::FlushGuestPhysical(FlushGuestPhysical {
        ranges: Some(list), ..
    }) = request
    else {
        panic!("{request:?}");
    };
    assert_eq!(list.count(), 510);
    assert_eq!(reply.success().into_bits(), 510 << 32);
    let (outcome, _) = slow(0xB0 | (most + 1) << 32, &[0x5000, 0]);
    assert_eq!(status(outcome), Status::INVALID_ALIGNMENT);
}

#[test]
fn callers_of_32_bits_use_pairs() {
    let caller = Caller {
        mode: Mode::Protected,
        cpl: 0,
    };
    let garbage = 0xDEAD_0000_0000_0000;
    let mut registers = Registers {
        rax: garbage | 0x1_000B,
        rdx: garbage,
        rbx: garbage,
        rcx: garbage | 0x30,
        rdi: garbage | 1,
        rsi: garbage | 2,
        r8: garbage,
    };
    let ipi = SendIpi {
        vector: 0x30,
        targets: VpSet::mask(1 << 32 | 2),
    };
    let outcome = decode::<Gpa1>(EVERY, &caller, &registers, &Ram::new(0), &ELSEWHERE);
    let Outcome::Perform(request, _) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(request, Request::SendIpi(ipi));
    let before = registers;
    caller.end(
        ResultWord::after_reps(Status::INVALID_PARAMETER, 3),
        &mut registers,
    );
    assert_eq!(
        registers,
        Registers {
            rax: 5,
            rdx: 3,
            ..before
        }
    );
    KERNEL.end(
        ResultWord::after_reps(Status::INVALID_PARAMETER, 3),
        &mut registers,
    );
    assert_eq!(
        registers,
        Registers {
            rax: 3 << 32 | 5,
            rdx: 3,
            ..before
        }
    );
}

proptest! {
    // Whatever the registers and the memory hold, decoding ends, lists stay in
    // their page, and a failure has reported nothing as done.
    #[test]
    fn no_input_is_trouble(
        code in prop_oneof![prop::sample::select(&[2u64, 3, 8, 0xB, 0x13, 0x14, 0x15, 0xAF, 0xB0][..]), any::<u64>()],
        high: u64, shift in 16..64u32, at in prop_oneof![0..0x3000u64, any::<u64>()],
        words in proptest::collection::vec(any::<u64>(), 64), sparse: u64,
    ) {
        let ram = Ram::new(0x3000);
        let words: Vec<u64> = words.iter().map(|word| word & sparse).collect();
        ram.put(at & 0x2FFF & !7, &words[..64.min((0x3000 - (at & 0x2FFF & !7)) as usize / 8)]);
        match call(code | high.checked_shl(shift).unwrap_or(0), at & !7, high, &ram) {
            Outcome::Perform(Request::FlushVirtual(_), _) => {}
            Outcome::Perform(Request::FlushGuestPhysical(flush), _) => if let Some(list) = flush.ranges {
                prop_assert!(list.elements(&ram, &ELSEWHERE).count() <= usize::from(list.count()));
            },
            Outcome::Perform(Request::SendIpi(ipi), _) => prop_assert!(ipi.vector >= 16),
            Outcome::Done(word) => prop_assert!(word.reps_completed() == 0),
            Outcome::Undefined => {}
        }
    }
}
