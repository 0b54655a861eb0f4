//! Direct flush by L2s of 32 bits, and by those that may not call.

use ::vmx::{
    AccessRights, BasicExitReason as Reason, EntryControls, Field, InterruptionInfo,
    SecondaryControls,
};

use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome};

use super::call::reps;
use super::direct::{Delegated, answered};

/// A call, and then one that is L1's; the same bytes in every mode.
fn caller() -> u64 {
    code!(
        "vmcall",
        "mov esi, eax",
        "mov edi, edx",
        "xor eax, eax",
        "vmcall"
    )
}

/// Makes it an L2 in protected mode without paging. Returns whether it can be.
fn unpage(l2: &L2) -> bool {
    if !l2.has_secondary(SecondaryControls::UNRESTRICTED_GUEST) {
        return false;
    }
    l2.use_secondary(SecondaryControls::UNRESTRICTED_GUEST);
    l2.modify(Field::GUEST_CR0, 0, cpu::CR0_PG);
    let long = u64::from(EntryControls::IA32E_MODE_GUEST.bits());
    l2.modify(Field::ENTRY_CONTROLS, 0, long);
    l2.set(Field::GUEST_EFER, 0);
    let code = AccessRights::CODE32.raw();
    l2.set(Field::GUEST_CS_ACCESS_RIGHTS, u64::from(code));
    true
}

/// Descriptor privilege level 3 for code and stack.
fn unprivilege(l2: &L2) {
    const DPL_3: u64 = 3 << 5;
    for field in [
        Field::GUEST_CS_ACCESS_RIGHTS,
        Field::GUEST_SS_ACCESS_RIGHTS,
        Field::GUEST_DS_ACCESS_RIGHTS,
        Field::GUEST_ES_ACCESS_RIGHTS,
        Field::GUEST_FS_ACCESS_RIGHTS,
        Field::GUEST_GS_ACCESS_RIGHTS,
    ] {
        l2.add(field, DPL_3);
    }
    for field in [Field::GUEST_CS_SELECTOR, Field::GUEST_SS_SELECTOR] {
        l2.add(field, 3);
    }
}

/// A call by 32-bit registers: control in EDX:EAX, input in EBX:ECX.
fn call(l2: &mut Delegated, control: u64, input: u64) -> (Outcome, Option<u64>) {
    l2.l2.registers[reg::RAX] = control & 0xffff_ffff;
    l2.l2.registers[reg::RBX] = 0;
    let (outcome, answer) = l2.call(input, control >> 32, 0);
    let [low, high] = [reg::RSI, reg::RDI].map(|n| l2.l2.registers[n]);
    (outcome, answer.map(|_| high << 32 | low))
}

/// A caller of 32 bits.
pub fn protected(check: &Check) {
    let mut l2 = Delegated::new(0, caller());
    if !unpage(&l2.l2) {
        return check.skip("all", "no unrestricted guest");
    }
    let page = memory::page();
    for (at, word) in (page..).step_by(8).zip([0u64, 3, 0, 0x1000, 0x2000]) {
        memory::write(at, word);
    }
    check.equal("space", call(&mut l2, 2, page), answered(0));
    check.equal("list", call(&mut l2, 3 | reps(2), page), answered(2 << 32));
    check.equal("no elements", call(&mut l2, 3, page), answered(3));
    check.equal("unaligned", call(&mut l2, 2, page + 2), answered(4));
    let (outcome, answer) = call(&mut l2, 0xb, page);
    check.equal("another code", outcome, Outcome::exit(Reason::Vmcall));
    check.equal("is L1's", answer, None);
}

/// Who may not call gets #UD, though L1 delegates.
pub fn privilege(check: &Check) {
    let page = memory::page();
    let is_refused = |l2: &mut Delegated, name: &str| {
        l2.l2.set(Field::EXCEPTION_BITMAP, 1 << 6);
        let (outcome, answer) = call(l2, 2, page);
        check.equal(name, outcome, Outcome::exit(Reason::ExceptionOrNmi));
        let info = InterruptionInfo::from_raw(l2.l2.get(Field::EXIT_INTERRUPTION_INFO) as u32);
        check.equal("#UD", info.vector(), 6);
        check.equal("at the VMCALL", answer, None);
    };
    let mut user = Delegated::new(0, caller());
    if !unpage(&user.l2) {
        return check.skip("all", "no unrestricted guest");
    }
    unprivilege(&user.l2);
    is_refused(&mut user, "CPL 3");
    // Not intercepted, it is L2's own: its handlers do VMCALL, in whatever mode they find.
    let mut real = Delegated::new(0, caller());
    unpage(&real.l2);
    real.l2.modify(Field::GUEST_CR0, 0, 1);
    is_refused(&mut real, "real mode");
}
