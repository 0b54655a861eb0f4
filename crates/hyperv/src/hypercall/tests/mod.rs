//! What the tests of this folder share.

extern crate std;
mod convention;
mod fast;
mod requests;
mod usual;

use super::call::CALLS;
use super::*;
use crate::enlightenments::Enlightenment;
use crate::testing::Ram;

const EVERY: Set = Set::ALL
    .with(Enlightenment::GpaFlush)
    .with(Enlightenment::TlbFlush)
    .with(Enlightenment::Ipi);

const KERNEL: Caller = Caller {
    mode: Mode::Long,
    cpl: 0,
};

/// Where the tests put their input.
const AT: u64 = 0x1000;

/// Vector registers with these words.
struct Vectors([u64; XMM_WORDS]);

impl VectorRegisters for Vectors {
    fn xmm(&self) -> [u64; XMM_WORDS] {
        self.0
    }
}

/// Those of a call that has its input elsewhere: the words mean nothing.
const ELSEWHERE: Vectors = Vectors([0xDEAD_DEAD_DEAD_DEAD; XMM_WORDS]);

fn call(control: u64, first: u64, second: u64, ram: &Ram) -> Outcome<Gpa1> {
    let registers = Registers {
        rcx: control,
        rdx: first,
        r8: second,
        ..Registers::default()
    };
    decode(EVERY, &KERNEL, &registers, ram, &ELSEWHERE)
}

fn slow(control: u64, input: &[u64]) -> (Outcome<Gpa1>, Ram) {
    let ram = Ram::new(0x3000);
    ram.put(AT, input);
    (call(control, AT, 0, &ram), ram)
}

fn request(control: u64, input: &[u64]) -> (Request<Gpa1>, Reply, Ram) {
    match slow(control, input) {
        (Outcome::Perform(request, reply), ram) => (request, reply, ram),
        (other, _) => panic!("{control:#x}: {other:?}"),
    }
}

fn status(outcome: Outcome<Gpa1>) -> Status {
    match outcome {
        Outcome::Done(word) => {
            assert_eq!(word.into_bits() >> 16, 0, "nothing is done");
            Status(word.status())
        }
        other => panic!("{other:?}"),
    }
}

/// A control word that is right for the call, with one rep if it has a list.
fn control_of(call: &Definition) -> u64 {
    u64::from(call.code.0) | u64::from(call.list) << 32
}

/// Input that is right for every call: a vector, all processors, an empty set.
fn input_of(call: &Definition) -> [u64; 8] {
    match call.what {
        What::SendIpi => [0x20, 0, 0, 0, 0, 0, 0, 0],
        What::FlushVirtual => [0x20, 1, 0, 0, 0, 0, 0, 0],
        _ => [0x2000, 0, 0, 0, 0, 0, 0, 0],
    }
}
