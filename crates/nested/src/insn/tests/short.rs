//! The short way of VMREAD and VMWRITE does what the general one does.

use super::*;

/// RAX, RBX and the outcome of an instruction, in code that takes the short
/// way, or (conforming) that does not.
fn outcome(
    nested: &Nested,
    reason: R,
    rax: u64,
    rbx: u64,
    conforming: bool,
) -> (Nested, [u64; 2], Outcome) {
    let mut nested = nested.clone();
    let mut vp = Vp::new();
    vp.conforming = conforming;
    vp.with_registers(rax, rbx);
    let outcome = execute(&mut nested, &mut vp, reason);
    (nested, [vp.gprs[0], vp.gprs[3]], outcome)
}

/// An instruction by whichever way it takes.
fn execute(nested: &mut Nested, vp: &mut Vp, reason: R) -> Outcome {
    if nested.access_shortly(vp, reason) {
        SUCCEED
    } else {
        nested.execute(vp, reason)
    }
}

fn assert_same_both_ways(nested: &Nested, reason: R, rax: u64, rbx: u64) {
    let (short, gprs, result) = outcome(nested, reason, rax, rbx, false);
    let general = outcome(nested, reason, rax, rbx, true);
    assert_eq!(
        (gprs, result),
        (general.1, general.2),
        "{reason:?} {rbx:#x}"
    );
    let (a, b) = (short.vmcs12(), general.0.vmcs12());
    assert!(a.bytes() == b.bytes(), "{reason:?} {rbx:#x}");
}

#[test]
fn for_every_encoding() {
    let (mut nested, _) = current();
    for (n, byte) in nested.vmcs12.bytes_mut().iter_mut().enumerate() {
        *byte = n as u8 ^ 0x5a;
    }
    for encoding in 0..0x7000 {
        // Whole groups of encodings without a field need not all be tried.
        if encoding & 0x3c0 == 0 || encoding % 61 == 0 {
            assert_same_both_ways(&nested, R::Vmread, 0, encoding);
            assert_same_both_ways(&nested, R::Vmwrite, 0x1234_5678_9abc_def0, encoding);
        }
    }
    for beyond in [1 << 15, 1 << 31, 1 << 32, 1 << 63] {
        let rip = u64::from(Field::GUEST_RIP.encoding());
        assert_same_both_ways(&nested, R::Vmread, 0, rip | beyond);
        assert_same_both_ways(&nested, R::Vmwrite, 0, rip | beyond);
    }
}

#[test]
fn only_for_ring_0() {
    for conforming in [false, true] {
        let (mut nested, mut vp) = current();
        vp.with_registers(0, Field::GUEST_RIP.encoding().into());
        vp.cpl = 3;
        vp.conforming = conforming;
        assert_eq!(execute(&mut nested, &mut vp, R::Vmread), GP);
        assert_eq!(execute(&mut nested, &mut vp, R::Vmwrite), GP);
    }
}

#[test]
fn invvpid_says_nothing_or_what_the_long_way_does() {
    let mut taken = 0;
    for kind in [0, 1, 2, 3, 1 << 32 | 1] {
        for vpid in [0u64, 1, 0xffff, 0x1_0000, 1 << 63] {
            // RAX as base or none, RCX as index or none, DS or FS, 64-bit or 32-bit address.
            for info in [
                3 << 28 | 1 << 22 | 3 << 15 | 2 << 7,
                3 << 28 | 1 << 27 | 1 << 22 | 3 << 15 | 2 << 7,
                3 << 28 | 1 << 18 | 3 << 15 | 2 << 7,
                3 << 28 | 1 << 22 | 4 << 15 | 2 << 7,
                3 << 28 | 1 << 22 | 3 << 15 | 1 << 7,
            ] {
                for at in [OPERAND, OPERAND + 8, HOLE, 1 << 50] {
                    for (cpl, conforming, is_long) in [
                        (0, false, true),
                        (3, false, true),
                        (0, true, true),
                        (0, false, false),
                    ] {
                        let (mut nested, mut vp) = current();
                        vp.poke(OPERAND, &vpid.to_le_bytes());
                        vp.info = InstructionInfo::from_raw(info);
                        vp.gprs[3] = kind;
                        vp.gprs[0] = at - 0x10;
                        vp.displacement = 0x10;
                        (vp.cpl, vp.conforming, vp.is_long) = (cpl, conforming, is_long);
                        if let Some(wanted) = nested.invvpid_shortly(&vp) {
                            taken += 1;
                            let outcome = nested.execute(&mut vp, R::Invvpid);
                            assert_eq!(outcome, Outcome::Invvpid(wanted), "{info:#x} {at:#x}");
                        }
                    }
                }
            }
        }
    }
    // One VPID of two, all of three.
    assert_eq!(taken, 2 + 3);
}
