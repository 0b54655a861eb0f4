//! L1's calls with their input in registers.

use core::arch::asm;

use crate::rt::fault::{Fault, attempt};
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};

use super::call::{FAST, banks, call, done, features, reps};
use super::slow::arrived;

const VECTOR: u8 = 0x59;
/// CR4.OSFXSR.
const CR4_OSFXSR: u64 = 1 << 9;

/// Input of at most 14 words; in the registers past its end is rubbish.
fn with_vectors(control: u64, input: &[u64], task_switched: bool) -> Result<u64, Fault> {
    let mut words = [0xdead_dead_dead_deadu64; 14];
    words[..input.len()].copy_from_slice(input);
    let mut after = [0u64; 12];
    let cr4 = cpu::cr4();
    cpu::set_cr4(cr4 | CR4_OSFXSR)?;
    let set = if task_switched { cpu::CR0_TS } else { 0 };
    let result = attempt(|| {
        let result: u64;
        // SAFETY: the payload itself uses no vector registers; both arrays are as long as six of
        // them.
        unsafe {
            asm!(
                "movdqu xmm0, [{words}]",
                "movdqu xmm1, [{words} + 16]",
                "movdqu xmm2, [{words} + 32]",
                "movdqu xmm3, [{words} + 48]",
                "movdqu xmm4, [{words} + 64]",
                "movdqu xmm5, [{words} + 80]",
                "mov {old}, cr0",
                "or {set}, {old}",
                "mov cr0, {set}",
                "vmcall",
                "mov cr0, {old}",
                "movdqu [{after}], xmm0",
                "movdqu [{after} + 16], xmm1",
                "movdqu [{after} + 32], xmm2",
                "movdqu [{after} + 48], xmm3",
                "movdqu [{after} + 64], xmm4",
                "movdqu [{after} + 80], xmm5",
                words = in(reg) words[2..].as_ptr(),
                after = in(reg) after.as_mut_ptr(),
                set = inout(reg) set => _,
                old = out(reg) _,
                in("rcx") control | FAST,
                in("rdx") words[0],
                in("r8") words[1],
                out("rax") result,
            );
        }
        result
    });
    let _ = cpu::set_cr4(cr4);
    assert!(
        result.is_err() || after[..] == words[2..],
        "the registers have changed"
    );
    result
}

/// Calls that the general registers hold.
pub fn two_words(check: &Check) {
    let before = arrived(VECTOR);
    let vector = u64::from(VECTOR);
    check.equal("an IPI", call(0xb | FAST, vector, 1), Ok(0));
    check.equal("came", arrived(VECTOR), before + 1);
    check.equal("a long spin wait", call(8 | FAST, 100, 0), Ok(0));
    let root = memory::page();
    check.equal("a flush of a space", call(0xaf | FAST, root, 0), Ok(0));
    check.equal("with a flag", call(0xaf | FAST, root, 1), Ok(5));
}

/// Calls that go on in vector registers.
pub fn vector_registers(check: &Check) {
    if features() & 1 << 4 == 0 {
        return check.equal(
            "what is not offered is undefined",
            call(2 | FAST, 0, 1),
            Err(Fault::UD),
        );
    }
    let before = arrived(VECTOR);
    let vector = u64::from(VECTOR);
    let ipi = [vector, 0, 1, 1];
    check.equal(
        "an IPI to a set",
        with_vectors(0x15 | banks(1), &ipi, false),
        Ok(0),
    );
    check.equal("came", arrived(VECTOR), before + 1);
    check.equal(
        "with CR0.TS set",
        with_vectors(0x15 | banks(1), &ipi, true),
        Ok(0),
    );
    check.equal("came", arrived(VECTOR), before + 2);
    // Twelve words in vector registers: the last bank alone is not empty.
    let mut sparse = [0; 14];
    sparse[..3].copy_from_slice(&[vector, 0, 0x7ff]);
    check.equal(
        "eleven banks",
        with_vectors(0x15 | banks(11), &sparse, false),
        Ok(0),
    );
    check.equal("to nobody", arrived(VECTOR), before + 2);
    sparse[3] = 1;
    check.equal(
        "eleven banks",
        with_vectors(0x15 | banks(11), &sparse, false),
        Ok(0),
    );
    check.equal("one of them this VP's", arrived(VECTOR), before + 3);
    check.equal(
        "12 banks do not fit",
        call(0x15 | FAST | banks(12), vector, 0),
        Ok(3),
    );
    check.equal("a flush", with_vectors(2, &[0, 0, 1], false), Ok(0));
    check.equal(
        "with a bad flag",
        with_vectors(2, &[0, 32, 1], false),
        Ok(5),
    );
    check.equal(
        "of a list",
        with_vectors(3 | reps(11), &[0, 0, 1, 0x1000, 0x2000], false),
        done(11),
    );
    check.equal(
        "a list of 12",
        with_vectors(3 | reps(12), &[0, 0, 1], false),
        Ok(3),
    );
    check.equal(
        "a set and a list",
        with_vectors(
            0x14 | banks(1) | reps(2),
            &[0, 2, 0, 1, 3, 0x1000, 0x2000],
            false,
        ),
        done(2),
    );
    let root = memory::page();
    let bad = 1 << 13 | 1 << 11;
    check.equal(
        "physical ranges, the third of them bad",
        with_vectors(0xb0 | reps(3), &[root, 0, 0x1000, 0x2000, bad], false),
        Ok(2 << 32 | 5),
    );
}
