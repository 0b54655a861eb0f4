//! Direct flush: L2's flush hypercalls, which L0 answers in L1's stead.

use ::vmx::BasicExitReason as Reason;
use ::vmx::Field;
use ::vmx::ept::Access;
use tlfs::cpuid::HYPERVISOR_RANGE_FIRST;
use tlfs::evmcs;
use tlfs::page::assist as page;

use crate::rt::harness::Check;
use crate::rt::{cpu, memory, smp};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, assist};

use super::call::{FAST, banks, reps};

/// The exit after a flush while L1 holds L2's TLB locked.
const TRAP_AFTER_FLUSH: Outcome = Outcome::Exit(0x1000_0031);
const VM: u64 = 0x77;

/// Whether leaf 10 has direct flush.
pub fn is_offered() -> bool {
    cpu::cpuid(HYPERVISOR_RANGE_FIRST + 10, 0)[0] & 1 << 17 != 0
}

/// An L2 whose flushes are L0's, with its partition assist page.
pub struct Delegated {
    /// The L2.
    pub l2: L2,
    /// Where TlbLockCount is.
    pub lock: u64,
    code: u64,
}

impl Delegated {
    /// Virtual processor `vp` of the machine `VM`, which runs `code`: a VMCALL first.
    pub fn new(vp: u32, code: u64) -> Self {
        let this = Self {
            l2: L2::new(code),
            lock: memory::page(),
            code,
        };
        this.delegate(true);
        let field = |offset: u16| this.l2.page + u64::from(offset);
        memory::write(field(evmcs::VP_ID), vp);
        memory::write(field(evmcs::VM_ID), VM);
        memory::write(field(evmcs::PARTITION_ASSIST_PAGE), this.lock);
        memory::write(assist::page() + page::NESTED_CONTROL, 1u32);
        this
    }

    /// Sets or clears NestedFlushVirtualHypercall.
    pub fn delegate(&self, on: bool) {
        let at = self.l2.page + u64::from(evmcs::ENLIGHTENMENTS_CONTROL);
        memory::write(at, u32::from(on));
    }

    /// Has the L2 make a call, and gives how it came back to L1 and the call's result, if L0
    /// answered it: L2 goes on to a VMCALL of its own then.
    pub fn call(&mut self, control: u64, input: u64, second: u64) -> (Outcome, Option<u64>) {
        self.l2.set_code(self.code);
        self.l2.registers[reg::RCX] = control;
        self.l2.registers[reg::RDX] = input;
        self.l2.registers[reg::R8] = second;
        let outcome = self.l2.run();
        let is_answered = self.l2.get(Field::GUEST_RIP) != self.code;
        let result = is_answered.then_some(self.l2.registers[reg::R11]);
        (outcome, result)
    }

    /// The same with its input in a page.
    pub fn call_with(&mut self, control: u64, input: &[u64]) -> (Outcome, Option<u64>) {
        let page = memory::page();
        for (at, word) in (page..).step_by(8).zip(input) {
            memory::write(at, *word);
        }
        self.call(control, page, 0)
    }
}

/// A call, and then one that is L1's.
pub fn caller() -> u64 {
    code!("vmcall", "mov r11, rax", "xor ecx, ecx", "vmcall")
}

/// L0 answered with this.
pub const fn answered(result: u64) -> (Outcome, Option<u64>) {
    (Outcome::exit(Reason::Vmcall), Some(result))
}

/// The call came to L1.
const REFLECTED: (Outcome, Option<u64>) = (Outcome::exit(Reason::Vmcall), None);

/// L1 delegates by two words, and only the flushes.
pub fn delegation(check: &Check) {
    let mut l2 = Delegated::new(0, caller());
    let flush = [0, 3, 0];
    check.equal("delegated", l2.call_with(2, &flush), answered(0));
    l2.delegate(false);
    check.equal("not by the eVMCS", l2.call_with(2, &flush), REFLECTED);
    l2.delegate(true);
    check.equal("again", l2.call_with(2, &flush), answered(0));
    let control = assist::page() + page::NESTED_CONTROL;
    memory::write(control, 0u32);
    check.equal("not by the assist page", l2.call_with(2, &flush), REFLECTED);
    memory::write(control, 1u32);
    check.equal("again", l2.call_with(2, &flush), answered(0));
    for code in [0, 1, 8, 0xb, 0x15, 0xaf, 0xb0, 0x8001] {
        check.equal(
            format_args!("{code:#x} is L1's"),
            l2.call_with(code, &flush),
            REFLECTED,
        );
    }
}

/// Each of the calls, in each of its forms.
pub fn calls(check: &Check) {
    let mut l2 = Delegated::new(0, caller());
    check.equal("space", l2.call_with(2, &[0, 0, 1]), answered(0));
    check.equal(
        "list",
        l2.call_with(3 | reps(3), &[0, 0, 1, 0x1000, 0x2000, 0x3fff]),
        answered(3 << 32),
    );
    check.equal(
        "large pages",
        l2.call_with(3 | reps(1), &[0, 8, 1, 1 << 30 | 1 << 11]),
        answered(1 << 32),
    );
    check.equal(
        "space, sparse set",
        l2.call_with(0x13 | banks(2), &[0, 0, 0, 0b11, 1, 1]),
        answered(0),
    );
    check.equal(
        "VPs that L1 has not",
        l2.call_with(0x13 | banks(1), &[0, 0, 0, 1 << 63, 1]),
        answered(0),
    );
    check.equal(
        "list, sparse set",
        l2.call_with(0x14 | banks(1) | reps(1), &[0, 0, 0, 1, 1, 0x1000]),
        answered(1 << 32),
    );
    check.equal("a bad flag", l2.call_with(2, &[0, 64, 1]), answered(5));
    check.equal(
        "a list without elements",
        l2.call_with(3, &[0, 0, 1]),
        answered(3),
    );
    check.equal("unaligned", l2.call(2, 0x1004, 0), answered(4));
    // What is in this processor's vector registers is L2's: L1 set them before.
    let fast = l2.call(0x13 | FAST, 0, 3);
    check.that(
        "in registers",
        fast.1.is_some_and(|result| [0, 3, 5].contains(&result)),
        format_args!("{fast:x?}"),
    );
}

