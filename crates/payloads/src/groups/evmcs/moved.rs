//! An L2 processor that moves between L1's VPs as KVM moves its own: VMCLEAR where it was, then an
//! entry elsewhere.

use ::vmx::Field;

use super::RUNS;
use crate::rt::harness::Check;
use crate::rt::{memory, smp};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, operation};

/// An L2 on its way, and what came of its run on the other VP.
struct Traveller {
    l2: L2,
    outcome: Option<Outcome>,
}

/// Enters from where this VP is, with every clean bit set: what L0 has of this page is from before.
fn enter_here(l2: &mut L2, stack: u64, launch: bool) -> Outcome {
    l2.skip_instruction();
    l2.set_host();
    l2.store(Field::GUEST_RSP, stack);
    memory::write(l2.clean_fields(), 0xffffu32);
    l2.enter(launch)
}

fn run_elsewhere(traveller: u64) {
    // SAFETY: the first processor waits for this one and does not touch it meanwhile.
    let traveller = unsafe { &mut *(traveller as *mut Traveller) };
    let _ = operation::enter();
    traveller.outcome = Some(enter_here(&mut traveller.l2, 0x2000, true));
    traveller.l2.clear();
    operation::leave();
}

/// Each VP reads the page anew and goes on where the other left off.
pub fn between_vps(check: &Check) {
    if !smp::ensure() {
        return check.that("a second processor", false, "does not start");
    }
    let mut traveller = Traveller {
        l2: L2::new(code!("2: inc rbx", "mov rax, rsp", "vmcall", "jmp 2b")),
        outcome: None,
    };
    check.equal("at first", traveller.l2.run(), RUNS);
    for round in 0..4u64 {
        traveller.l2.clear();
        let at = &raw mut traveller as u64;
        check.equal("the other VP", smp::run(run_elsewhere, at), Some(Ok(())));
        let l2 = &mut traveller.l2;
        check.equal("runs it", traveller.outcome.take(), Some(RUNS));
        check.equal("with its RSP", l2.registers[reg::RAX], 0x2000);
        let outcome = enter_here(l2, 0x3000 + round, round % 2 == 0);
        check.equal("and back", outcome, RUNS);
        check.equal("its RSP again", l2.registers[reg::RAX], 0x3000 + round);
        check.equal("its counter", l2.registers[reg::RBX], 3 + 2 * round);
    }
}