/// The input lies in L2's memory, wherever L1 has put that.
pub fn input(check: &Check) {
    let mut l2 = Delegated::new(0, caller());
    let (here, there) = (memory::page(), memory::page());
    memory::write(here + 8, 64u64);
    check.equal("where L2 has it", l2.call(2, here, 0), answered(5));
    l2.l2.clear();
    l2.l2.ept.map(here, there, Access::RWX);
    let _ = crate::vm::instruction::invept(2, 0);
    check.equal("where L1 has moved it", l2.call(2, here, 0), answered(0));
    memory::write(there + 8, 64u64);
    check.equal("which is read anew", l2.call(2, here, 0), answered(5));
    l2.l2.ept.unmap(here);
    let _ = crate::vm::instruction::invept(2, 0);
    check.equal("where L2 has nothing", l2.call(2, here, 0), answered(3));
    l2.l2.ept.map(here, 0xfee0_0000, Access::RWX);
    let _ = crate::vm::instruction::invept(2, 0);
    check.equal("where L1 has no memory", l2.call(2, here, 0), answered(3));
    check.equal("beyond all", l2.call(2, 1 << 50, 0), answered(3));
}

/// TlbLockCount, and a partition assist page that is none.
pub fn lock(check: &Check) {
    let code = caller();
    let mut l2 = Delegated::new(0, code);
    let flush = [0, 3, 0];
    check.equal("not locked", l2.call_with(2, &flush), answered(0));
    memory::write(l2.lock, 1u32);
    let (outcome, _) = l2.call_with(2, &flush);
    check.equal("locked", outcome, TRAP_AFTER_FLUSH);
    check.equal("behind the VMCALL", l2.l2.get(Field::GUEST_RIP), code + 3);
    check.equal("with its result", l2.l2.registers[reg::RAX], 0);
    check.equal("qualification", l2.l2.get(Field::EXIT_QUALIFICATION), 0);
    check.equal(
        "no event",
        l2.l2.get(Field::EXIT_INTERRUPTION_INFO) >> 31,
        0,
    );
    check.equal("goes on", l2.l2.run(), Outcome::exit(Reason::Vmcall));
    let (outcome, _) = l2.call_with(2, &[0, 64, 0]);
    check.equal("after a failure, too", outcome, TRAP_AFTER_FLUSH);
    check.equal("with its status", l2.l2.registers[reg::RAX], 5);
    memory::write(l2.lock, 0u32);
    check.equal("not locked again", l2.call_with(2, &flush), answered(0));
    let at = l2.l2.page + u64::from(evmcs::PARTITION_ASSIST_PAGE);
    memory::write(at, 0xfee0_0000u64);
    check.equal("no assist page", l2.call_with(2, &flush), answered(3));
    memory::write(at, l2.lock);
    check.equal("there again", l2.call_with(2, &flush), answered(0));
}

/// Words that both processors share: a counter, whether to stop, whether the L2 is made.
const STOP: u64 = 8;
const READY: u64 = 16;

fn second(shared: u64) {
    let code = code!(
        "2: inc qword ptr [rbx]",
        "cmp qword ptr [rbx + 8], 0",
        "je 2b",
        "xor ecx, ecx",
        "vmcall"
    );
    let mut l2 = Delegated::new(1, code);
    memory::write(shared + READY, 1u64);
    l2.l2.registers[reg::RBX] = shared;
    let outcome = l2.l2.run();
    memory::write(
        shared + READY,
        u64::from(outcome == Outcome::exit(Reason::Vmcall)) + 1,
    );
    crate::vm::operation::leave();
}

/// Two processors of one machine, one of which runs while the other flushes both.
pub fn processors(check: &Check) {
    if !smp::ensure() {
        return check.that("a second processor", false, "does not start");
    }
    let shared = memory::page();
    let mut l2 = Delegated::new(0, caller());
    let inputs: [u64; 3] = [[0, 3, 0], [0, 0, 2], [0, 0, 3]].map(|input: [u64; 3]| {
        let page = memory::page();
        for (at, word) in (page..).step_by(8).zip(input) {
            memory::write(at, word);
        }
        page
    });
    smp::begin(second, shared);
    let is_made = smp::wait_for(|| memory::read::<u64>(shared) > 1000);
    check.that("the second's L2 runs", is_made, "it does not");
    let (mut good, mut moved) = (0, 0);
    for i in 0..300 {
        let before = memory::read::<u64>(shared);
        good += u32::from(l2.call(2, inputs[i % 3], 0) == answered(0));
        // It goes on behind the flush.
        let goes_on = smp::wait_for(|| memory::read::<u64>(shared) > before + 1);
        moved += u32::from(goes_on);
    }
    memory::write(shared + STOP, 1u64);
    check.equal("the second ends", smp::finish(), Some(Ok(())));
    check.equal("flushes that L0 answered", good, 300);
    check.equal("after which the other went on", moved, 300);
    check.equal(
        "and left L2 only to end",
        memory::read::<u64>(shared + READY),
        2,
    );
}
